"""The jobs of a sweep that wait for a worker, and the loop that hands them to the workers of a cluster."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_RECHECK_SECONDS = 5.0  # between two looks at the folder of a postponed job
_POLL_SECONDS = 1.0  # between two looks at the cluster: nodes join, leave, and release postponed jobs


@dataclass(frozen=True)
class Lost:
    """A worker ended before its job, because its process was killed or its node left the cluster.

    Attributes:
        reason: What is known of the cause, in one line.
    """

    reason: str


class JobQueue:
    """Jobs that wait for a worker, by number.

    A job whose folder another process seems to train at present is postponed, because a worker on a node that has left
    may go on for a while. After `patience` seconds it is handed out all the same, and fails if it is trained elsewhere.

    Args:
        jobs: Numbers of the jobs, in order.
        max_retries: How often a job is handed out again after the loss of its worker.
        is_held: Whether another process seems to train a job.
        patience: Seconds for which a job is postponed at most.
        clock: Current time in seconds.
    """

    def __init__(
        self,
        jobs: Iterable[int],
        max_retries: int,
        is_held: Callable[[int], bool],
        patience: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_retries = max_retries
        self._waiting = deque(jobs)
        self._postponed: dict[int, tuple[float, float]] = {}  # first and next look
        self._losses: dict[int, int] = {}
        self._is_held, self._patience, self._clock = is_held, patience, clock

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> int | None:
        """Remove and return the first job that no other process trains; None if there is none at present."""
        for _ in range(len(self._waiting)):
            job = self._waiting.popleft()
            if not self._postpone(job):
                self._postponed.pop(job, None)
                return job
            self._waiting.append(job)
        return None

    def _postpone(self, job: int) -> bool:
        now = self._clock()
        first, next_look = self._postponed.get(job, (now, now))
        if now < next_look:
            return True
        if now - first >= self._patience or not self._is_held(job):
            return False
        self._postponed[job] = (first, now + _RECHECK_SECONDS)
        return True

    def put_back(self, job: int) -> int | None:
        """Let a job whose worker was lost wait again, after all others.

        Returns:
            How often it was lost; None if that is too often, and it does not wait.
        """
        self._losses[job] = losses = self._losses.get(job, 0) + 1
        if losses > self.max_retries:
            return None
        self._waiting.append(job)
        return losses


class Workers(Protocol[T_co]):
    """Workers that train one job at a time each."""

    @property
    def busy(self) -> int:
        """Number of workers that have a job."""

    @property
    def idle(self) -> int:
        """Number of workers that wait for a job."""

    def resize(self, wanted: int) -> None:
        """Start workers up to `wanted`, as far as the nodes hold them, and end idle ones above that number."""

    def give(self, job: int) -> None:
        """Hand a job to an idle worker."""

    def wait(self, seconds: float) -> Sequence[tuple[int, T_co | Lost]]:
        """Results of the jobs that have ended, after at most `seconds`."""


@dataclass(frozen=True)
class Ended(Generic[T]):
    """A job that has ended or lost its worker.

    Attributes:
        job: Its number.
        result: What it returned, or why its worker was lost.
        losses: Number of workers that it has lost, if it is handed out again; None if it has ended.
    """

    job: int
    result: T | Lost
    losses: int | None = None


def run_jobs(queue: JobQueue, workers: Workers[T]) -> Iterator[Ended[T]]:
    """Hand the jobs of a queue to workers until all have ended. A worker holds one job at a time.

    Nothing but the jobs of the workers is handed out, and no result is kept: the memory that this takes depends on the
    number of workers, not on that of jobs.
    """
    while queue or workers.busy:
        workers.resize(workers.busy + len(queue))
        while workers.idle and (job := queue.take()) is not None:
            workers.give(job)
        for job, result in workers.wait(_POLL_SECONDS):
            yield Ended(job, result, queue.put_back(job) if isinstance(result, Lost) else None)
    workers.resize(0)


def count_workers(nodes: Iterable[Mapping[str, float]], demand: Mapping[str, float]) -> int:
    """How many workers fit on nodes.

    Args:
        nodes: Resources of each node, by name: `{"CPU": 8.0, "GPU": 2.0}`.
        demand: What a worker needs of them; at least one entry is positive.
    """
    needed = {name: amount for name, amount in demand.items() if amount > 0}
    # Amounts are multiples of 1/10,000, as Ray counts: 0.1 fits ten times into 1.
    units = {name: round(amount * 10_000) for name, amount in needed.items()}
    return sum(min(round(node.get(name, 0.0) * 10_000) // size for name, size in units.items()) for node in nodes)
