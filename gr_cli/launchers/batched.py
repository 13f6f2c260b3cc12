"""The launcher that trains the jobs of a sweep as one program, wherever that can be done and pays."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher

from gr_cli.checks import NonNegative, PositiveInt
from gr_cli.compose import OUTPUTS, settings_from
from gr_cli.errors import GrError, Interrupted, Stop
from gr_cli.results.folder import RunFolder
from gr_cli.settings import Settings
from gr_cli.signals import hold_lifeline
from gr_cli.streams import make_unfailing
from gr_cli.sweep import checked, plan, planned, tally

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from gr_cli.launchers.trial import Verdict


Scores = list[float | None]


class BatchedLauncher(Launcher):
    """Trains as one program what differs only in seeds and numbers; what can't be, or would not gain, runs alone.

    Args:
        width: runs in one program, if so many fit; None: as many as a trial finds fastest, and fit into memory.
        memory_mib: most memory to plan with; None: nine tenths of what is free.
        processes: programs that run at the same time, each in a process of its own.
        where: where these processes are, `here` or on a cluster of Ray, whose address is in `RAY_ADDRESS`.
        gpus: part of the GPUs that Ray gives to each program.
    """

    def __init__(
        self,
        width: PositiveInt | None = None,
        memory_mib: PositiveInt | None = None,
        processes: PositiveInt = 1,
        where: Literal["here", "ray"] = "here",
        gpus: NonNegative = 0.0,
    ) -> None:
        self._where, self._gpus = where, gpus
        self._width, self._processes = width, processes
        self._memory = None if memory_mib is None else memory_mib << 20

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra calls this first."""
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; what each returned, in their order."""
        from gr_cli.experiment import folder_of
        from gr_cli.machine import flushing_denormals

        setup_globals()
        jobs = [checked(overrides) or self._settings(overrides) for overrides in job_overrides]
        folders = [folder_of(settings, OUTPUTS) for settings in jobs]
        returned: dict[int, JobReturn] = {}
        # From before the first computation on: threads that torch makes later do as the first one does.
        with flushing_denormals():
            for places, scores in self._run(self._programs(jobs, folders), jobs, folders):
                for place, score in zip(places, scores, strict=True):
                    returned[place] = JobReturn(
                        overrides=list(job_overrides[place]), _return_value=score, status=JobStatus.COMPLETED
                    )
        lost = JobReturn(_return_value=float("nan"), status=JobStatus.COMPLETED)
        return [returned.get(place, lost) for place in range(len(jobs))]

    def _run(
        self, programs: Sequence[list[int]], jobs: Sequence[Settings], folders: Sequence[RunFolder]
    ) -> Iterator[tuple[list[int], Scores]]:
        """Run programs, here or in processes; what each of their runs returns to a sweeper."""
        sweep = Path(self._config.hydra.sweep.dir)
        work: Work = {
            i: ([jobs[p] for p in places], [folders[p] for p in places], sweep) for i, places in enumerate(programs)
        }
        if self._where == "ray":
            done = on_ray(work, self._processes, self._gpus)
        elif self._processes > 1:
            done = in_processes(work, self._processes)
        else:
            done = ((i, _together(*program)) for i, program in work.items())
        for i, found in done:
            scores = _unless_stopped(found)
            tally().count(scores)
            yield programs[i], scores

    def _settings(self, overrides: Sequence[str]) -> Settings:
        config = self._context.config_loader.load_sweep_config(self._config, list(overrides))
        return settings_from(config, config.hydra)

    def _programs(self, jobs: Sequence[Settings], folders: Sequence[RunFolder]) -> list[list[int]]:
        """What is trained as one, and in which order; says so, and why."""
        from gr_cli.launchers.plan import alike

        statuses = [_status(folder) for folder in folders]
        home = Path(self._config.hydra.sweep.dir)
        programs = self._planned(home, folders, statuses)
        if runs := sum(len(program) for program in programs if len(program) > 1):
            print(f"batched: {runs} runs together as they were when this sweep began")
        single, settled = 0, {place for program in programs for place in program}
        for group in alike(jobs):
            group = [place for place in group if place not in settled]
            over = [place for place in group if statuses[place].get("state") == "finished"]
            # How a run was begun decides what it finds to the last digit: it goes on as it began.
            begun_alone = [p for p in group if p not in over and statuses[p].get("mode", "").endswith("alone")]
            begun = [p for p in group if p not in over and statuses[p].get("mode", "").endswith("batched")]
            fresh = [p for p in group if p not in {*over, *begun_alone, *begun}]
            programs += [[place] for place in (*over, *begun_alone)]
            single += len(begun_alone)
            whole = [
                program for program in _whole_programs(begun, statuses) if len(program) <= (self._width or len(jobs))
            ]
            programs += whole
            begun = [p for p in begun if not any(p in program for program in whole)]
            if whole:
                print(f"batched: {sum(map(len, whole))} runs go on together as they began")
            for places in (begun, fresh):
                places.sort(key=lambda place: repr(jobs[place].config["optimizer"]))
                if len(places) < 2:
                    programs += [[place] for place in places]
                    single += len(places)
                else:
                    programs += self._cut(places, [jobs[place] for place in places])
        if single:
            print(f"batched: {single} of {len(jobs)} runs alone: begun that way, or like no other")
        plan(home, [[folders[place].path for place in program] for program in programs])
        return programs

    def _planned(
        self, home: Path, folders: Sequence[RunFolder], statuses: Sequence[Mapping[str, Any]]
    ) -> list[list[int]]:
        """The programs that were decided on when this sweep in `home` began, and can be made again: another trial may
        come to another cut, which would round otherwise."""
        at: dict[str, deque[int]] = {}
        for place, folder in enumerate(folders):
            at.setdefault(str(folder.path), deque()).append(place)
        found = []
        for program in planned(home):
            mine = [at[path].popleft() for path in program if at.get(path)]
            otherwise = "batched" if len(program) == 1 else "alone"
            as_begun = not any(_going_on(statuses[place]).endswith(otherwise) for place in mine)
            if len(mine) == len(program) <= (self._width or len(folders)) and as_begun:
                found.append(mine)
        return found

    def _cut(self, places: Sequence[int], jobs: Sequence[Settings]) -> list[list[int]]:
        """The programs for `jobs`, at least two that are alike, by their `places`; says how, and why."""
        from gr_cli.launchers.plan import differing, parts
        from gr_cli.launchers.trial import judge

        what = f"{len(places)} runs that differ in {', '.join(differing(jobs)) or 'nothing'}"
        share = -(-len(places) // self._processes)  # each process shall have something to do
        try:
            with _threads_of(self._processes):
                verdict = judge(jobs, share, self._memory, self._processes, self._width)
        except GrError as error:
            print(f"batched: {what}: each alone, because the first can't be tried ({error})")
            return [[place] for place in places]
        _say(what, len(places), verdict)
        return parts(places, verdict.width)


def _whole_programs(places: Sequence[int], statuses: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """The programs in which runs were begun, of which all runs are among `places`, in their order."""
    found: dict[str, dict[int, int]] = {}
    sizes = {}
    for place in places:
        if program := statuses[place].get("program"):
            found.setdefault(program["id"], {})[program["place"]] = place
            sizes[program["id"]] = program["size"]
    return [[at[i] for i in sorted(at)] for name, at in found.items() if len(at) == sizes[name]]


def _going_on(status: Mapping[str, Any]) -> str:
    """How a run was trained that is not over yet."""
    return "" if status.get("state") == "finished" else str(status.get("mode", ""))


def _status(folder: RunFolder) -> dict[str, Any]:
    """What is known of a run that has something to go on from; nothing where that can't be read, which the run itself
    will tell."""
    try:
        return (folder.status() if folder.has_checkpoint else None) or {}
    except GrError:
        return {}


def _say(what: str, runs: int, verdict: Verdict) -> None:
    if verdict.width == 1:
        print(f"batched: {what}: one after the other, because {verdict.reason}")
        return
    count = -(-runs // verdict.width)
    how = "one program" if count == 1 else f"{count} programs of up to {verdict.width}"
    print(f"batched: {what}: {how} ({verdict.reason}; about {verdict.peak >> 20:,} MiB)")


def _threads_of(processes: int) -> AbstractContextManager[None]:
    """Torch with the threads that one of so many processes has."""
    import torch

    from gr_cli.machine import thread_limit

    return thread_limit(max(1, torch.get_num_threads() // processes))


# Jobs, their folders, and that of their sweep.
Work = Mapping[int, tuple[Sequence[Settings], Sequence[RunFolder], Path]]
Done = Iterator[tuple[int, Scores | Interrupted]]


def in_processes(work: Work, processes: int) -> Done:
    """What each program returns, from processes of this machine. After an interruption no further one begins."""
    context, queue = multiprocessing.get_context("spawn"), deque(work.items())
    waiting: dict[Future[Scores | Interrupted], int] = {}
    with ProcessPoolExecutor(min(processes, len(work)), context, _begin_worker, (processes,)) as pool:
        try:
            while waiting or queue:
                while queue and len(waiting) < processes:
                    i, program = queue.popleft()
                    waiting[pool.submit(_together, *program, live=False)] = i
                for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(done), done.result()
        except BrokenProcessPool:
            # Someone killed a process, which takes the others with it. What they saved goes on another time.
            print("gr-run: a process was lost, and with it the others", file=sys.stderr)
        except KeyboardInterrupt:
            wait(waiting)  # they were asked to stop as well
            raise


def on_ray(work: Work, processes: int, gpus: float) -> Done:
    """What each program returns, from a cluster of Ray that sees this folder; a lost process is replaced."""
    import ray

    ray.init(ignore_reinit_error=True, log_to_driver=True, include_dashboard=False, logging_level="error")
    # A program lies on one machine.
    largest = max(node["Resources"].get("CPU", 1.0) for node in ray.nodes() if node["Alive"])
    cores = max(1, int(min(ray.cluster_resources()["CPU"] // processes, largest)))
    start = ray.remote(num_cpus=cores, num_gpus=gpus, max_retries=3, max_calls=1)(_in_folder)
    waiting = {start.remote(Path.cwd(), *program): i for i, program in work.items()}
    while waiting:
        (done,), _ = ray.wait(list(waiting))
        i = waiting.pop(done)
        try:
            yield i, ray.get(done)
        except ray.exceptions.RayError as error:
            print(f"gr-run: a program was lost ({type(error).__name__})", file=sys.stderr)


def _in_folder(
    folder: Path, jobs: Sequence[Settings], folders: Sequence[RunFolder], sweep: Path
) -> Scores | Interrupted:
    os.chdir(folder)
    return _together(jobs, folders, sweep, live=False)


def _begin_worker(processes: int) -> None:
    """What a worker process does first."""
    import torch

    make_unfailing()
    hold_lifeline()
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))


def _together(
    jobs: Sequence[Settings], folders: Sequence[RunFolder], sweep: Path, live: bool = True
) -> Scores | Interrupted:
    """Run jobs as one program; what each returns to a sweeper. A failure is told, and leaves the other jobs alone."""
    from gr_cli.console import Terminal
    from gr_cli.experiment import run_together
    from gr_cli.tracking import Tracking
    from gr_cli.view import Views

    try:
        outcomes = run_together(jobs, folders, Views(Terminal(live=live, tally=tally()), Tracking(sweep)))
    except Interrupted as error:
        return error
    except GrError as error:
        print(f"gr-run: {error}", file=sys.stderr)
        return [float("nan")] * len(jobs)
    except Exception:
        traceback.print_exc()
        return [float("nan")] * len(jobs)
    if isinstance(outcomes[0], GrError) and len(jobs) == 1:  # of several, the terminal told as soon as one failed
        print(f"gr-run: {outcomes[0]}", file=sys.stderr)
    return [float("nan") if isinstance(outcome, GrError) else outcome.score for outcome in outcomes]


def _unless_stopped(found: Scores | Interrupted) -> Scores:
    if isinstance(found, Interrupted):
        raise Stop(found)
    return found
