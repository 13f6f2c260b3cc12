"""Timer of the phases of training."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter


class _Phase:
    """A block whose seconds are added to a phase of a timer."""

    __slots__ = ("_name", "_start", "_timer")

    def __init__(self, timer: Timer, name: str) -> None:
        self._timer, self._name = timer, name

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(self, *_: object) -> None:
        seconds, name = self._timer.seconds, self._name
        seconds[name] = seconds.get(name, 0.0) + perf_counter() - self._start


@dataclass
class Timer:
    """Accumulates seconds by phase.

    Attributes:
        seconds: Seconds since the last reset, by phase.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    def measure(self, name: str) -> _Phase:
        """Add the seconds of the block to phase `name`."""
        return _Phase(self, name)

    def reset(self) -> dict[str, float]:
        """Return the seconds by phase and start again from 0."""
        seconds, self.seconds = self.seconds, {}
        return seconds

    def timing_row(self, samples: int, runs: int = 1) -> dict[str, float]:
        """The row of timing.csv for one run; starts again from 0.

        Args:
            samples: Samples of the current task that each run was trained on.
            runs: Runs that were trained as one program and share the time.
        """
        seconds = {name: value / runs for name, value in self.reset().items()}
        training = sum(seconds.get(name, 0.0) for name in ("solver", "generator", "consolidation"))
        row = {f"{name}_seconds": seconds.get(name, 0.0) for name in _TIMED_PHASES}
        return row | {"samples_per_second": samples / training if training else float("nan")}


# `consolidation` is what a strategy does at the beginning and the end of a task.
_TIMED_PHASES = ("solver", "generator", "consolidation", "evaluation")
