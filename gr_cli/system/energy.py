"""Energy that the machine used, from the counters of its processors."""

from __future__ import annotations

from contextlib import suppress
from math import isfinite
from pathlib import Path

import torch

_POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Energy of the machine, other programs included, since the last reading.

    The energy of the processors comes from RAPL where Linux exposes it, which many systems allow to administrators
    only; that of the GPU from NVML, where the package nvidia-ml-py is installed.

    Args:
        device: The device on which runs are trained.
        powercap: Folder of Linux with the counters of RAPL.
    """

    def __init__(self, device: torch.device, powercap: Path = _POWERCAP) -> None:
        # Packages only: their cores and memory have counters that are parts of theirs, and `psys` contains all of them.
        zones = sorted(path for path in powercap.glob("intel-rapl:*") if path.name.count(":") == 1)
        self._packages = [path for path in zones if not _text(path / "name").startswith("psys")]
        self._gpu = _nvml_handle(device)
        self._previous = self._counters()

    def read(self) -> dict[str, float]:
        """Joules by column of timing.csv, of the counters that can be read."""
        previous, self._previous = self._previous, self._counters()
        used = [self._used(i, previous[i]) for i in range(len(self._packages))]
        joules = {
            "cpu_energy_joules": sum(used) if used else float("nan"),
            "gpu_energy_joules": (self._previous[-1] - previous[-1]) / 1e3,  # of millijoules
        }
        return {name: value for name, value in joules.items() if isfinite(value)}

    def _used(self, package: int, before: float) -> float:
        used = self._previous[package] - before
        if used < 0:  # the counter started again from 0
            used += _number(self._packages[package] / "max_energy_range_uj")
        return used / 1e6

    def _counters(self) -> list[float]:
        """Microjoules of each package, and millijoules of the GPU; NaN where they can't be read."""
        return [*(_number(package / "energy_uj") for package in self._packages), _gpu_millijoules(self._gpu)]


def _number(path: Path) -> float:
    """The number in a file; NaN if it can't be read."""
    with suppress(ValueError):
        return float(_text(path))
    return float("nan")


def _text(path: Path) -> str:
    """The content of a file; empty if it can't be read."""
    with suppress(OSError, ValueError):
        return path.read_text(encoding="ascii")
    return ""


def _nvml_handle(device: torch.device) -> object | None:
    """NVML and its handle of a GPU; None without one."""
    if device.type != "cuda":
        return None
    with suppress(Exception):  # pynvml's errors, too, if there is no driver
        import pynvml

        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    return None


def _gpu_millijoules(gpu: object | None) -> float:
    with suppress(Exception):  # GPUs before 2017 have no counter
        nvml, handle = gpu  # type: ignore[misc]
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    return float("nan")
