"""Training goes on without its output: closed pipes, full disks, limited encodings, failing observers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gr_cli.training.observer import RunObserver
from helpers.extras import needs_joblib
from helpers.processes import start

SHORT = (
    "strategy=finetune",
    "train.iterations=3",
    "benchmark.classes_per_task=5",
    "threads=1",
    "evaluate.generated_samples=0",
)
SWEEPS = [
    pytest.param(("-m", "seed=0,1"), id="basic"),
    pytest.param(
        ("-m", "seed=0,1", "hydra/launcher=batched", "hydra.launcher.processes=2", "hydra.launcher.width=1"),
        id="processes",
    ),
    pytest.param(
        ("-m", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), id="joblib", marks=needs_joblib
    ),
]
full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")


def shell(line, *words, module="gr_cli.cli.main", **environment):
    """Run a shell line in which `$run` is the program with these arguments; return its exit code, stdout, stderr."""
    command = [sys.executable, "-c", f"from {module} import entry; entry()", *words]
    script = 'run() { "$@"; echo $? > code; }; ' + line.replace("$run", 'run "$@"')
    done = subprocess.run(
        ["sh", "-c", script, "sh", *command], env={**os.environ, **environment}, capture_output=True, check=False
    )
    return int(Path("code").read_text()), done.stdout, done.stderr


def assert_finished(number=1):
    states = [json.loads(path.read_text())["state"] for path in Path("outputs").glob("*/*/*/status.json")]
    assert states == ["finished"] * number


LOST = b"gr-run: stdout can't be written (No space left on device); part of the output is lost\n"
LOADING = "gr-run: loading torch …\n".encode()
NARROW = [
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.parametrize("line", ["$run | true", "$run >&-", "$run <&- >&- 2>&-"])
def test_a_run_is_trained_without_readers_of_its_output(line):
    assert shell(line, *SHORT) == (0, b"", b"" if "2>&-" in line else LOADING)
    assert_finished()


@full_device
def test_a_run_is_trained_on_a_full_disk_behind_stdout():
    assert shell("$run > /dev/full", *SHORT) == (0, b"", LOADING + LOST)
    assert_finished()
    assert shell("$run > /dev/full 2>&1", *SHORT) == (0, b"", b"")


@pytest.mark.parametrize("words", SWEEPS)
def test_a_sweep_is_trained_without_readers_of_its_output(words):
    assert shell("$run 2>&1 | true", *words, *SHORT) == (0, b"", b"")
    assert_finished(2)


@pytest.mark.parametrize("environment", NARROW, ids=str)
def test_characters_that_an_encoding_lacks_are_replaced(environment):
    code, out, err = shell("$run", *SHORT, **environment)
    assert (code, err) == (0, b"gr-run: loading torch ...\n")
    dot = b"\xb7" if environment.get("PYTHONIOENCODING") == "latin-1" else b"-"
    assert out.startswith(b"finetune %b split_digits %b class-incremental %b seed 0\n" % (dot, dot, dot))
    code, out, err = shell("$run", module="gr_cli.report.cli", **environment)
    assert (code, err) == (0, b"")


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("--cfg", "job")])
@full_device
def test_help_fails_if_it_can_t_be_printed(words):
    assert shell("$run > /dev/full", *words) == (1, b"", LOST)
    assert shell("$run | true", *words) == (0, b"", b"")
    assert shell("$run >&-", *words) == (0, b"", b"")


@full_device
def test_an_incomplete_report_fails(gr_run):
    assert gr_run(*SHORT)[0] == 0
    code, out, err = shell("$run > /dev/full", module="gr_cli.report.cli")
    assert (code, out, err) == (1, b"", LOST.replace(b"gr-run", b"gr-report"))
    assert shell("$run | true", module="gr_cli.report.cli") == (0, b"", b"")


def test_a_nonblocking_pipe_gets_all_output():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    script = (
        "import os, sys; from gr_cli.system.output import make_output_robust; make_output_robust()\n"
        "print('x' * 300_000); sys.stdout.flush(); print('done', file=sys.stderr)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    with open(reader, "rb") as file:
        assert len(file.read()) == 300_001
    assert process.communicate() == (None, b"done\n") and process.returncode == 0


class Broken(RunObserver):
    """An observer that fails in one of its methods."""

    def __init__(self, at, error):
        self._at, self._error = at, error

    def __getattribute__(self, name):
        if not name.startswith("_") and name == self._at:
            raise self._error
        return super().__getattribute__(name)


@pytest.mark.parametrize("error", [OSError("no terminal"), SystemExit(1), ZeroDivisionError("nobody\nforesaw this")])
@pytest.mark.parametrize("at", ["started", "stage_started", "stepped", "stage_finished", "finished"])
def test_a_failing_observer_is_reported_once(gr_run, monkeypatch, at, error):
    monkeypatch.setattr("gr_cli.terminal.run_display.TerminalObserver", lambda **_: Broken(at, error))
    code, _, err = gr_run(*SHORT)
    assert code == 0
    message = " ".join(str(error).splitlines())
    assert (
        err == f"gr-run: progress display failed ({type(error).__name__}: {message}); training continues without it\n"
    )
    assert_finished()


def test_an_error_of_the_run_is_not_reported_as_one_of_an_observer(gr_run, monkeypatch):
    monkeypatch.setattr("gr_cli.training.learner.Learner.step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gr_run(*SHORT)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no terminals here")
def test_a_closed_terminal_does_not_end_the_run():
    """The terminal is not a controlling one, so that the kernel sends no SIGHUP."""
    main, other = os.openpty()
    run = start(*SHORT, stdout=other, stderr=other)
    os.close(other)
    os.read(main, 1)
    os.close(main)
    assert run.wait() == 0
    assert_finished()
