"""The command line: one line for each mistake, exit codes, sweeps, lazy imports, plain output."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gr_cli import __version__
from gr_cli.cli.main import main
from helpers.mistakes import MISTAKES

TINY = ("train.iterations=3", "log.every=1")


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
    for flags, where in (
        ((), "gr_cli.cli.main.settings_from_config"),
        (("-m",), "gr_cli.cli.job_composer.settings_from_values"),
    ):
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
    words = ("-m", *TINY, "benchmark.classes_per_task=5", "strategy.replay_weight=0.5,1,2", "seed=0,1")
    code, _, err = gr_run(*words)
    assert code == 0, err
    folders = sorted(path.parent for path in Path("outputs").glob("*/*/*/status.json"))
    assert len(folders) == 6
    assert sum("replay_weight=0.5" in folder.name for folder in folders) == 2
    assert sum("-seed1-" in folder.name for folder in folders) == 3
    (manifest,) = Path("outputs/sweeps").glob("*/sweep.json")
    listed = [os.path.normpath(manifest.parent / name) for name in json.loads(manifest.read_text())["jobs"]]
    assert sorted(listed) == list(map(str, folders))
    before = {folder: (folder / "accuracy_matrix.csv").stat().st_mtime_ns for folder in folders}
    assert gr_run(*words)[0] == 0
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


def test_a_users_own_option_is_listed_and_runs(gr_run, tmp_path):
    (tmp_path / "mine" / "generator").mkdir(parents=True)
    (tmp_path / "mine" / "generator" / "own_vae.yaml").write_text("_target_: gr_cli.generators.VAE\n")
    assert "own_vae" in gr_run("--config-dir", "mine", "--help")[1]
    code, _, err = gr_run("--config-dir", "mine", "generator=own_vae", *TINY)
    assert code == 0, err
    assert list(Path("outputs/split_digits/generative_replay-own_vae").iterdir())


def test_an_unused_pool_needs_no_memory(gr_run):
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
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert "HEAVY []" in done.stdout


def test_a_run_imports_only_what_it_uses():
    script = (
        "import sys; from gr_cli.cli.main import main\n"
        "assert main(['train.iterations=1']) == 0\n"
        "print('HEAVY', sorted({'torchvision', 'torch._dynamo', 'sklearn', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout


def test_output_to_a_pipe_is_plain(gr_run):
    code, out, _ = gr_run(*TINY)
    assert code == 0
    assert "\x1b" not in out
    assert "\r" not in out
    assert out.splitlines()[0] == "generative_replay · vae · split_digits · class-incremental · seed 0"
    assert "average accuracy" in out
    assert "\nresults:\noutputs/split_digits/generative_replay-vae/" in out


def test_a_terminal_shows_progress():
    import io

    from rich.console import Console

    from gr_cli.results.availability import run_folder
    from gr_cli.results.stored_config import stored_settings
    from gr_cli.runner.run import run
    from gr_cli.terminal.run_display import TerminalObserver

    main(list(TINY))
    (status,) = Path("outputs").glob("*/*/*/status.json")
    settings = stored_settings(status.parent)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, highlight=False)
    run(settings, run_folder(settings, settings.folder(Path("elsewhere"))), TerminalObserver(console))
    assert "after task 4 (8 9): " in screen.getvalue() and "4/5 tasks" in screen.getvalue()
    assert "test accuracy" in screen.getvalue()
