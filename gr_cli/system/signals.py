"""Signals as requests to stop, what may not keep them waiting, and how they reach the processes of a sweep."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import FrameType
from typing import IO, Any, NoReturn

try:
    import fcntl
except ImportError:  # Windows: there, the processes of a sweep end with their jobs
    fcntl = None  # type: ignore[assignment]

# Ctrl-C, the end of an allocation, a terminal that is closed.
_STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_LIFELINE_VARIABLE = "GR_LIFELINE"
_POLL_SECONDS = 0.25


# Whether this process was asked to stop, and is leaving.
_stop_requested = threading.Event()


class DeadlineExceeded(BaseException):
    """What was waited for takes too long. No ordinary exception: who tries again after these shall not after this."""


def _stop_signals() -> list[signal.Signals]:
    """The signals that ask this process to stop, where this thread can handle them. One that is ignored, as by nohup,
    asks for nothing."""
    numbers = [getattr(signal, name) for name in _STOP_SIGNALS if hasattr(signal, name) and _in_main_thread()]
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def _signal_handlers(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    """Replace signal handlers inside the block; those of before may be of another library, or of C code (None)."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM or SIGHUP sets; a second Ctrl-C leaves at once."""
    stop = threading.Event()

    def request(number: int, frame: FrameType | None) -> None:
        # Only Ctrl-C: SIGTERM comes twice where a scheduler sends it to a group of processes, and to each again.
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()
        _stop_requested.set()

    with _signal_handlers(dict.fromkeys(_stop_signals(), request)):
        yield stop


@contextmanager
def signals_as_keyboard_interrupts() -> Iterator[None]:
    """Inside the block, SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does, unless one was heard already."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not _stop_requested.is_set():
            _stop_requested.set()
            raise KeyboardInterrupt

    _stop_requested.clear()
    with _signal_handlers({number: interrupt for number in _stop_signals() if number != signal.SIGINT}):
        yield


@contextmanager
def deadline_after_stop(seconds: float, start_now: bool = False) -> Iterator[None]:
    """From a request to stop on, or `at_once`, the block has so many seconds left.

    Raises:
        Overdue: they are over.
    """
    if not _in_main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    inside = True

    def give_up(number: int, frame: FrameType | None) -> None:
        if inside:
            raise DeadlineExceeded(f"no answer within {seconds:g} seconds")

    def noting(handler: Any) -> Any:
        def request(number: int, frame: FrameType | None) -> None:
            if not signal.getitimer(signal.ITIMER_REAL)[0]:  # a second request gives no more time
                signal.setitimer(signal.ITIMER_REAL, seconds)
            handler(number, frame)

        return request if callable(handler) else handler

    handlers = {number: noting(signal.getsignal(number)) for number in _stop_signals()}
    with _signal_handlers(handlers | {signal.SIGALRM: give_up}):
        if start_now:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            try:
                yield
            finally:
                inside = False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)


# --- the processes of a sweep
#
# They end with the process of the command, however that ends, and save what they train. Both sides lock parts of one
# file: the command its first byte, for as long as the sweep goes on, which no process outlives; each of the others the
# second one, until what it trained is saved. None of them ends before all have saved: a launcher that misses one kills
# the others.

_COMMAND_BYTE, _WORKERS_BYTE = 0, 1


# The file of this process, where it is that of the command: as long as it lives, since a launcher may keep the others
# for another sweep.
_command_files: list[IO[bytes]] = []


@contextmanager
def lifeline() -> Iterator[None]:
    """Processes that are started inside the block, and call `hold_lifeline`, save and leave when this one is asked to
    stop, or ends without a word. A request waits for them; a second one does not.

    Raises:
        KeyboardInterrupt: it was asked to stop, and they have left.
    """
    if fcntl is None or not _in_main_thread():
        yield
        return
    if not _command_files:
        file = NamedTemporaryFile(prefix="gr-", buffering=0, delete=False)  # noqa: SIM115  open until it is cut
        atexit.register(Path(file.name).unlink, missing_ok=True)
        fcntl.lockf(file, fcntl.LOCK_EX, 1, _COMMAND_BYTE)
        _command_files.append(file)

    def leave(number: int, frame: FrameType | None) -> None:
        if _command_files:
            with _command_files.pop() as file:
                fcntl.lockf(file, fcntl.LOCK_UN, 1, _COMMAND_BYTE)
                while not _try_lock_byte(file.fileno(), fcntl.LOCK_EX, _WORKERS_BYTE):
                    time.sleep(_POLL_SECONDS)
        raise KeyboardInterrupt

    os.environ[_LIFELINE_VARIABLE] = f"{os.getpid()}:{_command_files[0].name}"
    try:
        with _signal_handlers(dict.fromkeys(_stop_signals(), leave)):
            yield
    finally:
        os.environ.pop(_LIFELINE_VARIABLE, None)


# The file of this process, where it is one of a sweep's.
_worker_files: list[int] = []


def join_lifeline() -> None:
    """In a process that trains runs of a sweep: save and end with the process of the command that began the sweep."""
    if _worker_files and _command_has_ended(_worker_files[0]):
        _exit_with_all_workers(_worker_files[0])
    command, _, name = os.environ.get(_LIFELINE_VARIABLE, "").partition(":")
    if command in ("", str(os.getpid())) or fcntl is None:  # a launcher may run jobs in the command's own process
        return
    del os.environ[_LIFELINE_VARIABLE]
    try:
        file = os.open(name, os.O_RDWR)
    except OSError:
        os.kill(os.getpid(), signal.SIGTERM)  # the command is gone already
        return
    _worker_files.append(file)
    fcntl.lockf(file, fcntl.LOCK_SH, 1, _WORKERS_BYTE)
    for number in _stop_signals():
        if number != signal.SIGTERM:  # a terminal sends it to all: the command hears it, and asks this process to stop
            signal.signal(number, signal.SIG_IGN)

    def watch() -> None:
        while not _command_has_ended(file):
            time.sleep(_POLL_SECONDS)
        Path(name).unlink(missing_ok=True)  # the command may have had no time to
        while callable(signal.getsignal(signal.SIGTERM)):  # a run is under way: it is a request
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_POLL_SECONDS)
        _exit_with_all_workers(file)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def exit_if_worker() -> None:
    """After a run that was asked to stop, end the process that holds a lifeline: it would be handed the next run."""
    if _worker_files:
        _exit_with_all_workers(_worker_files[0])


def _command_has_ended(file: int) -> bool:
    return _try_lock_byte(file, fcntl.LOCK_SH, _COMMAND_BYTE)


def _exit_with_all_workers(file: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    fcntl.lockf(file, fcntl.LOCK_UN, 1, _WORKERS_BYTE)
    while not _try_lock_byte(file, fcntl.LOCK_EX, _WORKERS_BYTE):
        time.sleep(_POLL_SECONDS)
    os._exit(130)


def _try_lock_byte(file: int, operation: int, byte: int) -> bool:
    """Lock a byte of an open file; False if another process has it."""
    try:
        fcntl.lockf(file, operation | fcntl.LOCK_NB, 1, byte)
    except OSError:
        return False
    return True
