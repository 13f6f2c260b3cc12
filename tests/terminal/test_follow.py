"""A sweep whose runs other processes train, on the terminal of the process that began it."""

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from gr_cli.results.progress import Watched
from gr_cli.terminal.bars import Course
from gr_cli.terminal.follow import Onlooker
from gr_cli.terminal.sweep_progress import Tally
from helpers.processes import wait_for_file
from helpers.run_folders import write_run

AT = {"task": 2, "tasks": 5, "iteration": 30, "iterations": 50, "done": 80, "total": 250}


class Told:
    """A course that remembers what it was told."""

    def __init__(self):
        self.lines, self.running = [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def say(self, line):
        self.lines.append(line)

    def show(self, tally, running):
        self.running = [run.path for run in running]


@pytest.fixture
def said():
    """The file of what is said."""
    with TemporaryFile(buffering=0) as file:
        yield file


def onlooker_of(paths, said, course=None):
    return Onlooker(paths, Tally(total=len(paths)), course or Told(), said.fileno())


def set_status(path, **status):
    """As a run of another machine would, which is told alive by its status."""
    path.mkdir(parents=True, exist_ok=True)
    now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    facts = {"host": "nowhere", "updated": now, "reason": None, "seconds": 1.0, "progress": AT}
    (path / "status.json").write_text(json.dumps(facts | status))


def test_a_run_is_told_once_when_it_is_over(said):
    over = write_run(Path("outputs"), seed=0, accuracy=0.5)
    other = write_run(Path("outputs"), seed=1, accuracy=0.25, state="running")
    (other / "status.json").unlink()
    paths = [over, other]
    onlooker = onlooker_of(paths, said)
    told = onlooker._course
    for _ in range(2):
        onlooker.look()
    assert told.lines == [f"finished before,  50.0 %: {over}"] and told.running == []
    set_status(other, state="running")
    onlooker.look()
    assert told.running == [other] and onlooker._tally.over == 1
    (other / "metrics.csv").write_text("metric,value\naverage_accuracy,0.25\n")
    set_status(other, state="finished")
    for _ in range(2):
        onlooker.look()
    assert told.lines[1:] == [f"finished,  25.0 %: {other}"]
    assert (onlooker._tally.over, onlooker._tally.failed, onlooker._tally.trained) == (2, 0, 1.0)


def test_a_failure_is_told_with_its_folder_unless_the_run_said_it(said):
    paths = [Path("outputs/a/b/seed0"), Path("outputs/a/b/seed1"), Path("outputs/a/b/seed2")]
    onlooker = onlooker_of(paths, said)
    set_status(paths[0], state="failed", reason="loss is nan")
    onlooker.look()
    set_status(paths[1], state="failed", reason="no memory\nleft")
    onlooker.look()  # here it may not yet have said it
    said.write(b"gr-run: outputs/a/b/seed1: no memory left\n")
    set_status(paths[2], state="running", host=os.uname().nodename)  # and nobody holds its folder
    for _ in range(3):
        onlooker.look()
    assert onlooker._course.lines == [
        f"gr-run: {paths[0]}: loss is nan",
        "gr-run: outputs/a/b/seed1: no memory left",
        f"gr-run: {paths[2]}: killed",
    ]
    assert (onlooker._tally.over, onlooker._tally.failed) == (3, 3)


@pytest.mark.parametrize("state", ["failed", "interrupted", "killed"])
def test_what_an_earlier_command_left_is_still_to_come(said, state):
    path = Path("outputs/a/b/seed0")
    left = {"state": state, "reason": "loss is nan"}
    set_status(path, **left)
    onlooker = onlooker_of([path], said)
    onlooker.look()
    assert onlooker._course.lines == [] and onlooker._tally.over == 0
    set_status(path, state="failed", reason="loss is nan", seconds=1.5)  # in no time, and as before
    for _ in range(2):
        onlooker.look()
    assert onlooker._course.lines == [f"gr-run: {path}: loss is nan"] and onlooker._tally.failed == 1


def test_what_the_folders_tell_is_not_passed_on_and_all_else_is_in_whole_lines(said):
    path = write_run(Path("outputs"), state="running")
    onlooker = onlooker_of([path], said)
    said.write(f"begins: {path}\n\x1b[36m(pid=7)\x1b[0m finished, 100.0 %: {path}\n".encode())
    said.write(f"finished before,  97.0 %: {path}\nfinished,   – %: {path}\n".encode())
    said.write(f"begins: {path}-2\n   10%\r  100%\r\nmy own w".encode())
    onlooker.hear()
    said.write("örds\nlast".encode())
    onlooker.hear()
    assert onlooker._course.lines == [f"begins: {path}-2", "  100%", "my own wörds"]


def test_runs_go_on_without_being_shown_when_that_fails(said):
    class Broken(Told):
        def show(self, tally, running):
            raise ZeroDivisionError("nobody\nforesaw this")

    onlooker = onlooker_of([Path("outputs/a/b/seed0")], said, Broken())
    over = threading.Event()
    thread = threading.Thread(target=onlooker.look_on, args=(over,))
    thread.start()
    said.write(b"still heard\n")
    over.set()
    thread.join()
    mine = [line for line in onlooker._course.lines if line.startswith("gr-run")]
    assert mine == ["gr-run: can't show the runs (ZeroDivisionError: nobody foresaw this)"]
    assert "still heard" in onlooker._course.lines


# --- what it looks like


def shown(runs, width, **counts):
    """The last that a course shows."""
    file = io.StringIO()
    file.isatty = lambda: True
    course = Course(file)
    course._console.size = course._console.size._replace(width=width, height=24)
    with course:
        course.show(Tally(**counts), runs)
        course._bars._live.refresh()
        text = file.getvalue()
    return [line.rstrip() for line in re.sub(r"\x1b\[\??[\d;]*[A-Za-z]", "", text).replace("\r", "\n").splitlines()]


def running(seed, **facts):
    path = Path(f"outputs/split_digits/generative_replay-vae/replay_weight=0.25,lr=0.001-seed{seed}-0123abcd")
    return Watched(path, "running", AT, 0.5, 100.0, 150.0, **facts)


@pytest.mark.parametrize("width", [60, 80, 140])
def test_a_sweep_and_what_is_under_way_fit(width, monkeypatch):
    monkeypatch.setattr("gr_cli.terminal.sweep_progress.monotonic", lambda: 130.0)
    together = [running(seed, program="0a1b2c3d") for seed in range(3)]
    lines = shown([running(7), *together], width, total=12, over=3, failed=1, trained=2.0, _began=100.0)[-3:]
    assert max(map(len, lines)) <= width
    every, alone, program = lines
    assert re.search(r"^all runs +1 failed .* 3/12 +1:51", every)
    assert "lr=0.001-seed7 " in alone and "0123abcd" not in alone
    assert "3 runs as one " in program
    assert all("task 2/5" in line and "2:30" in line for line in (alone, program))
    assert ("50.0 % so far" in alone) == (width > 60)


def test_more_runs_than_lines_are_counted():
    lines = shown([running(seed) for seed in range(64)], 80, total=100)
    assert len(lines) <= 24 and lines[-1].startswith("and 44 more")


# --- in a terminal


def in_a_terminal(*words, width=100, err=None, interrupt_at=None):
    """`gr-run` in a terminal of its own: the exit code, and what the terminal was sent. Ctrl-C is typed when two files
    like `interrupt_at` are there."""
    command = [sys.executable, "-m", "gr_cli", *words]
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
    process = subprocess.Popen(
        command,
        stdin=other,
        stdout=other,
        stderr=other if err is None else err,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm"},
    )
    os.close(other)
    sent = []

    def read():
        with suppress(OSError):  # nobody has it open any more
            while data := os.read(main, 65536):
                sent.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    if interrupt_at is not None:
        wait_for_file(interrupt_at, process, 2)
        os.write(main, b"\x03")
    code = process.wait()
    reader.join()
    os.close(main)
    text = b"".join(sent).decode()
    assert "\x1b[?25l" not in text  # the cursor is never hidden, so that nothing has to bring it back
    return code, re.sub(r"\x1b\[\??[\d;]*[A-Za-z]", "", text).replace("\r", "\n").splitlines()


SMALL = ("-m", "strategy=finetune", "log.every=5", "threads=1", "model.hidden_sizes=[8]", "evaluate.dreams=0")


def test_a_sweep_in_processes_is_shown_by_the_command_itself():
    words = (*SMALL, "train.iterations=300", "seed=0,1", "hydra/launcher=batched", "hydra.launcher.processes=2")
    code, lines = in_a_terminal(*words, "hydra.launcher.width=1")
    assert code == 0
    assert sum(line.startswith("finished, ") for line in lines) == 2
    assert any(re.match(r"all runs +\S+ +[01]/2", line) for line in lines)
    assert any(re.match(r"\S*seed0 +task \d/5 ", line) for line in lines)
    assert not any(line.startswith("begins") for line in lines)


def test_failures_are_told_at_once_and_what_goes_to_a_file_goes_there():
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = (*SMALL, "train.iterations=30", "optimizer=sgd", "optimizer.lr=1e30,0.1", "hydra/launcher=joblib")
    with Path("err").open("wb") as err:
        code, lines = in_a_terminal(*words, "hydra.launcher.n_jobs=1", err=err)
    assert code == 1
    failure, end, *_ = (i for i, line in enumerate(lines) if line.startswith(("gr-run: outputs/", "finished, ")))
    assert "loss `current` is" in lines[failure] and "lr=1e+30" in lines[failure] and failure < end
    told = Path("err").read_text()
    assert told.count("loss `current` is") == 1 and "1 of 2 runs did not finish" in told


def test_ctrl_c_leaves_a_terminal_as_it_was_and_says_what_became_of_the_runs():
    words = (*SMALL, "train.iterations=8000", "seed=0,1", "hydra/launcher=batched", "hydra.launcher.processes=2")
    code, lines = in_a_terminal(*words, "hydra.launcher.width=1", interrupt_at="outputs/*/*/*/history.csv")
    assert code == 130
    end = lines.index("gr-run: 2 of 2 runs did not finish; the same command repeats these")
    assert sum(line.startswith("gr-run: interrupted: outputs/") for line in lines[:end]) == 2
    assert not any("all runs" in line for line in lines[end:])
