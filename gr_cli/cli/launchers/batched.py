"""The launcher that trains the jobs of a sweep as one program, wherever that can be done."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher

from gr_cli.cli.compose import settings_from_config
from gr_cli.cli.sweep import current_sweep
from gr_cli.config.groups import OUTPUTS
from gr_cli.config.settings import Settings
from gr_cli.errors import GrError, Interrupted, Stop, as_failure
from gr_cli.results.folder import RunFolder
from gr_cli.system.messages import print_failure
from gr_cli.system.output import make_output_robust
from gr_cli.system.signals import join_lifeline
from gr_cli.types import NonNegative, PositiveInt

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from gr_cli.cli.launchers.program_width import WidthChoice


Scores = list[float | None]


class BatchedLauncher(Launcher):
    """Trains as one program what differs only in seeds and numbers; what can't be runs alone.

    Args:
        width: the most runs in one program.
        memory_mib: the most memory that the runs of one program may take, by an upper bound from their shapes.
        processes: programs that run at the same time, each in a process of its own.
        where: where these processes are, `here` or on a cluster of Ray, whose address is in `RAY_ADDRESS`.
        gpus: part of the GPUs that Ray gives to each program.
    """

    def __init__(
        self,
        width: PositiveInt = 32,
        memory_mib: PositiveInt = 4096,
        processes: PositiveInt = 1,
        where: Literal["here", "ray"] = "here",
        gpus: NonNegative = 0.0,
    ) -> None:
        self._where, self._gpus = where, gpus
        self._width, self._processes = width, processes
        self._memory_bytes = memory_mib << 20

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra calls this first."""
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; what each returned, in their order."""
        from gr_cli.runner.run import run_folder
        from gr_cli.system.devices import flush_denormals

        setup_globals()
        jobs = [current_sweep().settings(overrides) or self._settings(overrides) for overrides in job_overrides]
        folders = [run_folder(settings, OUTPUTS) for settings in jobs]
        for folder, overrides in zip(folders, job_overrides, strict=True):
            current_sweep().add(folder.path, overrides)
        # From before the first computation on: threads that torch makes later do as the first one does.
        with flush_denormals():
            found = self._run_programs(self._plan_programs(jobs, folders), jobs, folders)
            returned = {place: score for places, scores in found for place, score in zip(places, scores, strict=True)}
        return [
            JobReturn(overrides=list(overrides), _return_value=returned[place], status=JobStatus.COMPLETED)
            for place, overrides in enumerate(job_overrides)
        ]

    def _run_programs(
        self, programs: Sequence[list[int]], jobs: Sequence[Settings], folders: Sequence[RunFolder]
    ) -> Iterator[tuple[list[int], Scores]]:
        """Run programs, here or in processes; what each of their runs returns to a sweeper."""
        sweep = Path(self._config.hydra.sweep.dir)
        work: ProgramsByIndex = {
            i: ([jobs[p] for p in places], [folders[p] for p in places], sweep) for i, places in enumerate(programs)
        }
        if self._where == "ray":
            done = run_on_ray(work, self._processes, self._gpus)
        elif self._processes > 1:
            done = run_in_processes(work, self._processes)
        else:
            done = ((i, _run_program(*program)) for i, program in work.items())
        for i, found in done:
            if isinstance(found, Interrupted):
                raise Stop(found)
            current_sweep().progress.count(found)
            yield programs[i], found

    def _settings(self, overrides: Sequence[str]) -> Settings:
        config = self._context.config_loader.load_sweep_config(self._config, list(overrides))
        return settings_from_config(config, config.hydra)

    def _plan_programs(self, jobs: Sequence[Settings], folders: Sequence[RunFolder]) -> list[list[int]]:
        """What is trained as one, and in which order; prints it, and why.

        It follows from the jobs alone, in whatever order they come and however far they are: the same command cuts an
        interrupted sweep as before, so that it comes to the same digits. Only what was begun alone goes on alone.
        """
        from gr_cli.cli.launchers.grouping import group_compatible

        statuses = [_resumable_status(folder) for folder in folders]
        programs, single = [], 0
        for group in group_compatible(jobs):
            apart = [place for place in group if str(statuses[place].get("mode")).endswith("alone")]
            places = sorted((place for place in group if place not in apart), key=lambda place: _sort_key(jobs[place]))
            programs += [[place] for place in apart]
            single += sum(statuses[place]["state"] != "finished" for place in apart)
            if all(statuses[place].get("state") == "finished" for place in places):
                programs += [[place] for place in places]
            elif len(places) == 1:
                programs.append(places)
                single += 1
            else:
                programs += self._split_group(places, [jobs[place] for place in places])
        if single:
            print(f"batched: {single} of {len(jobs)} runs alone: begun that way, or like no other")
        return programs

    def _split_group(self, places: Sequence[int], jobs: Sequence[Settings]) -> list[list[int]]:
        """The programs for `jobs`, at least two that are alike, by their `places`; prints how, and why."""
        from gr_cli.cli.launchers.grouping import differing_settings, even_chunks
        from gr_cli.cli.launchers.program_width import choose_width

        what = f"{len(places)} runs that differ in {', '.join(differing_settings(jobs)) or 'nothing'}"
        share = -(-len(places) // self._processes)  # each process shall have something to do
        try:
            choice = choose_width(jobs, min(self._width, share), self._memory_bytes)
        except Exception as error:  # which the run itself will raise again
            print(f"batched: {what}: each alone, because the first can't be prepared ({as_failure(error)})")
            return [[place] for place in places]
        print(f"batched: {what}: {_describe_choice(choice, len(places))}")
        return even_chunks(places, choice.width)


def _sort_key(settings: Settings) -> tuple[str, int, str]:
    """What jobs that are alike are sorted by: those of one optimiser are neighbours."""
    return repr(settings.config["optimizer"]), settings.seed, json.dumps(settings.config, sort_keys=True)


def _resumable_status(folder: RunFolder) -> dict[str, Any]:
    """What is known of a run that has something to go on from; nothing where that can't be read, which the run itself
    will report."""
    try:
        return (folder.status() if folder.has_checkpoint else None) or {}
    except GrError:
        return {}


def _describe_choice(choice: WidthChoice, runs: int) -> str:
    """How so many runs are cut, and why."""
    if choice.width == 1:
        return f"one after the other{choice.reason and f', because {choice.reason}'}"
    count = -(-runs // choice.width)
    how = "one program" if count == 1 else f"{count} programs of up to {choice.width}"
    needed = -(-choice.bytes_per_run * min(runs, choice.width) >> 20)
    return f"{how} (up to {needed:,} MiB{choice.reason and f'; {choice.reason}'})"


# Jobs, their folders, and that of their sweep.
Program = tuple[Sequence[Settings], Sequence[RunFolder], Path]
ProgramsByIndex = Mapping[int, Program]
ProgramResults = Iterator[tuple[int, Scores | Interrupted]]


def run_in_processes(work: ProgramsByIndex, processes: int) -> ProgramResults:
    """What each program returns, from processes of this machine. After an interruption no further one begins."""
    queue = deque(work.items())
    while queue:
        yield from _run_in_pool(queue, processes)


def _run_in_pool(queue: deque[tuple[int, Program]], processes: int) -> ProgramResults:
    """What programs from `queue` return, until it is empty or a process is lost."""
    context = multiprocessing.get_context("spawn")
    waiting: dict[Future[Scores | Interrupted], tuple[int, Program]] = {}
    with ProcessPoolExecutor(min(processes, len(queue)), context, _initialize_worker, (processes,)) as pool:
        try:
            while waiting or queue:
                while queue and len(waiting) < processes:
                    i, program = queue[0]
                    waiting[pool.submit(_run_program, *program, Path.cwd())] = i, program
                    queue.popleft()
                for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                    i, program = waiting.pop(done)
                    try:
                        yield i, done.result()
                    except BrokenProcessPool:
                        waiting[done] = i, program
                        raise
                    except Exception as error:
                        yield i, _failure_scores(program[1], error)
        except BrokenProcessPool:
            # A killed process takes those of its pool with it. What they saved goes on another time.
            print("gr-run: a process was lost, and with it the others that ran", file=sys.stderr)
            for i, (jobs, *_) in waiting.values():
                yield i, [float("nan")] * len(jobs)
        except KeyboardInterrupt:
            wait(waiting)  # they were asked to stop as well
            raise


def run_on_ray(work: ProgramsByIndex, processes: int, gpus: float) -> ProgramResults:
    """What each program returns, from a cluster of Ray that sees this folder; a lost process is replaced."""
    import ray

    ray.init(ignore_reinit_error=True, log_to_driver=True, include_dashboard=False, logging_level="error")
    # A program lies on one machine.
    largest = max(node["Resources"].get("CPU", 1.0) for node in ray.nodes() if node["Alive"])
    cores = max(1, int(min(ray.cluster_resources()["CPU"] // processes, largest)))
    start = ray.remote(num_cpus=cores, num_gpus=gpus, max_retries=3, max_calls=1)(_run_program)
    waiting = {start.remote(*program, Path.cwd()): i for i, program in work.items()}
    while waiting:
        (done,), _ = ray.wait(list(waiting))
        i = waiting.pop(done)
        try:
            yield i, ray.get(done)
        except ray.exceptions.RayError as error:
            yield i, _failure_scores(work[i][1], error)


def _initialize_worker(processes: int) -> None:
    """What a worker process does first."""
    import torch

    make_output_robust()
    join_lifeline()
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))


def _run_program(
    jobs: Sequence[Settings], folders: Sequence[RunFolder], sweep: Path, directory: Path | None = None
) -> Scores | Interrupted:
    """Run jobs as one program, in another process in the directory `remote`; what each returns to a sweeper.

    A failure is told, and leaves the other jobs alone.
    """
    from gr_cli.runner.run import run_together
    from gr_cli.terminal.run_display import TerminalObserver
    from gr_cli.trackers.observer import TrackerObserver
    from gr_cli.training.observer import Observers

    try:
        if directory is not None:
            os.chdir(directory)
        terminal = TerminalObserver(live=directory is None, sweep_progress=current_sweep().progress)
        outcomes = run_together(jobs, folders, Observers(terminal, TrackerObserver(sweep)))
    except Interrupted as error:
        return error
    except Exception as error:
        return _failure_scores(folders, error)
    if isinstance(outcomes[0], GrError) and len(jobs) == 1:  # of several, the terminal told as soon as one failed
        print_failure(folders[0].path, outcomes[0])
    return [float("nan") if isinstance(outcome, GrError) else outcome.score for outcome in outcomes]


def _failure_scores(folders: Sequence[RunFolder], error: Exception) -> Scores:
    """What a program returns that failed as a whole; says so of each of its runs."""
    for folder in folders:
        print_failure(folder.path, as_failure(error))
    return [float("nan")] * len(folders)
