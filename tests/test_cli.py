"""The door: one line for each mistake, exit codes, sweeps, help that imports nothing."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gr_cli
from gr_cli import __version__
from gr_cli.cli.main import main
from gr_cli.config.groups import GROUPS

TINY = ("train.iterations=3", "log.every=1")

# What is typed, and the one line it gets.
MISTAKES = [
    ("strategy.memory_siz=3", "memory_siz=3: no such setting; there are batch_size, .*did you mean 'memory_size'"),
    ("latent_dim=3", "latent_dim=3: no such setting; there are .*; did you mean generator.latent_dim?"),
    ("benchmark.data_path=3", "benchmark.data_path=3: no such setting; there are [a-z_, ]*$"),
    ("schedule=3", "schedule=3: no such setting; there are .*; did you mean optimizer.schedule?"),
    ("batch_size=3", "batch_size=3: no such setting; .*did you mean strategy.batch_size or train.batch_size"),
    ("sead=1", "sead=1: no such setting; there are .*did you mean 'seed'"),
    ("+foo=1", "foo=1: no such setting"),
    ("+train.foo=1", "train.foo=1: no such setting; there are active_classes, batch_size, boundaries, epochs"),
    ("+strategy.foo=1", "strategy.foo=1: no such setting"),
    ("strategy=replay", "strategy=replay: no such option; there are a_gem, bir, .*generative_replay, .*joint"),
    ("optimizer=adan", "optimizer=adan: no such option; .*did you mean 'adam'"),
    ("preset=dgr_papr", "preset=dgr_papr: no such option; .*did you mean 'dgr_paper'"),
    ("generator=null", "generator=null: must name an option"),
    ("strategy=", "strategy=nothing: must name an option"),
    ("preset=3", "preset=3: must name an option"),
    ("benchmark=[1]", r"benchmark=\[1\]: must name an option"),
    ("~train", "train.iterations=null: is missing"),
    ("benchmark.source=3", "benchmark.source=3: must be a Source"),
    ("model._target_=../x", "model._target_=../x: can't be imported"),
    ("seed=abc", "seed=abc: must be a whole number ≥ 0"),
    ("seed=-1", "seed=-1: must be a whole number ≥ 0"),
    ("seed=1.5", "seed=1.5: must be a whole number ≥ 0"),
    ("train=3", "train=3: has settings of its own; there are train.active_classes"),
    ("train.batch_size=null", "train.batch_size=null: must be a whole number ≥ 1"),
    ("train.iterations=0", "train.iterations=0: must be a whole number ≥ 1 or null"),
    ("train.epochs=3", "exactly one must be set"),
    ("log.every=0", "log.every=0: must be a whole number ≥ 1"),
    ("scenario=clas", "scenario=clas: must be one of class, domain, task"),
    ("device=tpu", "device=tpu: must be auto, cpu, cuda or cuda:<number>"),
    ("device=cuda:99", "this machine has .* usable GPUs"),
    ("threads=0", "threads=0: must be a whole number ≥ 1 and ≤ 1024 or null"),
    ("download=perhaps", "download=perhaps: must be true or false"),
    ("strategy.replay_weight=abc", "must be a number ≥ 0 or one of by_tasks, by_old_tasks; the default is 1.0"),
    ("strategy.replay_weight=-1", "strategy.replay_weight=-1: must be a number ≥ 0 or one of by_tasks, by_old_tasks"),
    ("strategy.replay_weight=nan", "strategy.replay_weight=nan: must be a number ≥ 0 or one of by_tasks, by_old_tasks"),
    ("strategy.replay_weight=inf", "strategy.replay_weight=inf: must be a number ≥ 0 or one of by_tasks, by_old_tasks"),
    ("strategy.batch_size=true", "strategy.batch_size=true: must be a whole number ≥ 1"),
    ("strategy.targets=medium", "strategy.targets=medium: must be one of hard, soft"),
    ("strategy.memory_size=0", "strategy.memory_size=0: the generator would have nothing to learn from"),
    ("optimizer.lr=0", "optimizer.lr=0: must be a number > 0; the default is 0.001"),
    ("optimizer.betas=[0.9]", r"optimizer.betas=\[0.9\]: must be a list of 2, each a number ≥ 0 and < 1"),
    ("normalise=foo", "normalise=foo: must be first_task or a list of 2, each a list of numbers or null"),
    ("model.hidden_sizes=3", "model.hidden_sizes=3: must be a list, each a whole number ≥ 1"),
    ("model.hidden_sizes=[0]", r"model.hidden_sizes=\[0\]: must be a list, each a whole number ≥ 1"),
    ("generator.latent_dim=1.5", "generator.latent_dim=1.5: must be a whole number ≥ 1; the default is 32"),
    ("generator.dropout=1", "generator.dropout=1: must be a number ≥ 0 and < 1"),
    ("benchmark.classes_per_task=3", "benchmark.classes_per_task=3: must divide the 10 classes"),
    ("benchmark.validation_share=1", "benchmark.validation_share=1: must be a number ≥ 0 and < 1"),
    ("seed==3", "seed==3"),
    ("strategy", "strategy"),
    ("--cfg job --package nope", "package 'nope' not found in config"),
    ("-cn schema", "there is one configuration; what shall differ is a preset, --config-dir DIR preset=NAME"),
    ("--config-name=preset/smoke", "there is one configuration"),
    ("-cp nowhere", "there is one configuration"),
    ("--foo", "unrecognized arguments: --foo"),
    ("resume=nowhere", "nowhere: holds no run"),
    ("resume=nowhere seed=1", "resume=nowhere: goes alone: remove seed=1"),
    ("seed=1 resume=nowhere", "resume=nowhere: goes alone: remove seed=1"),
    ("audit=nowhere", "nowhere: holds no run"),
    ("seed=1 audit=nowhere", "audit=nowhere: goes alone: remove seed=1"),
    ("audit=nowhere resume=nowhere", "resume=nowhere: goes alone: remove audit=nowhere"),
    ("optimizer=sgd optimizer.nesterov=true", "optimizer.nesterov=true: needs momentum"),
    ("benchmark.validation_share=0.001", "validation_share=0.001: leaves .* both need some"),
    ("model=resnet18 model.norm=batch train.batch_size=1", "train.batch_size=1: batch statistics need more than one"),
    ("benchmark=split_mnist download=false data_root=nowhere", "MNIST is not there; set data_root or GR_DATA_ROOT"),
    ("-m seed=1,range(3)", r"seed=1,range\(3\): must give values, none of them a sweep itself"),
    ("-m seed=interval(0,1)", r"seed=interval\(0,1\): must give values"),
    ("-m seed=range(0)", r"seed=range\(0\): must give values"),
    ("-m seed=glob(*)", r"seed=glob\(\*\): must give values"),
    ("-m seed=0,-1", "seed=-1: must be a whole number ≥ 0"),
    ("-m strategy=finetune,foo", "strategy=foo: no such option"),
    ("-m strategy=finetune,er strategy.memory_size=50", "strategy.memory_size=50: strategy=finetune has no settings"),
    ("-m strategy=generative_replay,er strategy.per_class=50", "per_class=50: no such setting of strategy=generative_"),
    ("data_root=/a=b", "data_root=/a=b: can't be understood; quote its value: 'data_root=\"/a=b\"'"),
    ("hydra.run.dir=elsewhere", "hydra.run.dir=elsewhere: can't be changed; a run's folder is outputs/"),
    ("hydra.output_subdir=.hydra seed=-1", "hydra.output_subdir=.hydra: can't be changed"),
    ("~hydra.callbacks", "hydra.callbacks=nothing: can't be changed; it checks all runs of a sweep"),
    ("hydra=3", "hydra=3: can't be changed"),
    ("=3", "=3: has no name; write key=value"),
    ("hydra/launcher=null", "hydra/launcher=null: must name an option"),
    ("--resolve", "--resolve flag can only be used"),
    ("-m --cfg job", "Only one of --run, --multirun, --cfg"),
    ("--experimental-rerun nowhere", "use gr-run resume=<folder>"),
    ("hydra.searchpath=[mine]", r"hydra.searchpath=\[mine\]: can't be taken up .*path=mine is not available"),
    ("-m hydra.mode=RUN seed=0", "Running Hydra app with --multirun, overriding"),
    ("-m hydra.launcher=3 seed=0", "hydra/launcher=basic: must name a launcher"),
    ("-m hydra.sweeper._target_=nope.X seed=0", "Invalid plugin 'nope.X'"),
    ("data_root=${oc.env:NO_SUCH}", "data_root=.*: can't be resolved .*Environment variable 'NO_SUCH' not found"),
    ("strategy.temperature=${.nothing}", "strategy.temperature=.*: can't be resolved .*'nothing' not found"),
    ("-m seed=0 strategy.temperature=${.nothing}", "strategy.temperature=.*: can't be resolved .*'nothing'"),
    ("seed=${scenario}", "seed=class: must be a whole number"),
    ("train=???", r"train=\?\?\?: has settings of its own"),
    ("log.every=1 model.hidden_sizes.x=3", "model.hidden_sizes.x=3: can't be taken up"),
    ("generator._target_=builtins.dict", "builtins.dict: does not say which settings it takes"),
    ("benchmark.source={_target_:os.getcwd}", "benchmark.source=os.getcwd: must be a Source"),
    ("generator.latent_dim={_target_:os.getcwd}", "generator.latent_dim=os.getcwd: must be a whole number ≥ 1"),
    ("strategy=joint strategy._target_=os.getcwd", "makes a str, and a Strategy is needed"),
    ("+model.input_size=63", "model.input_size=63: follows from the other choices, and is 64 here"),
    ("+generator.sample_shape=[64]", r"sample_shape=\[64\]: follows from the other choices, and is \[1, 8, 8\] here"),
    ("train.batch_size=1000000000000", "train.batch_size=1000000000000: takes 238,418 GiB of memory at least"),
    ("strategy.memory_size=1000000000000", "strategy.memory_size=1000000000000: takes 238,418 GiB"),
    (
        "strategy.replay_source=pool strategy.pool_size=1000000000000",
        "strategy.pool_size=1000000000000: takes 238,418 GiB",
    ),
    ("strategy=er strategy.per_class=1000000000000", "strategy.per_class=1000000000000: takes 238,418 GiB"),
    ("model.hidden_sizes=[1000000000000000000]", "out of memory .*try a lower train.batch_size"),
    ("generator.latent_dim=99999999999999999999", "is beyond all numbers that this program can count with"),
    ("model.hidden_sizes=[99999999999999999999]", "is beyond all numbers that this program can count with"),
    ("threads=1025", "threads=1025: must be a whole number ≥ 1 and ≤ 1024 or null"),
    ("augment.shift=8", "augment.shift=8: moves images of 8x8 pixels out of sight"),
    ("+strategy.generator={_target_:gr_cli.generators.VAE}", "strategy.generator=.*: has a group of its own"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_gets_one_line_and_writes_nothing(gr_run, tmp_path, words, expected):
    code, out, err = gr_run(*words.split())
    assert code == 2
    assert out == ""
    assert err.startswith("gr-run: ")
    assert err.count("\n") == 1
    assert re.search(expected, err), err
    assert list(tmp_path.rglob("*")) == []


def test_a_defect_of_this_program_keeps_its_traceback(gr_run, monkeypatch):
    for flags, where in (((), "gr_cli.cli.main.settings_from"), (("-m",), "gr_cli.cli.sweep.settings_from")):
        with monkeypatch.context() as patch:
            patch.setattr(where, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                gr_run(*flags, *TINY)


def test_a_value_may_refer_to_another_setting(gr_run):
    for flags in ((), ("-m",)):
        code, _, err = gr_run(
            *flags, *TINY, "strategy.pool_size=${.memory_size}", "train.batch_size=${strategy.batch_size}"
        )
        assert code == 0, err


def test_a_sweep_gives_each_run_its_folder(gr_run):
    code, _, err = gr_run("-m", *TINY, "strategy.replay_weight=0.5,1,2", "seed=0,1")
    assert code == 0, err
    folders = sorted(path.parent for path in Path("outputs").glob("*/*/*/status.json"))
    assert len(folders) == 6
    assert sum("replay_weight=0.5" in folder.name for folder in folders) == 2
    assert sum("-seed1-" in folder.name for folder in folders) == 3
    (manifest,) = Path("outputs/sweeps").glob("*/sweep.json")
    assert set(json.loads(manifest.read_text())["jobs"]) == set(map(str, folders))
    before = {folder: (folder / "accuracy_matrix.csv").stat().st_mtime_ns for folder in folders}
    assert gr_run("-m", *TINY, "strategy.replay_weight=0.5,1,2", "seed=0,1")[0] == 0
    assert {folder: (folder / "accuracy_matrix.csv").stat().st_mtime_ns for folder in folders} == before


def test_one_failing_run_does_not_stop_the_others(gr_run):
    words = ("-m", *TINY, "strategy=finetune", "optimizer=sgd", "optimizer.lr=1e30,0.1")
    code, _, err = gr_run(*words)
    assert code == 1
    assert "try a lower optimizer.lr" in err
    assert "failed: outputs" in err
    assert "1 of 2 runs did not finish" in err
    states = [json.loads(path.read_text())["state"] for path in Path("outputs").glob("*/*/*/status.json")]
    assert sorted(states) == ["failed", "finished"]


def test_help_names_every_option_and_setting(gr_run):
    code, out, _ = gr_run("--help")
    assert code == 0
    conf = Path(gr_cli.__file__).parent.parent / "conf"
    for file in conf.glob("*/*.yaml"):
        assert file.stem in out
    groups = out.partition("\ngroups (* is the default):\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in groups if line[2] != " "] == [*GROUPS, "hydra/launcher"]
    assert all(len(line) <= 120 for line in groups)
    presets = out.partition("\npresets:\n")[2].partition("\n\n")[0].splitlines()
    assert all(len(line) <= 140 and not line.endswith(" al") for line in presets)  # whole, and of one line
    assert [line.split()[0] for line in presets] == sorted({f.stem for f in conf.glob("preset/*.yaml")} - {"none"})
    assert (
        "  smoke                      A few seconds to see that everything works; its numbers mean nothing" in presets
    )
    for setting in ("seed:", "scenario:", "iterations:", "every_seconds:", "GR_DATA_ROOT"):
        assert setting in out


def test_help_lists_the_users_own_options(gr_run, tmp_path):
    (tmp_path / "mine" / "generator").mkdir(parents=True)
    (tmp_path / "mine" / "generator" / "dreamer.yaml").write_text("_target_: gr_cli.generators.VAE\n")
    assert "dreamer" in gr_run("--config-dir", "mine", "--help")[1]
    code, _, err = gr_run("--config-dir", "mine", "generator=dreamer", *TINY)
    assert code == 0, err
    assert list(Path("outputs/split_digits/generative_replay-dreamer").iterdir())


def test_a_pool_that_is_not_used_needs_no_room(gr_run):
    assert gr_run(*TINY, "strategy.pool_size=1000000000000")[::2] == (0, "")


def test_version(gr_run):
    assert gr_run("--version") == (0, f"gr-run {__version__}\n", "")


@pytest.mark.parametrize("words", ["--help", "--version", "--cfg job", "-sc query=bash"])
def test_nothing_heavy_is_imported_before_a_run(words):
    script = (
        "import sys; from gr_cli.cli.main import main\n"
        f"try: main({words.split()!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pandas', 'sklearn', 'torchvision', 'matplotlib'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    environment = os.environ | {"COMP_LINE": "gr-run strat", "COMP_POINT": "12"}
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert "HEAVY []" in found.stdout


def test_a_run_imports_only_what_it_uses():
    script = (
        "import sys; from gr_cli.cli.main import main\n"
        "assert main(['train.iterations=1']) == 0\n"
        "print('HEAVY', sorted({'torchvision', 'torch._dynamo', 'sklearn', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "HEAVY []" in found.stdout


def test_output_that_is_no_terminal_is_plain(gr_run):
    code, out, _ = gr_run(*TINY)
    assert code == 0
    assert "\x1b" not in out
    assert "\r" not in out
    assert out.splitlines()[0] == "generative_replay · vae · split_digits · class-incremental · seed 0"
    assert "average accuracy" in out
    assert "everything is in outputs/split_digits/generative_replay-vae/" in out


def test_a_terminal_shows_progress():
    import io

    from rich.console import Console

    from gr_cli.results.stored_config import settings_of
    from gr_cli.runner.run import folder_of, run
    from gr_cli.terminal.run_view import Terminal

    main(list(TINY))
    (status,) = Path("outputs").glob("*/*/*/status.json")
    settings = settings_of(status.parent)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, highlight=False)
    run(settings, folder_of(settings, Path("elsewhere")), Terminal(console))
    assert "task 5/5 (8 9)" in screen.getvalue()
    assert "test accuracy" in screen.getvalue()
