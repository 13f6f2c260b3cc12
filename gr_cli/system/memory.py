"""Memory of the machine and of the GPU, and the error when it runs out."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from gr_cli.errors import GrError, OutOfMemoryError, one_line

# Parts of torch's messages when a tensor can't be allocated on the CPU; on a GPU it raises torch.OutOfMemoryError.
_OUT_OF_MEMORY_MESSAGES = (
    "can't allocate memory",
    "not enough memory",
    "calculation overflowed",
    "multiplication overflow",
)


@contextmanager
def out_of_memory_as(error_type: type[GrError] = OutOfMemoryError, runs: int = 1) -> Iterator[None]:
    """Turn out-of-memory errors of Python and torch into `error_type`, with a message that says what to lower.

    Args:
        error_type: Error to raise.
        runs: Number of runs that are trained as one program.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        gpu = isinstance(error, torch.OutOfMemoryError)
        if (
            not gpu
            and not isinstance(error, MemoryError)
            and not any(text in str(error) for text in _OUT_OF_MEMORY_MESSAGES)
        ):
            raise
        detail = one_line(error).rpartition("Allocator: ")[2].partition(". Error")[0][:150]
        launcher = "hydra.launcher.width or hydra.launcher.memory_mib, or " if runs > 1 else ""
        other_device = ", or try device=cpu" if gpu else ""
        raise error_type(
            f"out of memory{' on the GPU' if gpu else ''}{f' ({detail})' if detail else ''}; try a lower {launcher}"
            f"train.batch_size, smaller memories or narrower networks{other_device}"
        ) from error


# Parameters of glibc's mallopt, from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BLOCK_BYTES = 1 << 30  # larger blocks are returned


def keep_freed_memory() -> None:
    """Make the C library of Linux (glibc) keep memory that is freed; elsewhere without effect.

    By default it returns more than 64 MiB of free memory to the system, and gets it back page by page: in programs of
    32 networks with 100 units, a step took 18,000 page faults and 1.14 times as long.
    """
    if sys.platform != "linux":
        return
    with suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: allocated on the GPU, else used by this process; 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if peak_values := _read_kernel_bytes("/proc/self/status", "VmHWM"):
        return peak_values[0]
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def _read_kernel_bytes(path: str, name: str) -> list[int]:
    """Values of a field, in bytes, from a file of /proc; empty if there is no such file."""
    with suppress(OSError, ValueError):
        lines = Path(path).read_text(encoding="ascii").splitlines()
        return [int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")]
    return []


_CGROUP = Path("/sys/fs/cgroup")  # limits of a container


def available_memory(device: torch.device) -> int:
    """Free bytes of the GPU, else of the machine, the container, or the process under a limit on its data."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = _read_kernel_bytes("/proc/meminfo", "MemAvailable")
    with suppress(OSError, ValueError):  # not in a container, or without a limit
        free.append(
            int((_CGROUP / "memory.max").read_text(encoding="ascii"))
            - int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        )
    if (limit := _data_limit()) is not None:
        free.append(limit - sum(_read_kernel_bytes("/proc/self/status", "VmData")))
    return max(0, min(free, default=4 << 30))


def _data_limit() -> int | None:
    """The limit on the process's writable memory (`ulimit -d`) in bytes; None if there is none."""
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def total_memory(device: torch.device) -> int:
    """Total bytes of the GPU, else of the machine or the container; `sys.maxsize` if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    limits = []
    with suppress(AttributeError, OSError, ValueError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):
        limits.append(int((_CGROUP / "memory.max").read_text(encoding="ascii")))
    return min(limits, default=sys.maxsize)
