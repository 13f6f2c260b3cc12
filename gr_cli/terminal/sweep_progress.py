"""How far the runs of a sweep are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from time import monotonic


@dataclass
class SweepProgress:
    """How far the sweep of this process is. `total`: its jobs, None where the sweeper finds them as it goes."""

    total: int | None = None
    ended: int = 0
    failed: int = 0
    trained_jobs: float = 0.0
    _started_at: float | None = None

    def count(self, scores: Sequence[float | None]) -> None:
        """So many jobs are over; what they returned, NaN where they failed."""
        self.ended += len(scores)
        self.failed += sum(score is not None and isnan(score) for score in scores)

    def start_timing(self) -> None:
        """The first job that has something to train begins; those that were finished before took no time."""
        self._started_at = self._started_at or monotonic()

    def seconds_left(self, active_jobs_done: float) -> float | None:
        """Seconds until the sweep is over, if it goes on as before, and `current` jobs' worth of those under way is
        done. None: nobody knows."""
        if self.total is None or self._started_at is None or not self.trained_jobs:
            return None
        return (
            max(0.0, self.total - self.ended - active_jobs_done) * (monotonic() - self._started_at) / self.trained_jobs
        )
