"""A sweep whose runs other processes train, on the terminal of the process that began it: what the folders of the runs
tell, and what these processes say besides."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, TextIO

from gr_cli.errors import one_line
from gr_cli.results.progress import WAITING, Watched, Watcher

if TYPE_CHECKING:
    from gr_cli.terminal.bars import Course
    from gr_cli.terminal.sweep_progress import Tally

_SECONDS_BETWEEN_LOOKS = 0.5
_TOO_LITTLE = 0.05  # of a run, to tell from it how long the sweep will take
_BADLY = ("failed", "killed")
# What a run says where nobody shows it live: its folder tells that, too.
_SAID = re.compile(r"\b(?:begins|finished(?: before)?, +\S+ %): (\S.*)$")


@contextmanager
def shown(jobs: Sequence[Path], tally: Tally) -> Iterator[None]:
    """Inside the block, show on a terminal how the runs in these folders go on; elsewhere they say so themselves.

    Other processes write what they say to a file that nobody else sees, and it comes above the bars from there.
    Nothing of this shall end a run, or change it.
    """
    with ExitStack() as stack:
        with suppress(OSError):  # no room for that file, say
            if sys.stdout.isatty() and sys.stdout.fileno() == 1 and hasattr(os, "pread"):
                stack.enter_context(_looked_on(jobs, tally, stack.enter_context(TemporaryFile())))
        yield


@contextmanager
def _looked_on(jobs: Sequence[Path], tally: Tally, file: IO[bytes]) -> Iterator[None]:
    from gr_cli.terminal.bars import Course

    with _elsewhere(file) as terminal:
        over = threading.Event()
        onlooker = Onlooker(jobs, tally, Course(terminal), file.fileno())
        # No daemon: Ctrl-C may come a second time, and the bars shall be gone in the end.
        thread = threading.Thread(target=onlooker.look_on, args=(over,), name="onlooker")
        thread.start()
        try:
            yield
        finally:
            _flush()
            over.set()
            thread.join()


@contextmanager
def _elsewhere(file: IO[bytes]) -> Iterator[TextIO]:
    """Let this process, and those that it starts, write to `file`; the terminal, which is only ours then."""
    _flush()
    kept = {number: os.dup(number) for number in (1, 2) if os.isatty(number)}
    buffered = "PYTHONUNBUFFERED" not in os.environ
    try:
        with open(os.dup(1), "w", encoding=sys.stdout.encoding, errors="replace") as terminal:
            for number in kept:  # stderr may be a file: what goes there shall go there
                os.dup2(file.fileno(), number)
            if buffered:  # on a terminal they would not be: who is killed shall have said what it said
                os.environ["PYTHONUNBUFFERED"] = "1"
            yield terminal
    finally:
        _flush()
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)
        if buffered:
            os.environ.pop("PYTHONUNBUFFERED", None)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()


class Onlooker:
    """Looks at runs and at a file of what was said, and tells a `course` what is new."""

    def __init__(self, jobs: Sequence[Path], tally: Tally, course: Course, said: int) -> None:
        self._jobs, self._tally, self._course, self._said = jobs, tally, course, said
        self._watcher, self._read, self._rest = Watcher(), 0, b""
        self._heard = deque[str](maxlen=1000)
        self._first = {run.path: run for run in self._runs()}
        self._told: dict[Path, Watched] = {}
        self._untold: list[Watched] = []

    def look_on(self, over: threading.Event) -> None:
        """Look again and again until it is `over`; if that fails, at least say what is said."""
        try:
            with self._course:
                while not over.wait(_SECONDS_BETWEEN_LOOKS):
                    self.look()
                self.look()
                self.hear()
                self._untold = [run for run in self._untold if run.state != "killed"]  # as will be said of all runs
                self._tell_failures()
        except Exception as error:
            with suppress(OSError):
                self._course.say(f"gr-run: can't show the runs ({type(error).__name__}: {one_line(error)})")
                while not over.wait(_SECONDS_BETWEEN_LOOKS):
                    self.hear()
                self.hear()

    def hear(self) -> None:
        """Pass on whole lines, but for what the folders tell."""
        while new := os.pread(self._said, 1 << 16, self._read):
            self._read += len(new)
            *lines, self._rest = (self._rest + new).split(b"\n")
            for line in (line.decode(errors="replace").rstrip("\r").rpartition("\r")[2] for line in lines):
                found = _SAID.search(line)
                if found is None or Path(found[1]) not in self._first:
                    self._heard.append(line)
                    self._course.say(line)

    def look(self) -> None:
        """Tell what is new, and show what is under way."""
        self.hear()
        self._tell_failures()
        runs = [run for run in self._runs() if not self._is_left(run)]
        for run in runs:
            if run.state != getattr(self._told.get(run.path), "state", None):
                self._told[run.path] = run
                self._tell(run)
        self._tally.failed = sum(run.state in _BADLY for run in runs)
        self._tally.over = self._tally.failed + sum(run.state == "finished" for run in runs)
        trained = sum(run.share - self._first[run.path].share for run in runs)
        self._tally.trained = trained if trained > _TOO_LITTLE else 0.0
        running = [run for run in runs if run.state == "running"]
        if running or trained:
            self._tally.begin()
        self._course.show(self._tally, running)

    def _runs(self) -> list[Watched]:
        return self._watcher.look([(path, ()) for path in self._jobs], goes_on=True)

    def _is_left(self, run: Watched) -> bool:
        """Whether a run is as an earlier command left it: it will have its turn."""
        return run.state == WAITING or (run.state not in ("finished", "running") and self._is_old(run))

    def _is_old(self, run: Watched) -> bool:
        first = self._first[run.path]
        return (run.state, run.seconds) == (first.state, first.seconds)

    def _tell(self, run: Watched) -> None:
        if run.state == "finished":
            before = " before" if self._is_old(run) else ""
            self._course.say(one_line(f"finished{before}, {100 * (run.accuracy or 0.0):>5.1f} %: {run.path}"))
        elif run.state in _BADLY:
            self._untold.append(run)

    def _tell_failures(self) -> None:
        """Tell of what was seen to have failed at the look before, unless the run itself said so in the meantime."""
        for run in self._untold:
            reason = one_line(run.reason)
            if not reason or not any(reason in line for line in self._heard):
                which = "" if str(run.path) in reason else f"{run.path}: "
                self._course.say(one_line(f"gr-run: {which}{reason or run.state}"))
        self._untold = []
