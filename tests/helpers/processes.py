"""Runs in separate processes. No helper has a timeout of its own: it returns when the condition holds or the process
ends; the limit of each test (`pyproject.toml`) ends a wait without end."""

import os
import subprocess
import sys
import time
from pathlib import Path


def start(*words: str, **settings) -> subprocess.Popen:
    """Start `gr-run` with these overrides and one thread; its output is captured unless `settings` say otherwise."""
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | settings
    settings["env"] = {**os.environ, "OMP_NUM_THREADS": "1", **settings.get("env", {})}
    return subprocess.Popen([sys.executable, "-m", "gr_cli", *words], **settings)


def wait_for(condition, process: subprocess.Popen):
    """Poll `condition` until it is true and return its value; fails if `process` ends before."""
    while True:
        over = process.poll() is not None
        if found := condition():
            return found
        if over:
            output = process.communicate() if process.stdout is not None else ()
            raise AssertionError(f"it ended with {process.returncode} before that came: {output}")
        time.sleep(0.05)


def wait_until(condition) -> None:
    """Poll a condition that depends on no process of this test."""
    while not condition():
        time.sleep(0.05)


def wait_for_file(pattern: str, process: subprocess.Popen, number: int = 1) -> list[Path]:
    """Wait for that number of files that match a pattern."""
    return wait_for(lambda: len(found := sorted(Path().glob(pattern))) >= number and found, process)
