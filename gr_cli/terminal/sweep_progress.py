"""How far the runs of a sweep are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from time import monotonic


@dataclass
class Tally:
    """How far the sweep of this process is. `total`: its jobs, None where the sweeper finds them as it goes."""

    total: int | None = None
    over: int = 0
    failed: int = 0
    trained: float = 0.0
    _began: float | None = None

    def count(self, scores: Sequence[float | None]) -> None:
        """So many jobs are over; what they returned, NaN where they failed."""
        self.over += len(scores)
        self.failed += sum(score is not None and isnan(score) for score in scores)

    def begin(self) -> None:
        """The first job that has something to train begins; those that were finished before took no time."""
        self._began = self._began or monotonic()

    def left(self, current: float) -> float | None:
        """Seconds until the sweep is over, if it goes on as before, and `current` jobs' worth of those under way is
        done. None: nobody knows."""
        if self.total is None or self._began is None or not self.trained:
            return None
        return max(0.0, self.total - self.over - current) * (monotonic() - self._began) / self.trained
