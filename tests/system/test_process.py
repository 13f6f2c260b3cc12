"""The process ends as `sys.exit` ends it, but faster, and the garbage collector is back when it should be."""

import gc
import subprocess
import sys

import pytest

from gr_cli.system.process import paused_garbage_collection

# A module in place of torch makes the process exit without teardown.
SCRIPT = """
import atexit, sys, threading, time, types
from gr_cli.system.process import exit_process
if {fast}:
    sys.modules["torch"] = types.ModuleType("torch")
else:
    sys.modules.pop("torch", None)
atexit.register(print, "handler")
file = open("unclosed.txt", "w")
file.write("buffered")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
print("main")
exit_process(3)
"""


@pytest.mark.parametrize("fast", [True, False])
def test_exit_waits_for_threads_calls_handlers_and_flushes(tmp_path, fast):
    command = [sys.executable, "-c", SCRIPT.format(fast=fast)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (3, "main\nthread\nhandler\n", "")
    assert (tmp_path / "unclosed.txt").read_text() == "buffered"


def test_a_profiled_process_ends_in_the_usual_way(tmp_path):
    """Profilers write their results when the interpreter ends."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(fast=True))
    command = [sys.executable, "-m", "cProfile", str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "function calls" in done.stdout


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_paused_and_as_it_was_afterwards(enabled):
    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        frozen = gc.get_freeze_count()
        with paused_garbage_collection():
            assert not gc.isenabled()
            made = [[i] for i in range(100)]
        assert gc.isenabled() == enabled
        assert gc.get_freeze_count() >= frozen + len(made)
    finally:
        gc.unfreeze()
        (gc.enable if was_enabled else gc.disable)()
