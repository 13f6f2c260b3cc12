"""The process ends as `sys.exit` ends it, but faster, and the garbage collector is back when it should be."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from gr_cli.system.process import import_torch, pause_garbage_collection, resume_garbage_collection

# A module in place of torch makes the process exit without teardown.
SCRIPT = """
import atexit, sys, threading, time, types
from gr_cli.system.process import exit_process
if {fast}:
    sys.modules["torch"] = types.ModuleType("torch")
else:
    sys.modules.pop("torch", None)
atexit.register(print, "handler")
class Deprecated:  # as torch.distributed.reduce_op: to look at it prints a warning
    __class__ = property(lambda self: print("looked at", file=sys.stderr) or object)
deprecated = Deprecated()
deprecated.reference = deprecated
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


@pytest.fixture
def collecting():
    """Whether garbage is collected is as before after the test."""
    was_enabled = gc.isenabled()
    yield
    gc.unfreeze()
    (gc.enable if was_enabled else gc.disable)()


def test_objects_of_the_start_are_not_looked_through_again(collecting):
    frozen = gc.get_freeze_count()
    pause_garbage_collection()
    assert not gc.isenabled()
    made = [[i] for i in range(100)]
    resume_garbage_collection()
    assert gc.isenabled() and gc.get_freeze_count() >= frozen + len(made)
    frozen = gc.get_freeze_count()
    resume_garbage_collection()  # for each job of a sweep: garbage of the last job must not be kept
    assert gc.get_freeze_count() == frozen


@pytest.mark.parametrize("enabled", [True, False])
def test_torch_is_imported_without_garbage_collection(collecting, monkeypatch, tmp_path, enabled):
    (tmp_path / "torch.py").write_text("import gc\nassert not gc.isenabled()")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch")
    (gc.enable if enabled else gc.disable)()
    import_torch(announce=False)
    assert gc.isenabled() == enabled and sys.modules["torch"].__file__ == str(tmp_path / "torch.py")


# Commands that train, evaluate or validate many jobs.
@pytest.mark.parametrize("words", [("strategy=finetune",), ("-m", "strategy=finetune"), ("inspect=true",)])
def test_garbage_is_collected_when_the_work_begins(collecting, gr_run, words):
    pause_garbage_collection()
    code, _, err = gr_run(*words, "train.iterations=1")
    assert code == 0, err
    assert gc.isenabled()


def test_garbage_is_collected_in_commands_on_a_folder(collecting, gr_run, gr_audit):
    assert gr_run("strategy=finetune", "train.iterations=1")[0] == 0
    folder = next(Path("outputs").rglob("config.yaml")).parent
    commands = [(gr_run, f"verify={folder}"), (gr_audit, folder, "--raw-samples"), (gr_run, f"resume={folder}")]
    for program, *words in commands:
        pause_garbage_collection()
        assert program(*words)[0] == 0
        assert gc.isenabled()
