"""Runs in processes of their own. None is given a time: what is waited for comes, or the process that should bring it
ends, or the limit of each test (`pyproject.toml`) ends the wait."""

import os
import subprocess
import sys
import time
from pathlib import Path


def start(*words: str, **settings) -> subprocess.Popen:
    """`gr-run` with these words and one thread; what it prints is kept unless `settings` say otherwise."""
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | settings
    settings["env"] = {**os.environ, "OMP_NUM_THREADS": "1", **settings.get("env", {})}
    return subprocess.Popen([sys.executable, "-m", "gr_cli", *words], **settings)


def wait_for(condition, process: subprocess.Popen):
    """What `condition` gives as soon as that is true, while `process` lives."""
    while True:
        over = process.poll() is not None
        if found := condition():
            return found
        if over:
            told = process.communicate() if process.stdout is not None else ()
            raise AssertionError(f"it ended with {process.returncode} before that came: {told}")
        time.sleep(0.05)


def wait_until(condition) -> None:
    """Wait for what no process of this test brings."""
    while not condition():
        time.sleep(0.05)


def wait_for_file(pattern: str, process: subprocess.Popen, number: int = 1) -> list[Path]:
    """So many files of a pattern, once they are there."""
    return wait_for(lambda: len(found := sorted(Path().glob(pattern))) >= number and found, process)
