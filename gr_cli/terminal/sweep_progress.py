"""Progress of a sweep, and an estimate of the time left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from time import monotonic


@dataclass
class SweepProgress:
    """Counts of a sweep's jobs.

    Attributes:
        total: Number of jobs; None if the sweeper searches adaptively.
        ended: Jobs that have ended, failed ones included.
        failed: Jobs that have failed.
        trained_jobs: Jobs trained since `start_timing`, with fractions of active ones.
    """

    total: int | None = None
    ended: int = 0
    failed: int = 0
    trained_jobs: float = 0.0
    _started_at: float | None = None

    def count(self, scores: Sequence[float | None]) -> None:
        """Count jobs as ended, by their scores; NaN is a failed one."""
        self.ended += len(scores)
        self.failed += sum(score is not None and isnan(score) for score in scores)

    def start_timing(self) -> None:
        """Start the clock at the first job that trains; jobs that were finished before take no time."""
        self._started_at = self._started_at or monotonic()

    def seconds_left(self, active_jobs_done: float) -> float | None:
        """Estimated seconds until the end of the sweep; None if unknown.

        Args:
            active_jobs_done: Completed part of the active jobs, in jobs.
        """
        if self.total is None or self._started_at is None or not self.trained_jobs:
            return None
        return (
            max(0.0, self.total - self.ended - active_jobs_done) * (monotonic() - self._started_at) / self.trained_jobs
        )
