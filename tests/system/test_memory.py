"""Memory that the C library keeps."""

import platform
import subprocess
import sys

import pytest

COUNT_PAGE_FAULTS = """
import resource
import torch
from gr_cli.system.memory import keep_freed_memory

{call}
def step():
    block = torch.ones(10 << 20)  # 40 MiB: above the largest threshold that glibc chooses by itself
for _ in range(10):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(call):
    code = COUNT_PAGE_FAULTS.format(call=call)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another one")
def test_freed_memory_is_kept():
    assert page_faults("keep_freed_memory()") < page_faults("") / 2  # of four times 40 MiB: 40,960 pages of 4 KiB


def test_other_systems_are_left_alone(monkeypatch):
    from gr_cli.system import memory

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())  # without `mallopt`
    memory.keep_freed_memory()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: pytest.fail("not on this system"))
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    memory.keep_freed_memory()
