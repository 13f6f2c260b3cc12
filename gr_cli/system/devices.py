"""Devices, threads and arithmetic of the machine."""

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
    """Number of parameters; of models in closed form, the number of stored values (`num_stored_values`)."""
    stored = getattr(network, "num_stored_values", None)
    return sum(p.numel() for p in network.parameters()) if stored is None else int(stored)


def pick_device(name: str) -> torch.device:
    """The device of a name; `auto`: a GPU if there is one.

    Raises:
        ConfigError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError("device", name, "must be auto, cpu, cuda or cuda:<number>") from error
    gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ConfigError("device", name, f"is not available: this machine has {gpus} usable GPUs", "try device=auto")
    return device


# Values of ONEDNN_MAX_CPU_ISA without bfloat16 instructions.
_ISAS_WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")


def supports_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 instructions, which torch would else emulate, many times slower than float32.

    Limits of the instruction set by `ATEN_CPU_CAPABILITY` and `ONEDNN_MAX_CPU_ISA` are respected.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    max_isa = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", ""))
    if max_isa.upper() in _ISAS_WITHOUT_BFLOAT16:
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        has_instructions = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return has_instructions and torch.backends.cpu.get_cpu_capability() == "AVX512"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    return any("bf16" in line.split() for line in lines if line.startswith("Features"))


def fastest_precision(device_name: str) -> str:
    """`bf16` if the device has bfloat16 instructions, else `float32`.

    Raises:
        ConfigError: There is no such device.
    """
    return "bf16" if supports_bfloat16(pick_device(device_name)) else "float32"


@cache
def warn_if_bfloat16_is_emulated(device: torch.device) -> None:
    """Print once in a process that `precision=bf16` is slow, if the device has no bfloat16 instructions."""
    if not supports_bfloat16(device):
        print_status("precision=bf16: is emulated on this processor, and slow; precision=auto picks float32")


# Multiplications per forward pass below which a second thread costs more time than it saves.
_MIN_MULTIPLICATIONS_FOR_THREADS = 10_000_000


def default_threads(solver: nn.Module, batch_size: int) -> int:
    """Threads for training: 1 for small networks, else torch's default."""
    convolutional = any(isinstance(module, nn.Conv2d) for module in solver.modules())
    return (
        torch.get_num_threads()
        if convolutional or num_parameters(solver) * batch_size > _MIN_MULTIPLICATIONS_FOR_THREADS
        else 1
    )


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Round denormal numbers (below 1e-38) to 0 inside the block.

    Optimizer moments of inactive units decay to such numbers, on which arithmetic is a hundred times slower.
    """
    previous = (torch.full((1,), 2e-39) * 0.5).item() == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(previous)


@contextmanager
def thread_limit(threads: int) -> Iterator[None]:
    """Set torch's number of threads inside the block."""
    previous = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


def deterministic_kernels(device: torch.device) -> AbstractContextManager[None]:
    """A context in which cuDNN chooses deterministic kernels; on a CPU, without effect."""
    if device.type != "cuda":
        return nullcontext()
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    return flags
