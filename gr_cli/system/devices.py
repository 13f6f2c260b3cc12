"""The machine: its devices, threads and memory."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path

import torch
from torch import nn

from gr_cli.errors import ConfigError
from gr_cli.system.messages import print_status


def num_parameters(network: nn.Module) -> int:
    """Number of parameters; what is fitted instead of learnt by steps tells its own."""
    told = getattr(network, "num_stored_values", None)
    return sum(p.numel() for p in network.parameters()) if told is None else int(told)


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto`: a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError("device", name, "must be auto, cpu, cuda or cuda:<number>") from error
    gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ConfigError("device", name, f"this machine has {gpus} usable GPUs", "try device=auto")
    return device


# What ONEDNN_MAX_CPU_ISA may hold oneDNN to, of instruction sets without products of bfloat16.
_ISAS_WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")


def supports_bfloat16(device: torch.device) -> bool:
    """Whether the processor has arithmetic in bfloat16, by its features, not by a clock: elsewhere it is emulated, and
    many times slower than float32. What the environment holds torch (ATEN_CPU_CAPABILITY) or oneDNN
    (ONEDNN_MAX_CPU_ISA) to counts as all that there is."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    held = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", ""))
    if held.upper() in _ISAS_WITHOUT_BFLOAT16:
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return has and torch.backends.cpu.get_cpu_capability() == "AVX512"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    return any("bf16" in line.split() for line in lines if line.startswith("Features"))


def fastest_precision(device_name: str) -> str:
    """`bf16` where the device of that name computes in it, else `float32`.

    Raises:
        ConfigError: there is no such device here.
    """
    return "bf16" if supports_bfloat16(pick_device(device_name)) else "float32"


@cache
def warn_if_bfloat16_is_emulated(device: torch.device) -> None:
    """Say, once in a process, that `precision=bf16` will be slow, if it will."""
    if not supports_bfloat16(device):
        print_status(
            "precision=bf16: has no arithmetic of its own on this processor, and is slow; precision=auto knows that"
        )


# Below this many multiplications per forward pass, a second thread costs more than it brings.
_MIN_MULTIPLICATIONS_FOR_THREADS = 10_000_000


def default_threads(solver: nn.Module, batch_size: int) -> int:
    """Threads for networks of this size: one for small ones, else as many as torch would take."""
    convolutional = any(isinstance(module, nn.Conv2d) for module in solver.modules())
    return (
        torch.get_num_threads()
        if convolutional or num_parameters(solver) * batch_size > _MIN_MULTIPLICATIONS_FOR_THREADS
        else 1
    )


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Let numbers below 1e-38 be 0 inside the block. The moments of a unit that is silent decay to such numbers, and
    arithmetic on them takes a processor a hundred times as long."""
    before = (torch.full((1,), 2e-39) * 0.5).item() == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextmanager
def thread_limit(threads: int) -> Iterator[None]:
    """Let torch use so many threads inside the block, and as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def deterministic_kernels(device: torch.device) -> AbstractContextManager[None]:
    """On a GPU, let convolutions choose kernels that give the same bits every time."""
    if device.type != "cuda":
        return nullcontext()
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    return flags


# --- memory
