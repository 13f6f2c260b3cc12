"""The batched launcher: trains jobs of a sweep as replicas of one program, in one or several processes."""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher

from gr_cli.cli.launchers.jobs import compose_jobs
from gr_cli.cli.launchers.programs import (
    Program,
    ProgramResults,
    ProgramsByIndex,
    Scores,
    failure_scores,
    run_program,
)
from gr_cli.cli.sweep import current_sweep
from gr_cli.config.settings import Settings
from gr_cli.errors import GrError, Interrupted, Stop, as_failure
from gr_cli.results.folder import RunFolder
from gr_cli.system.output import make_output_robust
from gr_cli.system.signals import join_lifeline
from gr_cli.types import NonNegative, PositiveInt

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from gr_cli.cli.launchers.processes import PlannedProgram
    from gr_cli.cli.launchers.program_width import WidthChoice


class BatchedLauncher(Launcher):
    """Train runs that differ only in seeds and numeric settings as replicas of one program.

    Tensors of the replicas are stacked, so that one kernel call serves all of them. Other runs are trained alone.

    Args:
        width: Largest number of runs in one program.
        memory_mib: Memory limit of one program in MiB, compared with an upper bound from the shapes of its tensors.
        processes: Number of programs that run at the same time, each in its own process; `auto`: one per core, if the
            sweep takes longer than their start.
        where: `here` starts these processes on this machine, `ray` on the Ray cluster at `RAY_ADDRESS`.
        gpus: GPUs that Ray reserves for each program; fractions share a GPU.
    """

    def __init__(
        self,
        width: PositiveInt = 32,
        memory_mib: PositiveInt = 4096,
        processes: PositiveInt | Literal["auto"] = "auto",
        where: Literal["here", "ray"] = "here",
        gpus: NonNegative = 0.0,
    ) -> None:
        self._where, self._gpus = where, gpus
        self._width, self._processes = width, processes
        self._memory_bytes = memory_mib << 20

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what Hydra passes before `launch`."""
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; their results in the same order."""
        setup_globals()
        composed = compose_jobs(self._context, self._config, job_overrides, initial_job_idx)
        jobs, folders = [settings for settings, _ in composed], [folder for _, folder in composed]
        scores = self.train(jobs, folders, Path(self._config.hydra.sweep.dir))
        return [
            JobReturn(overrides=list(overrides), _return_value=score, status=JobStatus.COMPLETED)
            for overrides, score in zip(job_overrides, scores, strict=True)
        ]

    def train(self, jobs: Sequence[Settings], folders: Sequence[RunFolder], sweep: Path) -> Scores:
        """Train runs; their scores in the same order.

        Args:
            jobs: Settings of the runs.
            folders: Their folders.
            sweep: Folder of the sweep.

        Raises:
            Stop: The user stopped them; the same call resumes them.
        """
        from gr_cli.system.devices import flush_denormals

        # Before the first computation: threads that torch starts later inherit the setting.
        with flush_denormals():
            programs = self._plan_programs(jobs, folders)
            processes = self._choose_processes(programs, jobs, sweep)
            results = self._run_programs(programs, processes, jobs, folders, sweep)
            score_of = {i: score for indices, scores in results for i, score in zip(indices, scores, strict=True)}
        return [score_of[i] for i in range(len(jobs))]

    def _run_programs(
        self,
        programs: Sequence[PlannedProgram],
        processes: int,
        jobs: Sequence[Settings],
        folders: Sequence[RunFolder],
        sweep: Path,
    ) -> Iterator[tuple[list[int], Scores]]:
        """Run programs in so many processes; yields the indices of their jobs, and scores, as they end."""
        work: ProgramsByIndex = {
            number: ([jobs[i] for i in program.jobs], [folders[i] for i in program.jobs], sweep)
            for number, program in enumerate(programs)
        }
        if self._where == "ray":
            from gr_cli.cli.launchers.ray_launcher import run_programs_on_ray

            results = run_programs_on_ray(work, processes, self._gpus)
        elif processes > 1:
            results = run_in_processes(work, processes)
        else:
            results = ((number, run_program(*program)) for number, program in work.items())
        for number, scores in results:
            if isinstance(scores, Interrupted):
                raise Stop(scores)
            current_sweep().progress.count(scores)
            yield programs[number].jobs, scores

    def _choose_processes(self, programs: Sequence[PlannedProgram], jobs: Sequence[Settings], sweep: Path) -> int:
        """The number of processes; by rule if it is `auto`, see `choose_processes`."""
        import torch

        from gr_cli.cli.launchers.processes import announce_processes, choose_processes, estimated_seconds
        from gr_cli.system.devices import pick_device
        from gr_cli.system.memory import total_memory
        from gr_cli.system.signals import lifeline
        from gr_cli.training.experiment import prepare

        if self._processes != "auto":
            return self._processes
        if any(job.live for job in jobs):  # objects that only this process has
            return 1
        if self._where == "ray":  # which queues those that its cores don't suffice for
            return len(programs)
        device = pick_device(jobs[0].config["device"])
        if device.type != "cpu":  # programs side by side on a GPU are no faster
            return 1

        def estimate(job: int) -> float:
            try:
                return estimated_seconds(prepare(jobs[job]))
            except Exception:  # the run itself will report it
                return 0.0

        threads_per_run = max(settings.config["threads"] or 1 for settings in jobs)
        cores = torch.get_num_threads() // threads_per_run
        processes = choose_processes(programs, estimate, cores, total_memory(device))
        if processes > 1:
            current_sweep().resources.enter_context(lifeline())
            announce_processes(sweep)
        return processes

    def _plan_programs(self, jobs: Sequence[Settings], folders: Sequence[RunFolder]) -> list[PlannedProgram]:
        """Group jobs into programs, and print the reasons.

        The programs depend on the set of jobs only, not on their order or state: rounding differs between programs of
        different width, so the same command has to resume an interrupted sweep with the same programs. A run that
        began alone is resumed alone.
        """
        from gr_cli.cli.launchers.grouping import group_compatible
        from gr_cli.cli.launchers.processes import PlannedProgram

        def alone(i: int) -> PlannedProgram:
            return PlannedProgram([i], seconds=0.0 if statuses[i].get("state") == "finished" else None)

        statuses = [_resumable_status(folder) for folder in folders]
        programs: list[PlannedProgram] = []
        single = 0
        for group in group_compatible(jobs):
            begun_alone = [i for i in group if str(statuses[i].get("mode")).endswith("alone")]
            others = sorted((i for i in group if i not in begun_alone), key=lambda i: _sort_key(jobs[i]))
            programs += map(alone, begun_alone)
            single += sum(statuses[i]["state"] != "finished" for i in begun_alone)
            if all(statuses[i].get("state") == "finished" for i in others):
                programs += map(alone, others)
            elif len(others) == 1:
                programs.append(alone(others[0]))
                single += 1
            else:
                programs += self._split_group(others, [jobs[i] for i in others])
        if single:
            print(
                f"batched: {single} of {len(jobs)} runs are trained alone: they began alone, or have no compatible run"
            )
        return programs

    def _split_group(self, indices: Sequence[int], jobs: Sequence[Settings]) -> list[PlannedProgram]:
        """Split at least two compatible jobs, given with their indices, into programs; prints the reason."""
        from gr_cli.cli.launchers.grouping import differing_settings, even_chunks
        from gr_cli.cli.launchers.processes import PlannedProgram
        from gr_cli.cli.launchers.program_width import choose_width

        group = f"{len(indices)} runs that differ in {', '.join(differing_settings(jobs)) or 'nothing'}"
        runs_per_process = len(indices) if self._processes == "auto" else -(-len(indices) // self._processes)
        try:
            choice = choose_width(jobs, min(self._width, runs_per_process), self._memory_bytes)
        except Exception as error:  # the run itself will report it
            print(f"batched: {group}: each alone, because the first can't be prepared ({as_failure(error)})")
            return [PlannedProgram([i], seconds=0.0) for i in indices]
        print(f"batched: {group}: {_describe_choice(choice, len(indices))}")
        seconds = choice.seconds_per_run
        return [
            PlannedProgram(chunk, None if seconds is None else seconds * len(chunk), choice.bytes_per_run * len(chunk))
            for chunk in even_chunks(indices, choice.width)
        ]


def _sort_key(settings: Settings) -> tuple[str, int, str]:
    """Sort key of compatible jobs: jobs with equal optimizers are neighbours, so that programs share them."""
    return repr(settings.config["optimizer"]), settings.seed, json.dumps(settings.config, sort_keys=True)


def _resumable_status(folder: RunFolder) -> dict[str, Any]:
    """Status of a run that can be resumed, else empty; damaged files are reported by the run itself."""
    try:
        return (folder.status() if folder.has_checkpoint else None) or {}
    except GrError:
        return {}


def _describe_choice(choice: WidthChoice, runs: int) -> str:
    """The number of programs for `runs` runs, and the reason, in words."""
    if choice.width == 1:
        return f"one after the other{choice.reason and f', because {choice.reason}'}"
    count = -(-runs // choice.width)
    programs = "one program" if count == 1 else f"{count} programs of up to {choice.width}"
    needed = -(-choice.bytes_per_run * min(runs, choice.width) >> 20)
    return f"{programs} (up to {needed:,} MiB{choice.reason and f'; {choice.reason}'})"


def run_in_processes(work: ProgramsByIndex, processes: int) -> ProgramResults:
    """Run programs in processes of this machine; yields number and scores of each as it ends."""
    queue = deque(work.items())
    while queue:
        yield from _run_in_pool(queue, processes)


def _run_in_pool(queue: deque[tuple[int, Program]], processes: int) -> ProgramResults:
    """Run programs of `queue` until it is empty or a process is lost, which breaks the pool."""
    context = multiprocessing.get_context("spawn")
    waiting: dict[Future[Scores | Interrupted], tuple[int, Program]] = {}
    with ProcessPoolExecutor(min(processes, len(queue)), context, _initialize_worker, (processes,)) as pool:
        try:
            while waiting or queue:
                while queue and len(waiting) < processes:
                    i, program = queue[0]
                    waiting[pool.submit(run_program, *program, Path.cwd())] = i, program
                    queue.popleft()
                for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                    i, program = waiting.pop(done)
                    try:
                        yield i, done.result()
                    except BrokenProcessPool:
                        waiting[done] = i, program
                        raise
                    except Exception as error:
                        yield i, failure_scores(program[1], error)
        except BrokenProcessPool:
            # The other processes of the pool are lost, too. Their checkpoints remain, for a repeated command.
            print("gr-run: a process was lost, and with it the other active ones", file=sys.stderr)
            for i, (jobs, *_) in waiting.values():
                yield i, [float("nan")] * len(jobs)
        except KeyboardInterrupt:
            wait(waiting)  # the processes have received the request, too
            raise


def _initialize_worker(processes: int) -> None:
    """Initialize a worker process: robust output, lifeline, its share of the threads."""
    import torch

    make_output_robust()
    join_lifeline()
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
