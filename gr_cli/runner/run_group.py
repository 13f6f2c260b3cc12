"""A group of runs that one learner trains together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gr_cli.errors import GrError, Interrupted, Pruned, TrainingError, as_failure
from gr_cli.evaluation.base import Evaluation, EvaluationContext, run_evaluations
from gr_cli.results.folder import RunFolder
from gr_cli.results.status import StatusWriter
from gr_cli.runner import checkpoints
from gr_cli.runner.provenance import privacy_provenance
from gr_cli.trackers.trust import untrusted_names
from gr_cli.training.experiment import Experiment
from gr_cli.training.learner import Learner
from gr_cli.training.observer import RunObserver
from gr_cli.training.private_training import private_accesses
from gr_cli.training.stages import ResumePoint


@dataclass
class Run:
    """One run of a group.

    Attributes:
        experiment: Settings, benchmark, stages and record.
        folder: Folder of the run, locked.
        status: Writer of its status.json.
        states: Checkpoints from which it can resume; emptied when it does.
        saved: Resume point of the newest checkpoint in the folder.
        failure: Error that ended the run, if any.
        evaluations: Evaluations after each task.
    """

    experiment: Experiment
    folder: RunFolder
    status: StatusWriter
    states: dict[ResumePoint, checkpoints.SavedState]
    saved: ResumePoint | None = None
    failure: GrError | None = None
    evaluations: Sequence[Evaluation] = ()


@dataclass
class RunGroup:
    """Runs that one learner trains as replicas, often a single one. The failure of a run doesn't end the others.

    Attributes:
        runs: The runs, in the order of the replicas.
        learner: Their learner.
        observers: Notified of what happens.
        is_single: Whether only one run was requested; the caller reports its failure then.
    """

    runs: list[Run]
    learner: Learner
    observers: RunObserver
    is_single: bool

    @property
    def active(self) -> list[tuple[int, Run]]:
        """Replica index and run, for the runs that have not failed."""
        return [(i, run) for i, run in enumerate(self.runs) if run.failure is None]

    def measure(self, after_task: int, iteration: int, task_finished: bool) -> None:
        """Run the evaluations of each active run.

        Args:
            after_task: Task in training, from 0; -1 before any training.
            iteration: Iterations of it that are done.
            task_finished: Whether its training is over.
        """
        self.for_each_active(
            lambda i, run: run_evaluations(
                run.evaluations,
                EvaluationContext(run.experiment, self.learner, i, after_task, iteration, task_finished),
            )
        )

    def record_accesses(self, resume_point: ResumePoint) -> None:
        """Write the accesses to raw samples of a stage to the ledgers, before it is trained or resumed."""

        def record(i: int, run: Run) -> None:
            experiment = run.experiment
            if experiment.ledger is not None:
                *earlier, current = [
                    private_accesses(experiment.learner, stage.task)
                    for stage in experiment.stages[: resume_point.stage + 1]
                ]
                experiment.ledger.require([access for accesses in earlier for access in accesses])
                experiment.ledger.record(current, *resume_point)
                run.status.provenance |= privacy_provenance(experiment)

        self.for_each_active(record)

    def record_stop(self, resume_point: ResumePoint) -> None:
        """Note in the ledgers that training stops at a checkpoint."""
        for _, run in self.active:
            if run.experiment.ledger is not None:
                run.experiment.ledger.record_stop(*resume_point)

    @property
    def folders(self) -> list[Path]:
        """Folders of the runs."""
        return [run.folder.path for run in self.runs]

    def interrupted(self) -> Interrupted:
        """The exception that ends the group after a stop request."""
        return Interrupted(self.folders, untrusted_names(self.runs[0].experiment.settings.config))

    def fail(self, run: Run, error: GrError) -> None:
        """Mark a run as failed.

        Raises:
            GrError: No run of the group is active any more.
        """
        if isinstance(error, TrainingError) and run.folder.has_checkpoint:
            error = TrainingError(f"{error}; the last checkpoint before that is in {run.folder.path}")
        run.failure = error
        if len(self.runs) > 1:
            run.status.write_end(error)
        if not self.is_single:
            self.observers.failed(run.folder.path, error)
        if not self.active:
            raise error

    def prune(self, task: int) -> None:
        """End the runs whose average accuracy so far, after `task`, is below their setting `prune_below`.

        Raises:
            Pruned: No run of the group is active any more.
        """
        for _, run in self.active:
            limits = run.experiment.settings.config["prune_below"] or []
            limit = limits[task] if task < len(limits) else None
            accuracy = run.experiment.record.accuracy_so_far().get(task)
            if limit is not None and accuracy is not None and accuracy < limit:
                self.fail(
                    run,
                    Pruned(
                        f"pruned after task {task}: its average accuracy so far, {accuracy:.4f}, is below {limit:.4f}"
                    ),
                )

    def for_each_active(self, action: Callable[[int, Run], object]) -> None:
        """Call `action` with replica index and run for each active run; an error marks the run as failed."""
        for i, run in self.active:
            try:
                action(i, run)
            except GrError as error:
                self.fail(run, error)
            except Exception as error:
                if len(self.runs) == 1:
                    raise
                self.fail(run, as_failure(error))
