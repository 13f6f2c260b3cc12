"""Folders that hydra.run.dir, hydra.sweep and output_root name for runs and sweeps."""

import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from gr_cli.cli.compose import compose_settings
from gr_cli.config.override_text import override_of
from gr_cli.results.folder import RunFolder
from gr_cli.results.manifest import write_manifest
from helpers.extras import needs_joblib
from helpers.fake_ray import FakeRay, install
from helpers.interruption import StopAt, csvs
from helpers.processes import start, wait_for
from helpers.situations import TINY

OWN = "split_digits/finetune"
LAUNCHERS = pytest.mark.parametrize(
    "launcher",
    [
        (),
        ("hydra/launcher=batched",),
        pytest.param(("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), marks=needs_joblib),
        ("hydra/launcher=ray",),
    ],
    ids=["basic", "batched", "joblib", "ray"],
)


@pytest.fixture(autouse=True)
def _ray(monkeypatch, request):
    if "ray" in request.node.name:
        install(monkeypatch, FakeRay([{"CPU": 2.0}]))


def runs(root="."):
    return sorted(str(path.parent.relative_to(root)) for path in Path(root).rglob("status.json"))


@pytest.fixture
def sweep(gr_run):
    """Call the command line, in a process of its own if its workers are to have this test's directory."""

    def call(*words):
        if "hydra/launcher=joblib" not in words:
            return gr_run(*words)
        with start(*words) as process:
            out, err = process.communicate()
        return process.returncode, out, err

    return call


def everything():
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(Path().rglob("*"))}


# --- a single run


@pytest.mark.parametrize(
    ("value", "folder"),
    [
        ("one", "one"),
        ("a/b/../c", "a/c"),
        ("'a b/ünï=c'", "a b/ünï=c"),
        ("r${seed}_${scenario}_${hydra:job.name}", "r0_class_main"),
    ],
)
def test_hydra_run_dir_is_the_folder_of_the_run(gr_run, value, folder):
    code, out, err = gr_run(*TINY, f"hydra.run.dir={value}")
    assert (code, err) == (0, "")
    assert runs() == [folder] and f"\nresults:\n{folder}\n" in out
    assert not Path("outputs").exists()


def test_override_dirname_names_a_run(gr_run):
    assert gr_run(*TINY, "hydra.run.dir=x/${hydra.job.override_dirname}", "seed=3")[0] == 0
    (only,) = runs("x")
    assert "seed=3" in only


def test_hydra_run_dir_may_be_absolute_a_link_or_below_the_home_folder(gr_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Path("empty").mkdir()
    Path("link").symlink_to("empty")
    for word in (f"hydra.run.dir={tmp_path}/absolute", "hydra.run.dir=link", "hydra.run.dir=~/below"):
        assert gr_run(*TINY, word)[0] == 0
    assert runs() == ["absolute", "empty", "home/below"]
    Path("in").mkdir()
    monkeypatch.chdir("in")
    assert gr_run(*TINY, "hydra.run.dir=.")[0] == 0
    assert gr_run(*TINY, "hydra.run.dir=.", "seed=1", "fresh=true")[0] == 0
    assert runs("..") == ["absolute", "empty", "home/below", "in", "in-2"]


def test_the_time_in_a_folder_is_that_of_the_command(gr_run):
    assert gr_run(*TINY, "hydra.run.dir=${now:%Y}/${now:%f}")[0] == 0
    (only,) = runs()
    assert [part.isdigit() for part in Path(only).parts] == [True, True]


def test_the_same_command_continues_in_its_folder_and_another_is_refused(gr_run, gr_audit, monkeypatch):
    from gr_cli.terminal import run_display

    word = "hydra.run.dir=one"
    with monkeypatch.context() as patch:
        patch.setattr(run_display, "TerminalObserver", lambda **_: StopAt(1, 1))
        assert gr_run(*TINY, word)[0] == 130
    interrupted = everything()
    code, _, err = gr_run(*TINY, word, "train.iterations=4")
    assert (code, err.count("\n")) == (2, 1)
    assert "one: holds another run (train.iterations is 3 there, 4 here); name a new or empty folder" in err
    assert everything() == interrupted
    assert gr_run(*TINY, word)[0] == 0
    finished = everything()
    assert gr_run(*TINY, "hydra.run.dir=two")[0] == 0
    assert csvs(Path("one")) == csvs(Path("two"))
    code, out, err = gr_run(*TINY, word)
    assert (code, err) == (0, "") and "finished before" in out
    assert {path: content for path, content in everything().items() if "two" not in path.parts} == finished
    assert gr_run("resume=one")[0] == gr_run("verify=one")[0] == gr_audit("one", "--raw-samples")[0] == 0
    assert RunFolder(Path("one")).status()["command"].endswith(" hydra.run.dir=one")


@pytest.mark.parametrize(
    "words",
    [
        "hydra.run.dir=new/folder seed=-1",
        "hydra.run.dir=new/folder strategy=nope",
        "hydra.run.dir=new/folder benchmark=split_mnist download=false data_root=nowhere",
        f"hydra.run.dir=new/{'x' * 300}",
        "hydra.run.dir=kept/empty benchmark=split_mnist download=false data_root=nowhere",
        "hydra.run.dir=kept",
        "hydra.run.dir=kept/file/below",
        "-m seed=0,-1 hydra.sweep.dir=new",
        "-m seed=0,1 hydra.sweep.dir=new hydra.sweep.subdir=same",
        "-m seed=0,1 hydra.sweep.dir=kept/file",
        "-m seed=0,1 hydra.sweep.dir=kept hydra.sweep.subdir=file/${seed}",
        "-m seed=0,1 hydra.sweep.dir=kept hydra.sweep.subdir=${oc.select:nothing,file}",
        "hydra.run.dir=new inspect=true benchmark=split_mnist download=false data_root=nowhere",
    ],
)
def test_a_refused_command_leaves_everything_as_it_was(gr_run, words):
    Path("kept/empty").mkdir(parents=True)
    Path("kept/file").write_text("")
    before = everything()
    flags = [word for word in words.split() if word == "-m"]
    code, _, err = gr_run(*flags, *TINY, *(word for word in words.split() if word != "-m"))
    assert (code, err.count("\n")) == (2, 1) and "Traceback" not in err
    assert everything() == before


def test_a_folder_of_a_run_that_was_killed_at_its_start_is_taken(gr_run):
    folder = RunFolder(Path("one"))
    with folder.locked():
        pass
    assert sorted(os.listdir("one")) == [".lock", "figures"]
    assert gr_run(*TINY, "hydra.run.dir=one")[0] == 0
    Path("one/status.json").unlink()  # as its error message recommends where it is damaged
    assert gr_run(*TINY, "hydra.run.dir=one", "seed=1")[0] == 2
    assert gr_run(*TINY, "hydra.run.dir=one")[0] == 0


def test_a_second_process_in_the_folder_is_refused(gr_run):
    words = [*TINY, "train.iterations=100000", "hydra.run.dir=one"]
    with start(*words) as first:
        wait_for(lambda: (RunFolder(Path("one")).status() or {}).get("state") == "running", first)
        code, _, err = gr_run(*words)
        assert code == 2 and "one: another process is training this run" in err
        code, _, err = gr_run(*words, "seed=1")
        assert code == 2 and "one: holds another run" in err
        first.send_signal(signal.SIGINT)
        assert first.wait() == 130
    assert runs() == ["one"]


# --- sweeps


@LAUNCHERS
def test_a_sweep_lies_in_its_folder_and_the_same_command_continues_it(sweep, gr_report, launcher):
    words = ("-m", *TINY, "seed=0,1", "hydra.sweep.dir=my sweep", *launcher)
    assert sweep(*words)[0] == 0
    names = runs("my sweep")
    assert [str(Path(name).parent) for name in names] == [OWN] * 2 and not Path("outputs").exists()
    first = Path("my sweep", names[0])
    status = json.loads((first / "status.json").read_text())
    (first / "checkpoint.pt").unlink()
    (first / "status.json").write_text(json.dumps(status | {"state": "interrupted"}))
    before = csvs(first)
    code, out, err = sweep(*words)
    assert code == 0, err
    assert out.count("finished before") == 1 and csvs(first) == before
    code, out, err = gr_report("my sweep")
    assert (code, err) == (0, "") and "| 2 |" in out


@LAUNCHERS
def test_hydra_sweep_subdir_names_the_jobs(sweep, gr_report, launcher):
    swept = ("hydra.sweep.dir=${now:%Y}s", "hydra.sweep.subdir=${now:%f}/${hydra.job.num}_${seed}_${scenario}")
    assert sweep("-m", *TINY, "seed=3,4", *swept, *launcher)[0] == 0
    one, two = (Path(name) for name in runs())
    assert (one.name, two.name, one.parent) == ("0_3_class", "1_4_class", two.parent)
    (manifest,) = Path().glob("*/sweep.json")
    assert [entry["seed"] for entry in json.loads(manifest.read_text())["jobs"].values()] == [3, 4]
    code, out, err = gr_report(manifest.parent)
    assert (code, err) == (0, "") and "| 2 |" in out


def test_override_dirname_names_the_jobs_as_in_any_hydra_program(gr_run):
    words = ("hydra.sweep.dir=s", "hydra.sweep.subdir=${hydra.job.override_dirname}")
    exclude = "hydra.job.config.override_dirname.exclude_keys=[seed]"
    assert gr_run("-m", *TINY, "seed=5", "optimizer=sgd,adam", *words, exclude)[0] == 0
    names = runs("s")
    assert ["optimizer=adam" in names[0], "optimizer=sgd" in names[1]] == [True, True]
    assert not any("seed" in name for name in names)


@LAUNCHERS
def test_a_job_in_the_folder_of_another_run_is_refused_before_the_first_trains(sweep, launcher):
    words = ("-m", *TINY, "hydra.sweep.dir=s", "hydra.sweep.subdir=${hydra.job.num}", *launcher)
    assert sweep(*words, "seed=0,1")[0] == 0
    before = everything()
    code, _, err = sweep(*words, "seed=0,2,3")
    assert code == 2 and "s/1: holds another run (seed is 1 there, 2 here)" in err
    assert everything() == before


@pytest.mark.parametrize("launcher", [(), ("hydra/launcher=batched",)], ids=["basic", "batched"])
def test_a_job_that_can_not_start_leaves_no_folder_and_says_how_to_repeat_it(gr_run, launcher):
    words = ("benchmark=split_mnist", "download=false", "data_root=nowhere", "hydra.sweep.subdir=${hydra.job.num} x")
    code, _, err = gr_run("-m", *words, "hydra.sweep.dir=s", "seed=0,1", *launcher)
    assert code == 1 and "'hydra.run.dir=\"s/0 x\"'" in err
    assert sorted(os.listdir("s")) == [".lock", "multirun.yaml", "sweep.json"]


def test_a_job_that_has_not_started_is_reported_under_its_own_name(gr_run, gr_report):
    words = ("-m", *TINY, "seed=0,1", "hydra.sweep.dir=s", "hydra.sweep.subdir=job${seed}")
    assert gr_run(*words)[0] == 0
    for path in sorted(Path("s/job1").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    code, out, _ = gr_report("s")
    assert code == 0 and "seed 1 not run" in out


def remove_runs(*folders):
    for folder in folders:
        shutil.rmtree(folder)


def listed_seeds(sweep):
    return [entry["seed"] for entry in json.loads(Path(sweep, "sweep.json").read_text())["jobs"].values()]


def test_a_second_sweep_in_a_folder_keeps_the_jobs_of_the_first_that_have_not_started(gr_run, gr_report):
    words = ("-m", *TINY, "hydra.sweep.dir=s")
    assert gr_run(*words, "seed=0,1")[0] == 0
    remove_runs(*Path("s").rglob("*seed1*"))
    assert gr_run(*words, "seed=0,2")[::2] == (0, "")
    assert listed_seeds("s") == [0, 1, 2]
    code, out, _ = gr_report("s")
    assert code == 0 and "seed 1 not run" in out and "2 of 3" in out


def test_a_job_that_has_not_started_gives_its_folder_to_another_one_and_is_named(gr_run):
    words = ("-m", *TINY, "hydra.sweep.dir=s", "hydra.sweep.subdir=${hydra.job.num}")
    assert gr_run(*words, "seed=0,1,2")[0] == 0
    remove_runs("s/1", "s/2")
    code, _, err = gr_run(*words, "seed=0,3")
    assert code == 0 and err.count("\n") == 1 and "no longer lists 1 job" in err and "s/1" in err and "seed=1" in err
    assert listed_seeds("s") == [0, 3, 2]


def test_a_job_replaces_one_of_the_same_overrides_that_has_not_started(gr_run):
    preset = Path("mine/preset/own.yaml")
    preset.parent.mkdir(parents=True)
    words = ("--config-dir", "mine", "-m", *TINY, "preset=own", "seed=0,1")
    for rate, seeds in ((0.1, [0, 1]), (0.2, [0, 0, 1])):  # the first run of the first preset remains
        preset.write_text(f"# @package _global_\noptimizer: {{lr: {rate}}}\n")
        assert gr_run(*words)[::2] == (0, "")
        (sweep,) = Path("outputs/sweeps").iterdir()
        assert listed_seeds(sweep) == seeds
        remove_runs(*Path("outputs").rglob("*seed1*"))


def test_sweeps_that_begin_at_the_same_time_list_all_their_jobs(tmp_path):
    settings = [compose_settings([*TINY, f"seed={seed}"]) for seed in range(8)]
    jobs = [[(each, RunFolder(tmp_path / str(each.seed)))] for each in settings]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(write_manifest, tmp_path), jobs))
    assert sorted(listed_seeds(tmp_path)) == list(range(8)) and os.listdir(tmp_path) == ["sweep.json"]


def test_folders_returned_by_ray_lie_below_the_current_directory(gr_run, tmp_path):
    words = ("-m", *TINY, "seed=0,1", "hydra/launcher=ray", "hydra.launcher.folders=returned")
    code, _, err = gr_run(*words, f"hydra.sweep.dir={tmp_path}/s")
    assert code == 2 and "needs folders below the current directory" in err
    assert not runs()


# --- output_root


def test_output_root_is_where_runs_and_sweeps_go_and_changes_no_result(gr_run, gr_report, monkeypatch, tmp_path):
    assert gr_run(*TINY)[0] == gr_run(*TINY, "output_root=here")[0] == 0
    monkeypatch.setenv("GR_OUTPUT_ROOT", str(tmp_path / "there"))
    assert gr_run("-m", *TINY, "seed=0,1")[0] == 0
    names = runs("outputs")
    assert names == runs("here") and names[0] in runs("there")
    assert csvs(Path("outputs", names[0])) == csvs(Path("here", names[0])) == csvs(Path("there", names[0]))
    assert sorted(os.listdir("there")) == ["split_digits", "sweeps"]
    (sweep,) = Path("there/sweeps").iterdir()
    for folders in ((), (sweep,), (os.path.relpath(sweep),)):
        code, out, err = gr_report(*folders)
        assert (code, err) == (0, "") and "| 2 |" in out, folders
    monkeypatch.chdir(sweep)
    assert "| 2 |" in gr_report(".")[1]


def test_output_root_is_part_of_the_printed_configuration(gr_run, monkeypatch):
    monkeypatch.setenv("GR_OUTPUT_ROOT", "~/x")
    code, out, _ = gr_run("--cfg", "job", "--resolve", "hydra.run.dir=new")
    assert code == 0 and "\noutput_root: ~/x" in out and not os.listdir()


def test_a_preset_may_name_folders(gr_run):
    preset = Path("mine/preset/placed.yaml")
    preset.parent.mkdir(parents=True)
    preset.write_text("# @package _global_\nhydra:\n  run: {dir: 'r${seed}'}\n  sweep: {dir: s}\n")
    assert gr_run("--config-dir", "mine", *TINY, "preset=placed", "seed=2")[0] == 0
    assert gr_run("--config-dir", "mine", "-m", *TINY, "preset=placed", "seed=2,3")[0] == 0
    assert runs()[0] == "r2" and len(runs("s")) == 2


@pytest.mark.parametrize(
    "value", ["a/b-c.d", "a b", "a=b", "'", '"', '\\"', "a\\", "\\\\x", "${seed}", "é", "", "[a]", "null x"]
)
def test_a_value_is_quoted_for_hydras_grammar(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    (override,) = OverridesParser.create().parse_overrides([override_of("name", value)])
    assert OmegaConf.create({"name": override.value()})["name"] == value


def test_no_state_of_hydra_is_left_by_a_folder(gr_run):
    from hydra.core.hydra_config import HydraConfig

    before = HydraConfig.instance().cfg
    assert gr_run(*TINY, "hydra.run.dir=one")[0] == 0
    assert gr_run("-m", *TINY, "seed=0,1", "hydra.sweep.subdir=${hydra.job.num}")[0] == 0
    assert HydraConfig.instance().cfg is before


def test_folders_are_named_from_python(monkeypatch, tmp_path):
    import gr_cli

    assert gr_cli.run(*TINY, "hydra.run.dir=r${seed}", progress=False, seed=4).folder == tmp_path / "r4"
    assert gr_cli.run(*TINY, progress=False, output_root="here").folder.is_relative_to(tmp_path / "here")
    gr_cli.sweep(*TINY, "hydra.sweep.dir=s", "hydra.sweep.subdir=${hydra.job.num}", progress=False, seed=[0, 1])
    assert runs("s") == ["0", "1"]
    monkeypatch.setenv("GR_OUTPUT_ROOT", str(tmp_path / "here"))
    assert len(gr_cli.load_results()) == 1
