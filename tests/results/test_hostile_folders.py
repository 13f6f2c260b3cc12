"""Folders that may come from anywhere: what they hold is read without waiting, importing, following or believing."""

import ast
import csv
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import time
import unicodedata
import zlib
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

import gr_cli
from gr_cli.cli.main import main as gr_run_main
from gr_cli.errors import FolderError, one_line
from gr_cli.report.cli import main
from gr_cli.results.folder import RunFolder
from gr_cli.results.progress import Watcher
from gr_cli.results.stored_config import settings_of
from gr_cli.system.checksums import load_tensors, save_tensors
from gr_cli.system.reading import finite, read_json, read_table, read_yaml
from helpers.interruption import sealed
from helpers.run_folders import write_run
from helpers.situations import TINY

Report = Callable[..., tuple[int, str, str]]
Harm = Callable[[Path], object]


@pytest.fixture
def gr_report(capsys: pytest.CaptureFixture[str]) -> Report:
    def call(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which a tiny run is over."""
    home = tmp_path_factory.mktemp("finished")
    with chdir(home):
        assert gr_run_main(TINY) == 0
    return home


@pytest.fixture
def folder(finished: Path) -> Path:
    """A copy of its folder."""
    shutil.copytree(finished / "outputs", "outputs")
    (status,) = Path("outputs").glob("*/*/*/status.json")
    return status.parent


# --- what may stand in the place of a file


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def listening(path: Path) -> None:
    path.unlink()
    os.mknod(path, stat.S_IFSOCK | 0o600)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def text(content: str | bytes) -> Harm:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def says(**fields: Any) -> Harm:
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def configures(name: str, value: Any) -> Harm:
    def harm(path: Path) -> None:
        config = yaml.safe_load(path.read_text())
        *groups, last = name.split(".")
        node = config
        for group in groups:
            node = node[group]
        node[last] = value
        path.write_text(yaml.safe_dump(config))

    return harm


LAUGHS = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefghi", "bcdefghij", strict=True)]
    + ["choices: {}"]
)
DEEP = "[" * 100_000
PROGRESS = {"task": 1, "tasks": 2, "iteration": 1, "iterations": 3, "done": 1, "total": 6}
FILES: list[tuple[str, Harm]] = [
    *((name, harm) for name in ("status.json", "config.yaml", "metrics.csv") for harm in (pipe, endless, emptied)),
    *((name, harm) for name in ("status.json", "config.yaml") for harm in (listening, a_folder)),
    *((name, text(content)) for name in ("status.json", "config.yaml") for content in (DEEP, "[]", "3", b"\xff\xfe")),
    ("config.yaml", text(LAUGHS)),
    ("config.yaml", text("choices: {}\nseed: " + "1:59" * 3 + ":59" * 200_000)),
    ("config.yaml", text("choices: {}\nseed: !!int " + "1:59" * 3 + ":59" * 200_000)),
    ("config.yaml", text("choices: {}\nseed: 1\nseed: 2")),
    ("config.yaml", text("choices: [1]\nseed: 1")),
    ("config.yaml", configures("seed", "one")),
    ("config.yaml", configures("seed", -1)),
    ("config.yaml", configures("seed", True)),
    ("config.yaml", configures("optimizer.lr", float("nan"))),
    ("config.yaml", configures("choices.strategy", ["finetune"])),
    ("status.json", text('{"state": "finished", "seconds": NaN}')),
    ("status.json", text('{"state": "finished", "seed": 1' + "0" * 5000 + "}")),
    ("status.json", text('{"state": "finished", "state": "failed"}')),
    ("status.json", text("{}")),
    ("status.json", says(state="of another version")),
    ("status.json", says(state=["finished"])),
    ("status.json", says(updated="2026-01-01T00:00:00")),
    ("status.json", says(started=12)),
    ("status.json", says(seconds="long")),
    ("status.json", says(seconds=-1)),
    ("status.json", says(overrides={"seed": 0})),
    ("status.json", says(overrides=[1])),
    ("status.json", says(versions=[])),
    ("status.json", says(progress=[1])),
    ("status.json", says(progress=PROGRESS | {"tasks": "2"})),
    ("status.json", says(progress={"done": 1})),
    ("status.json", says(program="one")),
    ("status.json", says(directory=["/"])),
    ("status.json", says(threads=1_000_000)),
    ("status.json", says(stores_raw_samples="no")),
    ("metrics.csv", text("metric,value\naverage_accuracy,much\n")),
    ("metrics.csv", text("metric,value\naverage_accuracy,inf\n")),
    ("metrics.csv", text("metric,value\naverage_accuracy,0.5\naverage_accuracy,0.9\n")),
    ("metrics.csv", text("metric,value,value\naverage_accuracy,0.5,0.9\n")),
    ("metrics.csv", text("metric,value\naverage_accuracy,0.5,0.9\n")),
    ("metrics.csv", text("name,number\naverage_accuracy,0.5\n")),
    ("metrics.csv", text("metric,value\naverage_accuracy,0.5\0\n")),
    ("metrics.csv", text('metric,value\n"' + "x" * 200_000 + '",0.5\n')),
    ("timing.csv", text("task,solver_seconds,peak_memory_mib\n0,quick,5\n")),
    ("timing.csv", text("task,solver_seconds\n0,1\n")),
]


@pytest.mark.parametrize(("name", "harm"), FILES)
def test_a_folder_that_can_t_be_read_is_left_out_and_the_others_are_reported(gr_report, name, harm):
    sound = write_run(Path("runs"), accuracy=0.25)
    harmed = write_run(Path("runs"), 1, accuracy=0.75)
    harm(harmed / name)
    code, out, err = gr_report("runs")
    assert code == 1
    assert err.startswith(f"gr-report: {harmed}: can't be read ({name}") or name in err, err
    assert err.count("\n") == 1 and len(err) < 500
    assert "25.00" in out and "75.00" not in out and "50.00" not in out
    code, out, err = gr_report("runs", "--watch")
    if name != "config.yaml" and name != "timing.csv":  # of which it reads nothing
        assert code == 1 and str(harmed) in out and "unreadable" in out
        assert "Traceback" not in err
    shutil.rmtree(harmed)
    assert gr_report("runs")[0] == 0 and sound.exists()


@pytest.mark.parametrize(("name", "harm"), [entry for entry in FILES if entry[0] in ("status.json", "config.yaml")])
def test_a_folder_that_can_t_be_read_is_refused_in_one_line(gr_run, folder, name, harm):
    harm(folder / name)
    for word in ("resume", "verify", "audit"):
        code, out, err = gr_run(f"{word}={folder}")
        assert (code, out) == (2, ""), err
        assert err.count("\n") == 1 and name in err and len(err) < 800
        assert "remove" not in err


@pytest.mark.parametrize("harm", [pipe, endless, emptied, listening, a_folder])
@pytest.mark.parametrize("word", ["resume", "audit"])
def test_a_checkpoint_that_is_no_file_is_refused_in_one_line(gr_run, folder, harm, word):
    harm(folder / "checkpoint.pt")
    code, _, err = gr_run(f"{word}={folder}")
    assert code == 2
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        "[]",
        "{}",
        '{"jobs": []}',
        '{"jobs": {"/etc": []}}',
        '{"jobs": {"../../..": []}}',
        '{"jobs": {"outputs/a": "seed=0"}}',
        '{"jobs": {"outputs/a": [1]}}',
        '{"jobs": {"outputs/a": NaN}}',
    ],
)
def test_a_list_of_jobs_of_wrong_shape_is_told_and_the_runs_are_reported(gr_report, content):
    write_run(Path("outputs"), accuracy=0.25)
    sweep = Path("outputs/sweeps/0a73b11d")
    sweep.mkdir(parents=True)
    (sweep / "sweep.json").write_text(content)
    code, out, err = gr_report()
    assert code == 1 and "25.00" in out
    assert err.count("\n") == 1 and str(sweep / "sweep.json") in err


def test_a_sweep_at_the_root_of_the_file_system_has_a_place_for_its_jobs(gr_report, monkeypatch):
    write_run(Path("runs"))
    Path("runs/sweep.json").write_text('{"jobs": {}}')
    monkeypatch.setattr(Path, "resolve", lambda path: Path("/runs"))
    assert gr_report("runs")[0] == 0


def test_thousands_of_nested_folders_are_not_gone_through(gr_report):
    write_run(Path("runs"), accuracy=0.25)
    home = os.getcwd()
    os.chdir("runs")
    for _ in range(1200):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(home)
    try:
        code, out, err = gr_report("runs")
    finally:
        # Too deep for shutil in this version of Python.
        os.chdir("runs")
        while os.path.isdir("d"):
            os.rename("d", "e")
            if os.path.isdir("e/d"):
                os.rename("e/d", "d")
            os.rmdir("e")
        os.chdir(home)
    assert code == 1 and "25.00" in out
    assert err.count("\n") == 1 and "levels" in err


def test_links_that_lead_round_in_circles_are_not_followed(gr_report):
    run = write_run(Path("runs"), accuracy=0.25)
    Path("runs/again").symlink_to("..", target_is_directory=True)
    (run / "again").symlink_to(".", target_is_directory=True)
    code, out, _ = gr_report("runs")
    assert code == 0 and "25.00" in out


def test_plain_values_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "file"
    path.write_text('{"a": [1, 2.5, null, true, "ä"], "b": {}}', encoding="utf-8")
    assert read_json(path) == read_yaml(path) == {"a": [1, 2.5, None, True, "ä"], "b": {}}
    path.write_text('a,b\n1,"x\ny"\n')
    assert read_table(path) == [{"a": "1", "b": "x\ny"}]
    assert finite("-1.5e3") == -1500.0
    for cell in ("nan", "inf", "1e300", "1_0", "", "x"):
        with pytest.raises(ValueError, match="is no number"):
            finite(cell)


# --- what a folder may lead to


def test_what_is_written_stays_in_the_folder(gr_run, folder, tmp_path):
    """Links of the names under which files are made are replaced, not followed."""
    before = {name: (folder / name).read_bytes() for name in ("metrics.csv", "history.csv")}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("precious")
    for name in ("config.yaml", "metrics.csv", "history.csv", "evaluations.csv", "accuracy_matrix.csv", "timing.csv"):
        (folder / f".{name}.{os.getpid()}.tmp").symlink_to(elsewhere / "precious")
        if name != "config.yaml":
            (folder / name).unlink()
            (folder / name).symlink_to(elsewhere / "precious")
    (folder / "figures" / "samples_task_0.png").symlink_to(elsewhere / "precious")
    (folder / ".other.tmp").mkdir()
    says(state="interrupted")(folder / "status.json")
    (folder / "checkpoint.pt").unlink()  # begins again
    assert gr_run(f"resume={folder}")[0] == 0
    assert (elsewhere / "precious").read_text() == "precious" and len(list(elsewhere.iterdir())) == 1
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert not (folder / "metrics.csv").is_symlink()


@pytest.mark.parametrize("name", ["figures", "tensorboard", "wandb"])
def test_a_folder_inside_that_leads_elsewhere_is_refused(gr_run, folder, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".rest.tmp").write_text("precious")
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).symlink_to(elsewhere, target_is_directory=True)
    says(state="interrupted")(folder / "status.json")
    code, _, err = gr_run(f"resume={folder}")
    assert code == 2 and err.count("\n") == 1 and "leads out of the folder" in err
    assert [path.name for path in elsewhere.iterdir()] == [".rest.tmp"]


@pytest.mark.parametrize("harm", [lambda path: path.symlink_to(path.parents[4] / "made"), os.mkfifo, Path.mkdir])
def test_a_lock_that_is_no_file_is_refused(gr_run, gr_report, folder, harm):
    (folder / ".lock").unlink()
    harm((folder / ".lock").absolute())
    says(state="running")(folder / "status.json")
    code, _, err = gr_run(f"resume={folder}")
    assert code == 2 and err.count("\n") == 1 and ".lock" in err
    assert not Path("made").exists()
    assert "killed" in gr_report(folder)[1]


def test_a_shipped_component_of_another_group_is_not_trusted(gr_run, folder):
    configures("model.hidden_sizes", [{"_target_": "gr_cli.trackers.MLflow"}])(folder / "config.yaml")
    code, _, err = gr_run(f"resume={folder}")
    assert code == 2 and "names code that is not of this program: gr_cli.trackers.MLflow" in err


@pytest.mark.parametrize(
    "differs",
    [
        {"model._target_": "my_stranger.Model"},
        {"model._target_": "gr_cli.system.files.write_text"},
        {"threads": 1_000_000},
        {"seed": 1},
        {"train": {}},
        {"nothing.of": 1},
        {"train.iterations": 4},
        [],
    ],
)
def test_the_program_that_a_state_tells_of_is_trusted_no_more_than_the_configuration(gr_run, folder, differs):
    """A checksum is easily forged: it tells of damage, and not of who wrote it."""
    state = load_tensors(folder / "checkpoint.pt")
    program = {"id": "0", "place": 0, "size": 1, "jobs": [differs]}
    save_tensors(folder / "checkpoint.pt", state | {"training": state["training"] | {"program": program}})
    code, out, err = gr_run(f"verify={folder}")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert ("names code" if "model._target_" in differs else "does not say how it was trained") in err


def test_nothing_is_imported_from_the_directory_that_a_folder_names(gr_run, folder, tmp_path, monkeypatch):
    """Python looks there first when it was started with -c."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "my_stranger.py").write_text("raise SystemExit('was imported')")
    monkeypatch.syspath_prepend("")
    says(directory=str(tmp_path / "there"))(folder / "status.json")
    sealed(folder)
    code, _, err = gr_run(f"resume={folder.absolute()}", "trust=my_stranger")
    assert code == 0, err
    configures("model._target_", "my_stranger.Model")(folder / "config.yaml")
    code, _, err = gr_run(f"resume={folder.absolute()}", "trust=my_stranger")
    assert code == 2 and "can't be imported" in err


# --- what is broken in a run that counts, and what is quoted


def broken_picture(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 100)


def larger_than_memory(path: Path) -> None:
    """A picture of 60,000 x 60,000 pixels, by its header."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    checked = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + checked)


PICTURE = "figures/samples_task_0.png"


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        (PICTURE, broken_picture),
        (PICTURE, larger_than_memory),
        (PICTURE, emptied),
        (PICTURE, os.mkfifo),
        ("history.csv", text("task,iteration,current\n0,10,much\n")),
        ("history.csv", text("task,iteration,current\n0,10,inf\n")),
        ("history.csv", text("task,iteration,current\n0,1e1,0.5\n")),
        ("history.csv", text("task,current\n0,0.5\n")),
        ("history.csv", endless),
        ("evaluations.csv", text("after_task,iteration,task,split,accuracy\n0,1,0,test,87.5\n")),
        ("accuracy_matrix.csv", text("after_task,task_0\n0,0.1\n0,0.9\n")),
        ("accuracy_matrix.csv", text("after_task,task_x\n0,0.1\n")),
        ("dreams.csv", text("after_task,task\n0,0\n")),
        ("dreams.csv", pipe),
    ],
)
def test_what_is_broken_in_one_run_does_not_cost_the_page(gr_report, name, harm):
    from PIL import Image

    for seed in range(2):
        run = write_run(Path("runs"), seed, "generative_replay")
        Image.new("RGB", (20, 20)).save(run / PICTURE)
    harmed = next(path for path in Path("runs").iterdir() if path.name.startswith("seed0"))
    if harm is os.mkfifo:
        (harmed / PICTURE).unlink()
    harm(harmed / name)
    code, _, err = gr_report("runs", "--html", "page.html")
    assert code == 1, err
    lines = [line for line in err.splitlines() if "left out" in line]
    assert len(lines) == 1 and str(harmed) in lines[0] and Path(name).name in lines[0]
    page = Path("page.html").read_text(encoding="utf-8")
    assert "left out of the charts" in page
    assert gr_report("runs")[0] == 0  # the table itself reads nothing of it


HOSTILE = [
    "x\n\\input{/etc/passwd}\\write18{id}",
    "=HYPERLINK(1)",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1+1",
    "</td><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "\x1b[2J\x1b]0;title\x07\r\x08",
    "\u202egnp.exe\u2066",
    "a & b % $ # _ { } ~ ^ \\ | `",
    "[1pt]",
    "*",
    "$\\frac{$",
    "\x7f\x85\u2028\x0b",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_what_is_quoted_is_text_in_every_table(gr_report, value):
    write_run(Path("runs"), 0)
    write_run(Path("runs"), 1, state="failed", status={"reason": value})
    quoting(Path("runs"), 2, value)
    code, out, err = gr_report("runs", "--csv", "-")
    assert code == 0, err
    shown_anywhere(out + err)
    cells = [cell for row in csv.reader(out.splitlines(keepends=True)) for cell in row]
    assert not [cell for cell in cells if cell[:1] in tuple("=+-@\t") and not is_number(cell)]
    code, out, err = gr_report("runs", "--latex", "-")
    assert code == 0, err
    shown_anywhere(out + err)
    rows = [line for line in out.splitlines() if not line.startswith("%")]
    assert all(line.startswith("\\") or line.endswith(r" \\") for line in rows)
    assert not any(re.match(r"\s*[\[*]", line) for line in rows)
    ours = r"\\(begin|end)\{tabular\}|\\(top|mid|bottom)rule|\\text\w+\{\}|\$\\(pm|cdot|geq)\$|\$-\$|\\[&%$#_{}\\]"
    rest = re.sub(ours, "", "\n".join(rows[2:-1]))
    assert not set(rest) & set("\\$#%^~_"), rest
    code, out, err = gr_report("runs")
    shown_anywhere(out + err)
    shown_anywhere("".join(gr_report("runs", "--watch")[1:]))


def quoting(root: Path, seed: int, value: str) -> None:
    """A run with that text wherever its folder can hold some."""
    status = {"reason": value, "command": value, "overrides": [f"model.note={value}"], "versions": {"torch": value}}
    run = write_run(root, seed, status=status, name=f"run {seed}")
    configures("model.note", value)(run / "config.yaml")
    configures("choices.benchmark", value)(run / "config.yaml")
    sealed(run)


def test_what_is_quoted_is_text_in_the_page_and_in_figures(gr_report):
    for seed in range(2):
        quoting(Path("runs"), seed, f"{seed} {' '.join(HOSTILE[seed::2])}")
    code, _, err = gr_report("runs", "--html", "page.html", "--figures", "figures")
    assert code == 0, err
    page = Path("page.html").read_text(encoding="utf-8")
    shown_anywhere(page)
    assert "<script>alert" not in page and "<img src=x" not in page
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(drawing)
    for path in Path("figures").glob("*.svg"):
        ElementTree.parse(path)


def shown_anywhere(text: str) -> None:
    """No character in it does anything but be shown."""
    hidden = {char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n"}
    assert not hidden


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_control_characters_of_a_name_never_reach_the_terminal(gr_run, gr_report):
    name = Path("runs\x1b[31m\n\u202e")
    name.mkdir()
    write_run(name)
    (write_run(name, 1) / "metrics.csv").unlink()
    for words in ([name], [name, "--watch"], [name / "nowhere"]):
        shown_anywhere("".join(gr_report(*words)[1:]))
    code, _, err = gr_run(f"resume={name}")
    assert code == 2 and err.count("\n") == 1
    shown_anywhere(err)
    assert one_line("a\tb\r\nc\x1b[0m\udc80é✓") == "a b c\\x1b[0m\\udc80é✓"


# --- settings of matplotlib


HOSTILE_SETTINGS = "text.usetex: True\nbackend: module://my_module\nsavefig.format: svg\nfigure.dpi: 1\nnonsense: 1\n"


@pytest.mark.parametrize("where", ["here", "home", "named", "latin", "no file", "backend", "unwritable"])
def test_pictures_are_drawn_with_settings_of_our_own(tmp_path, where):
    """In a process of its own: matplotlib reads settings once."""
    (tmp_path / "my_module.py").write_text("raise SystemExit('was imported')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    rc = tmp_path / "matplotlibrc"
    if where in ("here", "named", "latin"):
        rc.write_bytes(HOSTILE_SETTINGS.encode() + (b"\xe9" if where == "latin" else b""))
    if where == "no file":
        os.mkfifo(rc)
    if where == "named":
        rc.rename(tmp_path / "other")
        environment["MATPLOTLIBRC"] = str(tmp_path / "other")
    if where in ("home", "unwritable"):
        (tmp_path / "config").mkdir(mode=0o555 if where == "unwritable" else 0o755)
        environment["MPLCONFIGDIR"] = str(tmp_path / "config" / ("a" if where == "unwritable" else ""))
    if where == "home":
        (tmp_path / "config" / "matplotlibrc").write_text(HOSTILE_SETTINGS)
    if where == "unwritable":
        (tmp_path / "config" / "a").write_text("no folder")
    if where == "backend":
        environment["MPLBACKEND"] = "nonsense"
    script = (
        "from pathlib import Path\n"
        "from gr_cli.results import charts\nfrom gr_cli.results import figures\n"
        "from gr_cli.results.charts import Line\n"
        "from gr_cli.results.statistics import Summary\n"
        "figures.matrix({0: [0.5, 0.1], 1: [0.3, 0.9]}, ['$a', 'b_{'], '$title', Path('matrix.png'))\n"
        "lines = [Line('$x', {float(i): Summary(i / 9, None, None, 1) for i in range(1, 10)})]\n"
        "Path('sweep.svg').write_text(charts.svg(charts.sweep(lines, 'x', 'y', 100.0, True), 'n'), encoding='utf-8')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    from PIL import Image

    with Image.open(tmp_path / "matrix.png") as picture:
        assert picture.format == "PNG" and picture.width > 300
    assert "$x" in (tmp_path / "sweep.svg").read_text(encoding="utf-8")


def test_settings_that_are_set_in_this_process_have_no_say_and_stay(tmp_path):
    import matplotlib

    from gr_cli.results import figures

    with matplotlib.rc_context({"text.usetex": True, "figure.dpi": 1, "savefig.transparent": True}):
        figures.curves({0: [0.5, 0.1], 1: [0.3, 0.9]}, ["a", "b"], "title", tmp_path / "curves.png")
        assert matplotlib.rcParams["text.usetex"] and matplotlib.rcParams["figure.dpi"] == 1
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.usefixtures("pictures")
def test_a_picture_that_can_t_be_drawn_does_not_end_the_run(gr_run, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no fonts\x1b")

    monkeypatch.setattr("gr_cli.results.figures.matrix", fail)
    code, _, err = gr_run(*TINY)
    assert code == 0 and err.count("\n") == 1
    assert "a picture can't be drawn, and is left out (RuntimeError: no fonts\\x1b)" in err


# --- clocks and locales that are wrong


@pytest.mark.parametrize("updated", ["2999-01-01T00:00:00+00:00", "1970-01-01T00:00:00+00:00"])
def test_a_clock_that_was_wrong_does_not_hold_a_folder(gr_run, gr_report, folder, updated):
    """A run of another host, whose lock can't be asked for."""
    says(state="running", host="elsewhere", updated=updated, seconds=5)(folder / "status.json")
    long_ago = time.time() - 3600
    os.utime(folder / "status.json", (long_ago, long_ago))
    assert "killed" in gr_report(folder)[1]
    code, out, _ = gr_report(folder, "--watch")
    assert code == 1 and "killed" in out
    assert gr_run(f"resume={folder}")[0] == 0


def test_a_run_elsewhere_whose_clock_is_ahead_is_seen_by_when_its_file_was_written(gr_run, folder):
    says(state="running", host="elsewhere", updated="2999-01-01T00:00:00+00:00")(folder / "status.json")
    code, _, err = gr_run(f"resume={folder}")
    assert code == 2 and "another process on elsewhere is running this very run" in err


@pytest.mark.parametrize("updated", ["2999-01-01T00:00:00+00:00", "1970-01-01T00:00:00+00:00"])
def test_no_age_is_shown_that_comes_from_a_wrong_clock(folder, updated):
    says(state="running", updated=updated, seconds=50, progress=PROGRESS)(folder / "status.json")
    with RunFolder(folder).locked():
        (run,) = Watcher().look([(folder, None)], goes_on=False)
    assert (run.state, run.seconds, run.left) == ("running", 50.0, 250.0)


def test_the_newest_of_two_runs_is_not_the_one_with_a_wrong_clock(gr_report):
    for name, accuracy, updated in (("a", 0.25, "2999-01-01"), ("b", 0.75, "2026-01-02"), ("c", 0.5, "2026-01-01")):
        write_run(Path("runs"), accuracy=accuracy, name=name, status={"updated": f"{updated}T00:00:00+00:00"})
    code, out, _ = gr_report("runs")
    assert code == 0 and "75.00" in out and "seed 0 has 3 runs; b counts" in out


def test_files_are_read_as_utf_8_whatever_the_locale(folder):
    """What is sound must not be taken for damaged where the locale is another."""
    says(reason="Größe ✓")(folder / "status.json")
    (folder / "status.json").write_text(
        json.dumps(json.loads((folder / "status.json").read_text()), ensure_ascii=False), encoding="utf-8"
    )
    script = (
        "import sys; from pathlib import Path; from gr_cli.results.folder import RunFolder\n"
        "assert RunFolder(Path(sys.argv[1])).status()['reason'] == 'Gr\\xf6\\xdfe \\u2713'"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, env=environment, timeout=300)


def test_no_text_is_read_or_written_in_the_encoding_of_the_locale():
    here = Path(gr_cli.__file__).parents[1]
    parts = [*(here / "gr_cli").rglob("*.py"), *(here / "scripts").glob("*.py")]
    nodes = [node for path in parts for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    methods = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    texts = [call for call in methods if call.func.attr in ("read_text", "write_text")]
    calls = [ast.unparse(call) for call in texts if "encoding" not in {word.arg for word in call.keywords}]
    kernel = ("/proc/", "/sys/")  # ASCII
    assert not [call for call in calls if not any(name in call for name in kernel)]


def test_a_folder_that_lacks_a_setting_is_refused_in_one_line():
    path = write_run(Path("runs"))
    with pytest.raises(FolderError, match=r"config.yaml: train.boundaries=null: is missing") as refused:
        settings_of(path)
    assert "\n" not in str(refused.value)
