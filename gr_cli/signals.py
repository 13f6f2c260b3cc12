"""Ctrl-C and SIGTERM as requests to stop, and what may not keep them waiting."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_REQUESTS = (signal.SIGINT, signal.SIGTERM)


class Overdue(BaseException):
    """What was waited for takes too long. No ordinary exception: who tries again after these shall not after this."""


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets; the second Ctrl-C leaves at once."""
    stop = threading.Event()

    def request(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, request) for number in _REQUESTS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def not_kept_waiting(seconds: float, at_once: bool = False) -> Iterator[None]:
    """From a request to stop on, or `at_once`, the block has so many seconds left.

    Raises:
        Overdue: they are over.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    inside = True

    def give_up(number: int, frame: FrameType | None) -> None:
        if inside:
            raise Overdue(f"no answer within {seconds:g} seconds")

    def noting(handler: Any) -> Any:
        def request(number: int, frame: FrameType | None) -> None:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            handler(number, frame)

        return request if callable(handler) else handler

    before = {number: signal.getsignal(number) for number in (*_REQUESTS, signal.SIGALRM)}
    for number in _REQUESTS:
        signal.signal(number, noting(before[number]))
    signal.signal(signal.SIGALRM, give_up)
    if at_once:
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        try:
            yield
        finally:
            inside = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in before.items():
            signal.signal(number, handler)
