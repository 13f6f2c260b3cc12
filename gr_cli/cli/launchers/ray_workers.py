"""Workers of a sweep on a Ray cluster: actors that train one program of runs after the other.

A worker keeps its cores and GPUs until the sweep needs it no more, so it imports torch once, and its GPU never changes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from gr_cli.cli.launchers.job_queue import Lost, count_workers
from gr_cli.cli.launchers.programs import ProgramsByIndex, Scores, failure_scores, run_program
from gr_cli.cli.launchers.working_copy import Files, FolderStore, working_copies
from gr_cli.errors import FolderError, Interrupted, TrainingError, one_line, truncate
from gr_cli.results.folder import RunFolder
from gr_cli.system.messages import print_status
from gr_cli.system.process import import_torch

_OUTPUT_LIMIT = 20_000  # characters of a program's output that are brought back
_GRACE_SECONDS = 60.0  # for saving the runs after a request to stop
_CAPACITY_SECONDS = 1.0  # between two looks at the nodes
_MAX_FAILED_STARTS = 5  # workers in a row that can't be started, after which the sweep ends


@dataclass(frozen=True)
class WorkerOptions:
    """What each worker gets.

    Attributes:
        num_cpus: Cores, also its threads.
        num_gpus: GPUs; fractions share one.
        resources: Amounts of further resources that nodes declare, by name.
        folders: `shared` if its node has the command's directory, `returned` if runs are trained in a copy.
        limit: Largest number of workers; None: as many as fit.
    """

    num_cpus: float = 1
    num_gpus: float = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    folders: Literal["shared", "returned"] = "shared"
    limit: int | None = None

    @property
    def demand(self) -> dict[str, float]:
        """The resources as Ray names them."""
        return {"CPU": self.num_cpus, "GPU": self.num_gpus, **self.resources}


@dataclass(frozen=True)
class ProgramResult:
    """What a worker returns.

    Attributes:
        scores: Score of each run, or the interruption.
        out: What it printed on stdout.
        err: What it printed on stderr.
    """

    scores: Scores | Interrupted
    out: str
    err: str


class Relay:
    """An actor on the node of the command: passes a request to stop to the workers, and keeps the folders for them.

    Args:
        directory: Directory of the command.
    """

    def __init__(self, directory: Path) -> None:
        os.chdir(directory)
        self._folders, self._stop = FolderStore(directory), asyncio.Event()

    async def stop(self) -> None:
        """Request that all workers stop."""
        self._stop.set()

    async def wait_for_stop(self) -> None:
        """Return when the workers shall stop."""
        await self._stop.wait()

    async def fetch(self, folder: Path) -> Files:
        """See `FolderStore`."""
        return self._folders.fetch(folder)

    async def store(self, folder: Path, files: Files, names: Collection[str] | None) -> None:
        """See `FolderStore`."""
        self._folders.store(folder, files, names)


class RelayStore:
    """The folders that a relay keeps, for a worker."""

    def __init__(self, relay: Any) -> None:
        self._relay = relay

    def fetch(self, folder: Path) -> Files:
        import ray

        files: Files = ray.get(self._relay.fetch.remote(folder))
        return files

    def store(self, folder: Path, files: Files, names: Collection[str] | None) -> None:
        import ray

        ray.get(self._relay.store.remote(folder, files, names))


class Worker:
    """An actor that trains programs, one after the other.

    Args:
        directory: Directory of the command.
        relay: The relay of the command.
        options: What it gets.
    """

    def __init__(self, directory: Path, relay: Any, options: WorkerOptions) -> None:
        if options.folders == "shared" and not directory.is_dir():
            raise FolderError(
                f"{directory}: does not exist on {socket.gethostname()}; share it between the nodes, or use "
                "hydra.launcher.folders=returned"
            )
        import_torch(announce=False)
        import torch

        from gr_cli.system.devices import flush_denormals

        torch.set_num_threads(max(1, int(options.num_cpus)))
        self._relay, self._returns_folders = relay, options.folders == "returned"
        self._resources = ExitStack()
        self._resources.enter_context(flush_denormals())  # before the first computation, for the threads of torch
        if self._returns_folders:
            directory = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="gr-run-")))
        self._directory, self._is_training = directory, False
        threading.Thread(target=self._watch, name="stop", daemon=True).start()

    def _watch(self) -> None:
        """Stop the runs in training, as after Ctrl-C, when the command asks for it or ends."""
        import ray

        with suppress(Exception):  # the relay has ended, with the command
            ray.get(self._relay.wait_for_stop.remote())
        if self._is_training:
            os.kill(os.getpid(), signal.SIGTERM)

    def ready(self) -> None:
        """Return when the worker is started."""

    def close(self) -> None:
        """Remove the working copies."""
        os.chdir("/")
        self._resources.close()

    def train(self, jobs: Sequence[Any], folders: Sequence[RunFolder], sweep: Path) -> ProgramResult:
        """Train a program."""
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                with ExitStack() as stack:
                    if self._returns_folders:
                        os.chdir(self._directory)
                        paths = [folder.path for folder in folders]
                        stack.enter_context(working_copies(RelayStore(self._relay), paths))
                    self._is_training = True
                    scores = run_program(jobs, folders, sweep, self._directory)
                    self._is_training = False
            except Exception as error:  # the folders can't be brought here or back
                scores = failure_scores(folders, error)
        return ProgramResult(scores, out.getvalue()[-_OUTPUT_LIMIT:], err.getvalue()[-_OUTPUT_LIMIT:])


class RayWorkers:
    """The workers of a command on the cluster that it is connected to.

    Args:
        work: Programs by the numbers of their jobs.
        options: What each worker gets.
    """

    def __init__(self, work: ProgramsByIndex, options: WorkerOptions) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._work, self._options, self._directory = work, options, Path.cwd()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._relay = ray.remote(num_cpus=0, scheduling_strategy=here)(Relay).remote(self._directory)
        self._actor_class = ray.remote(
            num_cpus=options.num_cpus, num_gpus=options.num_gpus, resources=dict(options.resources)
        )(Worker)
        self._starting: dict[Any, Any] = {}  # actors by what they will return
        self._busy: dict[Any, tuple[Any, int]] = {}  # actors and their jobs
        self._idle: list[Any] = []
        self._capacity, self._looked_at = 0, -float("inf")
        self._limit, self._failed_starts = options.limit, 0

    @property
    def busy(self) -> int:
        """Number of workers that have a job."""
        return len(self._busy)

    @property
    def idle(self) -> int:
        """Number of workers that wait for a job."""
        return len(self._idle)

    def capacity(self) -> int:
        """How many workers the nodes hold, those of other commands included."""
        import ray

        if time.monotonic() - self._looked_at > _CAPACITY_SECONDS:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            self._capacity, self._looked_at = count_workers(nodes, self._options.demand), time.monotonic()
        return self._capacity if self._limit is None else min(self._capacity, self._limit)

    def resize(self, wanted: int) -> None:
        """Start workers up to `wanted`, as far as the nodes hold them, and end idle ones above that number.

        While no node holds one, one worker is asked for all the same, so that a cluster that grows on demand can grow.
        """
        count = len(self._starting) + len(self._busy) + len(self._idle)
        for _ in range(min(max(1, self.capacity()), wanted) - count):
            actor = self._actor_class.remote(self._directory, self._relay, self._options)
            self._starting[actor.ready.remote()] = actor
        for _ in range(min(count - wanted, len(self._idle))):
            self._end(self._idle.pop())
        for reference in list(self._starting)[: max(0, count - wanted)]:
            self._end(self._starting.pop(reference))

    def give(self, job: int) -> None:
        """Hand a job to an idle worker."""
        actor = self._idle.pop()
        self._busy[actor.train.remote(*self._work[job])] = actor, job

    def wait(self, seconds: float) -> list[tuple[int, ProgramResult | Lost]]:
        """Results of the jobs that have ended, after at most `seconds`.

        Raises:
            TrainingError: Workers can't be started.
        """
        import ray

        references = [*self._busy, *self._starting]
        if not references:
            time.sleep(seconds)  # all jobs are postponed, and the workers lost
            return []
        ray.wait(references, timeout=seconds)
        ended, _ = ray.wait(references, num_returns=len(references), timeout=0)
        return [result for reference in ended if (result := self._collect(reference)) is not None]

    def _collect(self, reference: Any) -> tuple[int, ProgramResult | Lost] | None:
        """The job and result of a worker that has ended it; None for a worker that has started."""
        import ray

        job: int | None = None
        if reference in self._busy:
            actor, job = self._busy.pop(reference)
        else:
            actor = self._starting.pop(reference)
        try:
            result = ray.get(reference)
        except ray.exceptions.RayError as error:
            ray.kill(actor)  # it may be cut off only
            reason = _reason(error)
            if job is not None:
                return job, Lost(reason)
            self._count_failed_start(reason)
            return None
        self._idle.append(actor)
        if job is None:
            self._failed_starts = 0
            return None
        if isinstance(result.scores, Interrupted):
            return job, Lost("its worker was stopped")
        return job, result

    def _count_failed_start(self, reason: str) -> None:
        """After several in a row, go on with the workers that there are.

        Raises:
            TrainingError: There are none.
        """
        self._failed_starts += 1
        if self._failed_starts >= _MAX_FAILED_STARTS:
            self._limit = len(self._busy) + len(self._idle)
            if not self._limit:
                raise TrainingError(f"no worker can be started on the Ray cluster: {reason}")
            print_status(f"no further worker can be started on the Ray cluster: {reason}")

    def _end(self, actor: Any) -> None:
        """End a worker that has no job."""
        import ray

        if self._options.folders == "returned":
            with suppress(Exception):
                ray.get(actor.close.remote(), timeout=5)
        ray.kill(actor)

    def stop(self) -> None:
        """Let the runs in training be saved, and end all workers."""
        import ray

        self._relay.stop.remote()
        if self._busy:
            ray.wait(list(self._busy), num_returns=len(self._busy), timeout=_GRACE_SECONDS)
        self.close()

    def close(self) -> None:
        """End all workers."""
        import ray

        for actor in [*self._starting.values(), *self._idle, *(actor for actor, _ in self._busy.values())]:
            ray.kill(actor)
        ray.kill(self._relay)
        self._starting, self._busy, self._idle = {}, {}, []


def _reason(error: Exception) -> str:
    """Why a worker was lost, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(f"{type(error).__name__}: {truncate(lines[-1], 200)}" if lines else type(error).__name__)
