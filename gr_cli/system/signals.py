"""Signals as requests to stop, time limits after a request, and stopping the worker processes of a sweep."""

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
except ImportError:  # Windows: worker processes end after their current job
    fcntl = None  # type: ignore[assignment]

# Ctrl-C, the end of a job of a cluster, a closed terminal.
_STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_LIFELINE_VARIABLE = "GR_LIFELINE"
_POLL_SECONDS = 0.25

# Whether this process has received a request to stop.
_stop_requested = threading.Event()


class DeadlineExceeded(BaseException):
    """A block took longer than its time limit. A BaseException, so that retry loops don't swallow it."""


def _stop_signals() -> list[signal.Signals]:
    """The stop signals that this thread can handle, without those that are ignored (by `nohup`, for instance)."""
    signals = [getattr(signal, name) for name in _STOP_SIGNALS if hasattr(signal, name) and _in_main_thread()]
    return [number for number in signals if signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def _signal_handlers(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    """Replace signal handlers inside the block, and restore them."""
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set by C code


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM and SIGHUP set; a second Ctrl-C raises KeyboardInterrupt."""
    stop = threading.Event()

    def request(number: int, frame: FrameType | None) -> None:
        # Not SIGTERM: schedulers may send it to the process group and to each process again.
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()
        _stop_requested.set()

    with _signal_handlers(dict.fromkeys(_stop_signals(), request)):
        yield stop


@contextmanager
def signals_as_keyboard_interrupts() -> Iterator[None]:
    """Let the first SIGTERM or SIGHUP raise KeyboardInterrupt inside the block, as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not _stop_requested.is_set():
            _stop_requested.set()
            raise KeyboardInterrupt

    _stop_requested.clear()
    with _signal_handlers({number: interrupt for number in _stop_signals() if number != signal.SIGINT}):
        yield


@contextmanager
def deadline_after_stop(seconds: float, start_now: bool = False) -> Iterator[None]:
    """Limit the time of a block after a request to stop.

    Args:
        seconds: Time that the block has left after the request.
        start_now: Whether the time starts at once instead.

    Raises:
        DeadlineExceeded: The time is over.
    """
    if not _in_main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    in_block = True

    def raise_deadline(number: int, frame: FrameType | None) -> None:
        if in_block:
            raise DeadlineExceeded(f"no answer within {seconds:g} seconds")

    def with_timer(handler: Any) -> Any:
        def request(number: int, frame: FrameType | None) -> None:
            if not signal.getitimer(signal.ITIMER_REAL)[0]:  # a second request does not extend the time
                signal.setitimer(signal.ITIMER_REAL, seconds)
            handler(number, frame)

        return request if callable(handler) else handler

    handlers = {number: with_timer(signal.getsignal(number)) for number in _stop_signals()}
    with _signal_handlers(handlers | {signal.SIGALRM: raise_deadline}):
        if start_now:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            try:
                yield
            finally:
                in_block = False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)


# --- worker processes of a sweep
#
# Workers save their runs and end when the process of the command ends, in whatever way. The lifeline is a file in which
# the command locks the first byte until it ends, and each worker holds a shared lock on the second byte until its run
# is saved. A worker exits only after all workers have saved: launchers kill the other workers when one is lost.

_COMMAND_BYTE, _WORKERS_BYTE = 0, 1

# The lifeline of the command's process. It is kept after a sweep, because a launcher may reuse the workers.
_command_files: list[IO[bytes]] = []


@contextmanager
def lifeline() -> Iterator[None]:
    """Make workers that are started inside the block stop with this process. They have to call `join_lifeline`.

    A request to stop waits until the workers have saved their runs; a second request does not wait.

    Raises:
        KeyboardInterrupt: This process received a request to stop, and the workers have ended.
    """
    if fcntl is None or not _in_main_thread():
        yield
        return
    if not _command_files:
        file = NamedTemporaryFile(prefix="gr-", buffering=0, delete=False)  # noqa: SIM115  open until the sweep is stopped
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


# The lifeline of a worker process.
_worker_files: list[int] = []


def join_lifeline() -> None:
    """In a worker process: save the run and exit when the process of the command ends."""
    if _worker_files and _command_has_ended(_worker_files[0]):
        _exit_with_all_workers(_worker_files[0])
    command, _, name = os.environ.get(_LIFELINE_VARIABLE, "").partition(":")
    if command in ("", str(os.getpid())) or fcntl is None:  # the launcher runs jobs in the command's own process
        return
    del os.environ[_LIFELINE_VARIABLE]
    try:
        file = os.open(name, os.O_RDWR)
    except OSError:
        os.kill(os.getpid(), signal.SIGTERM)  # the command has ended already
        return
    _worker_files.append(file)
    fcntl.lockf(file, fcntl.LOCK_SH, 1, _WORKERS_BYTE)
    for number in _stop_signals():
        if number != signal.SIGTERM:  # sent to all processes of a terminal: the command passes it on
            signal.signal(number, signal.SIG_IGN)

    def watch() -> None:
        while not _command_has_ended(file):
            time.sleep(_POLL_SECONDS)
        Path(name).unlink(missing_ok=True)  # if the command was killed
        while callable(signal.getsignal(signal.SIGTERM)):  # during a run: a request to save it and stop
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_POLL_SECONDS)
        _exit_with_all_workers(file)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def exit_if_worker() -> None:
    """Exit a worker process after an interrupted run: the launcher would give it the next run."""
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
    """Lock a byte of an open file; False if another process has locked it."""
    try:
        fcntl.lockf(file, operation | fcntl.LOCK_NB, 1, byte)
    except OSError:
        return False
    return True
