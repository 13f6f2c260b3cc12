"""Start and end of the process: importing torch, and exiting without its slow teardown."""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
import threading
from typing import Any, NoReturn

from gr_cli.system.messages import print_status


def pause_garbage_collection() -> None:
    """No garbage collection while the process starts, which makes many objects and hardly any garbage."""
    gc.disable()


def resume_garbage_collection() -> None:
    """Collect garbage again, if that is paused; objects that exist already are never looked through."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def import_torch(announce: bool = True) -> None:
    """Import torch, unless it is; print a line before, since that takes seconds."""
    if "torch" in sys.modules:
        return
    if announce:
        print_status("loading torch …")
    was_enabled = gc.isenabled()
    pause_garbage_collection()
    try:
        import torch  # noqa: F401
    finally:
        if was_enabled:
            resume_garbage_collection()


def exit_process(code: int) -> NoReturn:
    """End the process as `sys.exit` does; if torch is loaded, without tearing it down, which takes half a second.

    Threads are waited for, exit handlers are called and open files are flushed as usual.
    """
    if "torch" not in sys.modules or _is_observed():
        sys.exit(code)
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        _flush_open_files()
    finally:
        os._exit(code)


def _is_observed() -> bool:
    """Whether a profiler, debugger or coverage tool is active, which may report when the interpreter ends."""
    if sys.version_info >= (3, 12) and any(sys.monitoring.get_tool(number) for number in range(6)):
        return True
    return sys.getprofile() is not None or sys.gettrace() is not None


def _flush_open_files() -> None:
    """Flush all open files, the standard streams last: what they print may be about the others."""
    # By type: `isinstance` would ask objects for their `__class__`, and deprecated ones of torch warn then.
    buffered = (io.TextIOWrapper, io.BufferedWriter)
    files: list[Any] = [each for each in gc.get_objects() if issubclass(type(each), buffered)]
    for file in [*files, sys.stdout, sys.stderr]:
        try:
            file.flush()
        except (OSError, ValueError):  # ValueError: closed
            continue
