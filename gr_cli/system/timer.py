"""Where the time of a run goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter


@dataclass
class Timer:
    """Seconds spent on each kind of work, by name."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - start

    def reset(self) -> dict[str, float]:
        """The seconds so far; the clock begins again."""
        taken, self.seconds = self.seconds, {}
        return taken

    def timing_row(self, samples: int, runs: int = 1) -> dict[str, float]:
        """What the seconds so far come to, of one of so many `runs` that were trained together, each on so many current
        samples; the clock begins again."""
        seconds = {name: value / runs for name, value in self.reset().items()}
        training = sum(seconds.get(name, 0.0) for name in ("solver", "generator", "consolidation"))
        row = {f"{name}_seconds": seconds.get(name, 0.0) for name in _TIMED_PHASES}
        return row | {"samples_per_second": samples / training if training else float("nan")}


# Kinds of work that are timed; consolidation is what a strategy does at the two ends of a task.
_TIMED_PHASES = ("solver", "generator", "consolidation", "evaluation")
