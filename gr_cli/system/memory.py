"""Memory: how much there is, how much was used, and what happens when it runs out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from gr_cli.errors import GrError, OutOfMemoryError, one_line

# What torch says when the machine has no memory for a tensor, or no machine could have; on a GPU it raises an error of
# its own.
_OUT_OF_MEMORY_MESSAGES = (
    "can't allocate memory",
    "not enough memory",
    "calculation overflowed",
    "multiplication overflow",
)


@contextmanager
def out_of_memory_as(error_type: type[GrError] = OutOfMemoryError, runs: int = 1) -> Iterator[None]:
    """Inside the block, make an error of that kind, one line, of the many in which memory can run out, when `runs` are
    trained together. It says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        gpu = isinstance(error, torch.OutOfMemoryError)
        if (
            not gpu
            and not isinstance(error, MemoryError)
            and not any(words in str(error) for words in _OUT_OF_MEMORY_MESSAGES)
        ):
            raise
        told = one_line(error).rpartition("Allocator: ")[2].partition(". Error")[0][:150]
        together = "hydra.launcher.width or hydra.launcher.memory_mib, or " if runs > 1 else ""
        other = ", or try device=cpu" if gpu else ""
        raise error_type(
            f"out of memory{' on the GPU' if gpu else ''}{f' ({told})' if told else ''}; try a lower {together}"
            f"train.batch_size, smaller memories or narrower networks{other}"
        ) from error


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: of the GPU, else by this process; 0 where nothing can be told."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if found := _read_kernel_bytes("/proc/self/status", "VmHWM"):
        return found[0]
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def _read_kernel_bytes(path: str, name: str) -> list[int]:
    """A number of bytes from an account of the kernel; empty where there is none."""
    with suppress(OSError, ValueError):
        lines = Path(path).read_text(encoding="ascii").splitlines()
        return [int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")]
    return []


_CGROUP = Path("/sys/fs/cgroup")  # of the container that this process may be in


def available_memory(device: torch.device) -> int:
    """Bytes that are free: of the GPU, else of this machine and of the container that this process may be in."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = _read_kernel_bytes("/proc/meminfo", "MemAvailable")
    with suppress(OSError, ValueError):  # no container, or one without a limit
        free.append(
            int((_CGROUP / "memory.max").read_text(encoding="ascii"))
            - int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        )
    return min(free, default=4 << 30)


def total_memory(device: torch.device) -> int:
    """Bytes that there are, free or not; more than any machine has where nothing can be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    found = []
    with suppress(AttributeError, OSError, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):
        found.append(int((_CGROUP / "memory.max").read_text(encoding="ascii")))
    return min(found, default=sys.maxsize)
