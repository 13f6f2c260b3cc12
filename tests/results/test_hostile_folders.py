"""Run folders from untrusted sources: reading them does not block, import code, follow links or trust values."""

import os
import shutil
from pathlib import Path

import pytest

from gr_cli.errors import FolderError
from gr_cli.results.stored_config import stored_settings
from gr_cli.system.checksums import load_tensors, save_tensors
from gr_cli.system.reading import parse_finite_float, read_json, read_table, read_yaml
from helpers.harms import PROGRESS, Harm, a_folder, configures, emptied, endless, listening, pipe, says, text
from helpers.interruption import sealed
from helpers.run_folders import write_run

# --- malformed files


LAUGHS = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefghi", "bcdefghij", strict=True)]
    + ["choices: {}"]
)
DEEP = "[" * 100_000
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
def test_an_unreadable_run_is_left_out_of_the_report(gr_report, name, harm):
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
def test_an_unreadable_run_is_refused_in_one_line(gr_run, gr_audit, folder, name, harm):
    harm(folder / name)
    results = (gr_run(f"resume={folder}"), gr_run(f"verify={folder}"), gr_audit(folder, "--raw-samples"))
    for code, out, err in (*results, gr_audit(folder, "--attacks")):
        assert (code, out) == (2, ""), err
        assert err.count("\n") == 1 and name in err and len(err) < 800
        assert "remove" not in err


@pytest.mark.parametrize("harm", [pipe, endless, emptied, listening, a_folder])
def test_a_checkpoint_that_is_not_a_file_is_refused_in_one_line(gr_run, gr_audit, folder, harm):
    harm(folder / "checkpoint.pt")
    for code, _, err in (gr_run(f"resume={folder}"), gr_audit(folder, "--raw-samples")):
        assert code == 2
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        "[]",
        "{}",
        '{"jobs": []}',
        '{"jobs": {"/etc": {"seed": 0, "config_hash": "0", "overrides": []}}}',
        '{"jobs": {"../../..": {"seed": 0, "config_hash": "0", "overrides": []}}}',
        '{"jobs": {"../a/../../..": {"seed": 0, "config_hash": "0", "overrides": []}}}',
        '{"jobs": {"a": "seed=0"}}',
        '{"jobs": {"a": [1]}}',
        '{"jobs": {"a": NaN}}',
        '{"jobs": {"a": {}}}',
        '{"jobs": {"a": {"seed": "0", "config_hash": "0", "overrides": []}}}',
        '{"jobs": {"a": {"seed": true, "config_hash": "0", "overrides": []}}}',
        '{"jobs": {"a": {"seed": 0, "config_hash": 0, "overrides": []}}}',
        '{"jobs": {"a": {"seed": 0, "config_hash": "0", "overrides": [1]}}}',
    ],
)
def test_a_malformed_sweep_json_is_named_and_the_runs_are_reported(gr_report, content):
    write_run(Path("outputs"), accuracy=0.25)
    sweep = Path("outputs/sweeps/0a73b11d")
    sweep.mkdir(parents=True)
    (sweep / "sweep.json").write_text(content)
    code, out, err = gr_report()
    assert code == 1 and "25.00" in out
    assert err.count("\n") == 1 and str(sweep / "sweep.json") in err


def test_a_sweep_at_the_root_of_the_file_system_is_read(gr_report, monkeypatch):
    write_run(Path("runs"))
    Path("runs/sweep.json").write_text('{"jobs": {}}')
    monkeypatch.setattr(Path, "resolve", lambda path: Path("/runs"))
    assert gr_report("runs")[0] == 0


def test_thousands_of_nested_folders_are_not_searched(gr_report):
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


def test_circular_links_are_not_followed(gr_report):
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
    assert parse_finite_float("-1.5e3") == -1500.0
    for cell in ("nan", "inf", "1e300", "1_0", "", "x"):
        with pytest.raises(ValueError, match="is not a number"):
            parse_finite_float(cell)


# --- what a folder may lead to


def test_what_is_written_stays_in_the_folder(gr_run, folder, tmp_path):
    """Links with the names of written files are replaced, not followed."""
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
def test_a_linked_folder_in_a_run_folder_is_refused(gr_run, folder, tmp_path, name):
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
def test_a_lock_that_is_not_a_file_is_refused(gr_run, gr_report, folder, harm):
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
    assert code == 2 and "names code that is not part of this program: gr_cli.trackers.MLflow" in err


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
def test_the_jobs_in_a_checkpoint_are_validated_as_the_configuration(gr_run, folder, differs):
    """A checksum detects damage, not forgery."""
    state = load_tensors(folder / "checkpoint.pt")
    program = {"id": "0", "index": 0, "size": 1, "jobs": [differs]}
    save_tensors(folder / "checkpoint.pt", state | {"training": state["training"] | {"program": program}})
    code, out, err = gr_run(f"verify={folder}")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert ("names code" if "model._target_" in differs else "does not say how it was trained") in err


def test_nothing_is_imported_from_the_directory_in_status_json(gr_run, folder, tmp_path, monkeypatch):
    """`python -c` has the current directory first in sys.path."""
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


def test_a_folder_that_lacks_a_setting_is_refused_in_one_line():
    path = write_run(Path("runs"))
    with pytest.raises(FolderError, match=r"config.yaml: train\.\w+=null: is missing") as refused:
        stored_settings(path)
    assert "\n" not in str(refused.value)
