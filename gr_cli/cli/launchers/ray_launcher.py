"""The Ray launcher: trains the runs of a sweep on the nodes of a cluster, or of a Ray on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher

from gr_cli.cli.launchers.job_queue import JobQueue, Lost, run_jobs
from gr_cli.cli.launchers.jobs import compose_jobs
from gr_cli.cli.launchers.programs import ProgramResults, ProgramsByIndex, failure_scores, run_program
from gr_cli.cli.launchers.ray_workers import RayWorkers, WorkerOptions
from gr_cli.cli.sweep import current_sweep
from gr_cli.config.settings import Settings
from gr_cli.errors import ConfigError, GrError, TrainingError, one_line
from gr_cli.results.folder import HEARTBEAT_TIMEOUT, RunFolder
from gr_cli.system.messages import print_status
from gr_cli.types import NonNegative, NonNegativeInt

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

_MAX_RETRIES = 3
_LOCAL = "local"  # Ray's name for a Ray that is started for this process


class RayLauncher(Launcher):
    """Train each run in a worker of a Ray cluster. A worker trains one run after the other.

    Args:
        address: The cluster's address; `auto`: the one that this machine belongs to; null: RAY_ADDRESS, else a Ray of
            this machine for this command.
        num_cpus: Cores per run, also its threads with `threads=null`.
        num_gpus: GPUs per run; 0.5: two runs share one.
        resources: Amounts of further resources per run, by the name under which nodes declare them.
        max_retries: How often a run continues elsewhere after its process or node was lost.
        folders: `shared`: all nodes have the directory of the command; `returned`: runs are trained in a folder of the
            node, and their files are brought back.
        init: Further arguments of `ray.init`; null: its own defaults.
    """

    def __init__(
        self,
        address: str | None = None,
        num_cpus: NonNegative = 1.0,
        num_gpus: NonNegative = 0.0,
        resources: Mapping[str, NonNegative] | None = None,
        max_retries: NonNegativeInt = _MAX_RETRIES,
        folders: Literal["shared", "returned"] = "shared",
        init: Mapping[str, Any] | None = None,
    ) -> None:
        self._address, self._init, self._max_retries = address, init or {}, max_retries
        self._options = WorkerOptions(num_cpus, num_gpus, dict(resources or {}), folders)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what Hydra passes before `launch`."""
        self._context, self._config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; their results in the same order."""
        setup_globals()
        sweep = Path(self._config.hydra.sweep.dir)
        work: dict[int, tuple[list[Settings], list[RunFolder], Path]] = {}
        composed = compose_jobs(self._context, self._config, job_overrides, initial_job_idx)
        for job, (settings, folder) in enumerate(composed):
            if self._options.folders == "returned":
                _check_inside_directory(folder.path)
            work[job] = [settings], [folder], sweep
        score_of: dict[int, float | None] = {}

        def end(job: int, scores: Sequence[float | None]) -> None:
            (score_of[job],) = scores
            current_sweep().progress.count(scores)

        for job in [job for job, (_, folders, _) in work.items() if _state(folders[0]) == "finished"]:
            # Checked here: a cluster is not needed to print what is there already.
            scores = run_program(*work.pop(job))
            if not isinstance(scores, list):
                raise scores
            end(job, scores)
        if work:
            connect(self._address, self._init)
            for job, scores in run_on_ray(work, self._options, self._max_retries):
                if not isinstance(scores, list):
                    raise scores
                end(job, scores)
        return [
            JobReturn(overrides=list(overrides), _return_value=score_of[job], status=JobStatus.COMPLETED)
            for job, overrides in enumerate(job_overrides)
        ]


def _check_inside_directory(path: Path) -> None:
    """Check that a run's folder can have a copy below the directory of a worker.

    Raises:
        ConfigError: It is absolute, or leads out of the current directory.
    """
    if path.is_absolute() or ".." in path.parts:
        raise ConfigError(
            "hydra.launcher.folders",
            "returned",
            f"needs folders below the current directory, and {path} is not",
            "name it relative to that, or use folders=shared",
        )


def connect(address: str | None, arguments: Mapping[str, Any]) -> None:
    """Connect this process to a cluster, or start a Ray of its own.

    Args:
        address: See `RayLauncher`.
        arguments: Further arguments of `ray.init`; those that are None are left out.

    Raises:
        ConfigError: No cluster answers there, or it refuses an argument.
    """
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without an address Ray would take any cluster that it finds on this machine.
    where = address or os.environ.get("RAY_ADDRESS") or _LOCAL
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        ray.init(where, log_to_driver=False, include_dashboard=False, logging_level="error", **given)
    except (ConnectionError, ValueError, TypeError) as error:
        reason = one_line(str(error).strip().partition("\n")[0])
        if where == _LOCAL or given:
            raise ConfigError("hydra.launcher.init", given, f"Ray refuses it ({reason})") from error
        remedy = "start a cluster with `ray start --head`, and the command on one of its nodes"
        raise ConfigError("hydra.launcher.address", where, f"can't be connected to ({reason})", remedy) from error
    current_sweep().resources.callback(ray.shutdown)


def run_on_ray(work: ProgramsByIndex, options: WorkerOptions, max_retries: int) -> ProgramResults:
    """Train programs on the cluster that this process is connected to; yields number and scores of each as it ends.

    Args:
        work: Programs by number.
        options: What each worker gets.
        max_retries: How often a program continues elsewhere after the loss of its worker.
    """
    queue = JobQueue(
        work,
        max_retries,
        is_held=lambda job: seems_in_training(work[job][1]),
        patience=2 * HEARTBEAT_TIMEOUT,
    )
    workers = RayWorkers(work, options)
    if not workers.capacity():
        needs = ", ".join(f"{name}={amount:g}" for name, amount in options.demand.items() if amount)
        print_status(f"no node of the Ray cluster has {needs}; waiting for one")
    try:
        for ended in run_jobs(queue, workers):
            folders = work[ended.job][1]
            if isinstance(ended.result, Lost):
                name, reason = folders[0].path, ended.result.reason
                if ended.losses is not None:
                    print_status(f"{name}: its worker was lost ({reason}); retry {ended.losses} of {max_retries}")
                else:
                    error = TrainingError(f"its worker was lost {max_retries + 1} times, at last by {reason}")
                    yield ended.job, failure_scores(folders, error)
                continue
            print(ended.result.out, end="", flush=True)
            print(ended.result.err, end="", file=sys.stderr, flush=True)
            yield ended.job, ended.result.scores
    except KeyboardInterrupt:
        workers.stop()
        raise
    finally:
        workers.close()


def run_programs_on_ray(work: ProgramsByIndex, processes: int, gpus: float) -> ProgramResults:
    """Train the programs of the batched launcher on the cluster at RAY_ADDRESS, or on this machine.

    Args:
        work: Programs by number.
        processes: Number of programs at a time, which share the cores of the cluster.
        gpus: GPUs of each.
    """
    import ray

    connect(None, {})
    # A program needs its cores on one node.
    largest = max(node["Resources"].get("CPU", 1.0) for node in ray.nodes() if node["Alive"])
    cores = max(1, int(min(ray.cluster_resources()["CPU"] // processes, largest)))
    yield from run_on_ray(work, WorkerOptions(cores, gpus, limit=processes), _MAX_RETRIES)


def seems_in_training(folders: Sequence[RunFolder]) -> bool:
    """Whether a process seems to train one of these runs at present.

    On this machine it holds the lock of the folder; on another one its heartbeat is recent, or it holds the lock where
    the file system shares locks.
    """
    return any(_state(folder) == "running" for folder in folders)


def _state(folder: RunFolder) -> str:
    """State of a run; `damaged` if it can't be read, which the run itself reports."""
    try:
        return folder.state()
    except GrError:
        return "damaged"
