"""Base class of strategies: training on the current batch only."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from gr_cli.errors import ConfigError
from gr_cli.generators.base import Generator
from gr_cli.nn.losses import Targets
from gr_cli.nn.replicas import Replicas
from gr_cli.nn.shared_fit import SharedFit
from gr_cli.scenario import Scenario
from gr_cli.strategies.context import (
    Batch,
    GeneratorBatch,
    LossTerm,
    SolverForward,
    State,
    TaskContext,
    TrainingStep,
    classification_losses,
    optional_state,
)
from gr_cli.strategies.regularizer import Regularizer

ReferenceRole = Literal["transfer", "intransigence"]


class Strategy:
    """Base class of strategies. By itself it trains on the current batch only.

    The learner calls `begin_task`; `loss`, `generator_batch` and `after_step` in each step; then `end_task` and
    `release_task`. A strategy with another loss:

        >>> from gr_cli.nn.losses import masked_log_softmax
        >>> class ConfidencePenalty(Strategy):
        ...     def loss(self, solver, batch, step):
        ...         log_p = masked_log_softmax(solver(batch.x), batch.active_units)  # (R, B, U)
        ...         nll = -log_p.gather(-1, batch.y.unsqueeze(-1)).squeeze(-1)  # (R, B)
        ...         negative_entropy = (log_p.exp() * log_p).sum(-1)  # (R, B)
        ...         return {
        ...             "current": LossTerm(nll.mean(-1), per_sample=nll),
        ...             "entropy": LossTerm(negative_entropy.mean(-1), weight=0.1),
        ...         }
        >>> active = torch.tensor([True, True, False])
        >>> batch = Batch(torch.zeros(1, 4, 3), torch.tensor([[0, 1, 0, 1]]), active, active[None], active.expand(3, 3))
        >>> terms = ConfidencePenalty().loss(lambda x: x, batch, TrainingStep(task=0, iteration=0, iterations=100))
        >>> {name: term.value for name, term in terms.items()}
        {'current': tensor([0.6931]), 'entropy': tensor([-0.6931])}

    Args:
        regularizer: Penalty on the solver's parameters that is added to the loss; None: no penalty.

    Attributes:
        stores_raw_samples: Whether training samples are stored beyond their task.
        training_data: Data of one training stage: the `current` task, all tasks so far (`cumulative`) or all tasks at
            once (`joint`).
        shares_loss_with_generator: Whether solver and generator are trained by one loss and one backward pass.
        uses_teacher: Whether a frozen copy of the solver, `teacher`, is made before each task but the first.
        supports_consolidation: Whether it can be trained on task-free streams by consolidating every
            `consolidate_every` steps.
        consolidate_every: Iterations between consolidations in task-free streams; None: not set.
        boundary_requirement: What is done at task boundaries, as the end of a sentence for error messages; None: they
            are not used.
        scores_depend_on_batch: Whether the scores that `classifier` gives a sample depend on the others of its batch.
        keeps_scores: Whether the function that `classifier` returns takes the identity of a batch as a second argument,
            and keeps what it computes for later calls with the same batch.
        needs_task_identity: Whether the function that `classifier` returns takes the task of the samples as a second
            argument.
        restarts_solver: Whether each task begins with a new solver, and so with a new state of the optimizer.
        reference_for: What other runs are compared with a run of this strategy for: `transfer` (separate networks) or
            `intransigence` (all tasks so far); None: nothing.
        needs_second_pass: Whether `begin_task` or `end_task` pass over the task's samples.
        second_pass_is_streamable: Whether what that pass keeps could be gathered batch by batch during training, as a
            reservoir or a sum can, so that it is allowed on single-pass streams.
        generator: The generator, for strategies that require one.
        teacher: The solver as it was before the task, during tasks with a teacher.
    """

    stores_raw_samples: bool = False
    training_data: ClassVar[Literal["current", "cumulative", "joint"]] = "current"
    shares_loss_with_generator: ClassVar[bool] = False
    uses_teacher: ClassVar[bool] = False
    supports_consolidation: ClassVar[bool] = False
    consolidate_every: int | None = None
    boundary_requirement: str | None = "is trained task by task"
    scores_depend_on_batch: bool = False
    keeps_scores: bool = False
    needs_task_identity: ClassVar[bool] = False
    restarts_solver: ClassVar[bool] = False
    reference_for: ClassVar[ReferenceRole | None] = None
    needs_second_pass: bool = False
    second_pass_is_streamable: ClassVar[bool] = False
    generator: Generator | None = None

    def __init__(self, regularizer: Regularizer | None = None) -> None:
        self.regularizer = regularizer
        self.teacher: Replicas[nn.Module] | None = None

    def check(self, scenario: Scenario, solver: nn.Module) -> None:
        """Refuse scenarios and solvers that this strategy can't be used with.

        Raises:
            ConfigError: The strategy does not support this scenario or solver.
        """

    def begin_task(self, context: TaskContext) -> None:
        """Prepare for a task, before its first step."""
        self._set_up_task(context)
        if self.uses_teacher and context.task > 0:
            # Copy before training: targets must come from the solver as it was.
            self.teacher = context.solver.frozen_copy()

    def _set_up_task(self, context: TaskContext) -> None:
        """Reset what belongs to one task; also called when a run resumes within a task."""
        self._context, self.teacher = context, None

    def num_steps(self, iterations: int) -> int:
        """Number of steps of a task with so many solver iterations; more if the generator has its own steps."""
        return iterations

    def num_generator_updates(self, iterations: int) -> int:
        """Number of gradient updates of the generator in a task with so many solver iterations."""
        return 0

    @property
    def solver_reads_samples(self) -> bool:
        """Whether the solver is trained on samples of the stream, and not on generated ones alone."""
        return True

    @property
    def other_sample_uses(self) -> str | None:
        """What it reads of training samples besides the losses of its steps and the fit of a generator in closed form.

        The end of a sentence for error messages; None: nothing.
        """
        if self.training_data != "current":
            return "trains on the samples of earlier tasks again"
        if self.stores_raw_samples:
            return "keeps samples of earlier tasks"
        is_fitted = self.generator is not None and self.generator.closed_form
        return "passes over the samples of a task a second time" if self.needs_second_pass and not is_fitted else None

    def solver_iteration(self, step: TrainingStep) -> int | None:
        """The solver iteration of a step; None: only the generator is trained."""
        return step.iteration if step.iteration < step.iterations else None

    def loss(self, solver: SolverForward, batch: Batch, step: TrainingStep) -> dict[str, LossTerm]:
        """The terms of the solver's loss on one step, by name."""
        (current,) = classification_losses(solver, batch.x, [self.current_targets(batch)])
        return {"current": current}

    def current_targets(self, batch: Batch) -> Targets:
        """The targets of current samples: their labels."""
        return Targets(batch.y.unsqueeze(-1), batch.units_by_head)

    def generator_batch(self, batch: Batch, step: TrainingStep) -> GeneratorBatch | None:
        """The generator's batch in this step; None: no update."""
        return None

    def after_step(self, batch: Batch, step: TrainingStep) -> None:
        """Update buffers with a batch, once, after the solver's last step on it."""

    def end_task(self, context: TaskContext) -> None:
        """Store what later tasks need, after the last step of a task."""

    def release_task(self) -> None:
        """Free what must not outlive the task, completed or not."""
        self.teacher = None

    def classifier(self, replica: int, solver: nn.Module) -> Callable[..., Tensor]:
        """The function that classifies samples in evaluation: (B, ...) to a score per unit (B, U)."""
        return solver

    def testing_units(self, scenario: Scenario, task_units: Tensor, task: int, last_trained_task: int) -> Tensor:
        """Units that compete on test samples of `task` after training `last_trained_task` (-1: none), bool (U,)."""
        return scenario.testing_units(task_units, task, last_trained_task)

    def sampling_generator(self, replica: int, generator: Generator) -> Generator:
        """The generator of samples of all tasks so far; `generator` is the replica's trained one."""
        return generator

    def replay_labels(
        self, x: Tensor, requested_labels: Tensor | None, generator: Generator, solver: nn.Module, task_units: Tensor
    ) -> Tensor:
        """The labels with which generated samples of one replica would be replayed by its current networks.

        Args:
            x: Generated samples (N, ...).
            requested_labels: Classes (N,) that a conditional generator was given; None for others.
            generator: The replica's generator.
            solver: The replica's solver.
            task_units: Units of each head: bool (H, U).

        Returns:
            Units (N, H): the requested class in its head, and the solver's prediction in all others.
        """
        predicted: Tensor = solver(x).unsqueeze(1).masked_fill(~task_units, -torch.inf).argmax(-1)
        if requested_labels is None:
            return predicted
        return torch.where(task_units.T[requested_labels], requested_labels.unsqueeze(1), predicted)

    @property
    def shared_fits(self) -> tuple[SharedFit, ...]:
        """What keeps the strategy from forgetting a class or a task on request: a memory, or the solver's training."""
        if self.stores_raw_samples:
            return (SharedFit("the strategy keeps a memory of samples"),)
        remedy = "strategy=generative_classifier with generator=mixture forgets on request"
        return (SharedFit("the solver is trained by gradient steps", remedy),)

    def forget(self, dropped: Tensor) -> None:
        """Forget classes of tasks, after training; for strategies without `shared_fits`.

        Afterwards the strategy's state and its generator's equal, bit for bit, those after the same stream without
        these samples.

        Args:
            dropped: bool (T, U), the output units of each task whose samples are forgotten.
        """
        raise TypeError(f"{type(self).__name__} can't forget single classes")

    def forget_samples(self, task: int, unit: int, x: Tensor) -> None:
        """Forget single samples x (N, ...) of one task and output unit, as `forget` does; for exact sums.

        Raises:
            ConfigError: The strategy keeps no sums that single samples can be taken out of.
            DataError: The samples can't have been in the stream.
        """
        remedy = "strategy=slda strategy.arithmetic=fixed_point does"
        raise ConfigError(
            "samples", len(x), "this strategy keeps no exact sums that they could be taken out of", remedy
        )

    def state_dict(self) -> State:
        """The strategy's state: tensors with the replica axis, and numbers common to all replicas.

        Subclasses extend `super().state_dict()`.
        """
        return {"teacher": optional_state(self.teacher)}

    def load_state_dict(self, state: State, context: TaskContext) -> None:
        """Restore a state within the task of `context`."""
        self._set_up_task(context)
        if state.get("teacher") is not None:
            self.teacher = context.solver.frozen_copy()
            self.teacher.load_state_dict(state["teacher"])
