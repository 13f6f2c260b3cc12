"""Stop signals, ignored signals, and the end of a sweep's worker processes."""

import fcntl
import json
import os
import pty
import signal
import termios
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from helpers.extras import needs_joblib
from helpers.interruption import StopAt
from helpers.processes import start, wait_for, wait_for_file, wait_until

ENDLESS = ("strategy=finetune", "train.iterations=1000000", "threads=1", "checkpoint.every_seconds=0.1")


def statuses():
    return [json.loads(path.read_text()) for path in Path("outputs").glob("*/*/*/status.json")]


def await_training(number, process):
    """Wait until `number` runs have written a checkpoint."""
    wait_for_file("outputs/*/*/*/checkpoint.pt", process, number)


def assert_saved(number):
    assert [status["state"] for status in statuses()] == ["interrupted"] * number
    assert all(status["reason"].startswith("interrupted; resume with: ") for status in statuses())


def ignoring(*numbers):
    """Ignore signals, as `nohup` does and a shell for a background process."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_interrupts_a_run_after_saving(number):
    run = start(*ENDLESS)
    await_training(1, run)
    run.send_signal(number)
    _, err = run.communicate()
    assert run.returncode == 130 and "interrupted; resume with: gr-run resume=" in err
    assert_saved(1)


@pytest.mark.parametrize("argv", [(), ("-m", "seed=0,1")])
def test_ignored_signals_stay_ignored_and_sigterm_interrupts(argv):
    run = start(*argv, *ENDLESS, preexec_fn=partial(ignoring, signal.SIGINT, signal.SIGHUP))
    await_training(1, run)
    for number in (signal.SIGINT, signal.SIGHUP):
        run.send_signal(number)
    at = statuses()[0]["updated"]
    wait_for(lambda: statuses()[0]["updated"] > at, run)
    assert statuses()[0]["state"] == "running"
    for _ in range(3):  # unlike Ctrl-C, several of them are one request
        run.send_signal(signal.SIGTERM)
    run.communicate()
    assert run.returncode == 130
    assert_saved(1)


def test_a_repeated_request_does_not_disturb_saving(gr_run, monkeypatch):
    class Twice(StopAt):
        def stepped(self, number, position, losses):
            if (number, position.iteration) == self.at:
                os.kill(os.getpid(), signal.SIGTERM)

        def close(self):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("gr_cli.terminal.run_display.TerminalObserver", lambda **_: Twice(0, 1))
    code, _, err = gr_run("strategy=finetune", "train.iterations=3", "threads=1", "evaluate.generated_samples=0")
    assert code == 130 and "interrupted; resume with: gr-run resume=" in err
    assert_saved(1)


LAUNCHERS = [
    pytest.param(("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), marks=needs_joblib, id="joblib"),
    pytest.param(("hydra/launcher=batched", "hydra.launcher.processes=2", "hydra.launcher.width=1"), id="batched"),
]


def process_group_has_ended(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_worker_processes_save_and_end_with_the_command(launcher, number):
    sweep = start("-m", *ENDLESS, "seed=range(3)", *launcher, start_new_session=True)
    await_training(2, sweep)
    sweep.send_signal(number)
    _, err = sweep.communicate()
    if number == signal.SIGTERM:
        assert sweep.returncode == 130 and "Traceback" not in err
        assert err.count("gr-run: interrupted: outputs/") == 2 and "3 of 3 runs did not finish" in err
    wait_until(lambda: process_group_has_ended(sweep.pid))
    assert_saved(2)


@needs_joblib
def test_no_further_run_begins_after_a_signal():
    sweep = start("-m", *ENDLESS, "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=1")
    await_training(1, sweep)
    sweep.send_signal(signal.SIGTERM)
    _, err = sweep.communicate()
    assert sweep.returncode == 130, err
    assert_saved(1)


def test_closing_the_terminal_is_a_request_to_stop():
    main, other = pty.openpty()
    os.set_blocking(main, False)
    control = partial(fcntl.ioctl, 0, termios.TIOCSCTTY, 0)
    run = start(*ENDLESS, stdin=other, stdout=other, stderr=other, start_new_session=True, preexec_fn=control)
    os.close(other)

    def saved():
        with suppress(OSError):  # nothing to read
            os.read(main, 1 << 16)
        return list(Path("outputs").glob("*/*/*/checkpoint.pt"))

    wait_for(saved, run)
    os.close(main)
    assert run.wait() == 130
    assert_saved(1)
