"""The learner: solvers, strategy, generators and optimizers of R replicas, and the training loop of a task."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import compress
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gr_cli.generators.base import Generator
from gr_cli.nn.augmentation import Augmentation
from gr_cli.nn.fused import detached
from gr_cli.nn.gradient_projection import project_conflicting_gradient
from gr_cli.nn.gradient_rules import GradientRule, GradientStep, Loss
from gr_cli.nn.layers import HasTrainingNoise, train_mode
from gr_cli.nn.operation_count import OperationCount
from gr_cli.nn.random_streams import RandomStreams, ReplicaStreams, StreamNames, seeded
from gr_cli.nn.replicas import Replicas, stack_states, unstack
from gr_cli.optimizers import FunctionalOptimizer, Optimizer
from gr_cli.scenario import Scenario
from gr_cli.strategies.base import Strategy
from gr_cli.strategies.context import (
    Batch,
    SamplePass,
    State,
    TaskContext,
    TrainingStep,
    masked_terms,
    weighted_loss,
)
from gr_cli.system.timer import Timer
from gr_cli.training.generator_update import GeneratorUpdate, generator_learning_rate, gradient_metrics
from gr_cli.training.penalized_update import PenalizedUpdate
from gr_cli.training.scoring import Predictions, Score, score_predictions
from gr_cli.training.task_free import ConsolidationSchedule
from gr_cli.training.training_forward import TrainingForward

Losses = dict[str, Tensor]
LabelledBatches = Iterable[tuple[Tensor, Tensor]]  # x (B, ...) and y (B,)
Precision = Literal["float32", "float64", "bf16"]
StepCallback = Callable[[TrainingStep, Losses], None]


class Learner:
    """Trains the solvers of R replicas on one task after the other, under one strategy.

    Args:
        solvers: Networks that map samples (R, B, ...) to logits (R, B, U).
        generators: Networks that generate samples, if the strategy uses any.
        strategy: The continual-learning method. Its numeric settings may be tensors (R,), one value per replica.
        optimizers: Optimizer settings of each replica's solver.
        scenario: Maps tasks to output units and defines which of them compete.
        task_units: bool (T, U), the output units of each task, or of each consolidation interval in a task-free stream.
            Rows may be appended as tasks arrive.
        random_streams: Random streams of each replica. Their device is that of all tensors.
        precision: `float32`, `float64`, or `bf16`: parameters and losses in float32, matrix products in bfloat16.
        augment: Random augmentation of the samples that the solvers train on. Default: none.
        consolidation_schedule: In a task-free stream, when the strategy consolidates. Default: at task boundaries.
        generator_optimizers: Optimizer settings of each replica's generator. Default: those of its solver.
        gradient_rule: How gradients of the solvers are computed. Default: plain autograd.
        generator_gradient_rule: How gradients of the generators are computed. Default: a copy of the solvers' rule.
    """

    def __init__(
        self,
        solvers: Replicas[nn.Module],
        generators: Replicas[Generator] | None,
        strategy: Strategy,
        optimizers: Sequence[Optimizer],
        scenario: Scenario,
        task_units: Tensor,
        random_streams: Sequence[RandomStreams],
        precision: Precision = "float32",
        augment: Augmentation | None = None,
        consolidation_schedule: ConsolidationSchedule | None = None,
        generator_optimizers: Sequence[Optimizer] | None = None,
        gradient_rule: GradientRule | None = None,
        generator_gradient_rule: GradientRule | None = None,
    ) -> None:
        self.solvers, self.generators, self.strategy, self.scenario = solvers, generators, strategy, scenario
        self.augment, self.consolidation_schedule = augment or Augmentation(), consolidation_schedule
        self.precision, self.dtype = precision, torch.float64 if precision == "float64" else torch.float32
        self.random_streams, self.streams = list(random_streams), ReplicaStreams(random_streams, self.dtype)
        self.device = self.streams.device
        self.task_units = task_units.to(self.device)
        self.clock, self.operations = Timer(), OperationCount()
        self._sample_pass: SamplePass | None = None
        self.optimizers = list(optimizers)
        self.generator_optimizers = list(generator_optimizers or optimizers)
        self._solver_takes_noise = isinstance(self.solver, HasTrainingNoise)
        self.gradient_rule, self.generator_gradient_rule = gradient_rule or GradientRule(), generator_gradient_rule
        self.gradient_rules = {"solver": copy.deepcopy(self.gradient_rule)}
        self.functional_optimizers = {"solver": FunctionalOptimizer(self._trained_parameters(), self.optimizers)}
        self._generator_update = None
        if generators is not None:
            rule = generator_gradient_rule or self.gradient_rule
            self._generator_update = GeneratorUpdate(generators, self.generator_optimizers, self.streams, rule)
            self.functional_optimizers |= self._generator_update.functional_optimizers
            self.gradient_rules |= self._generator_update.gradient_rules
        self._penalized_update = None
        if (regularizer := strategy.regularizer) is not None:
            # Where solver and generator have one loss, a step updates both, and the penalty may cover both.
            covers_all = strategy.shares_loss_with_generator and regularizer.includes_generator
            penalized = dict(self.functional_optimizers) if covers_all else self._solver_optimizer()
            self._penalized_update = PenalizedUpdate(regularizer, penalized, len(self.random_streams))

    def _solver_optimizer(self) -> dict[str, FunctionalOptimizer]:
        return {"solver": self.functional_optimizers["solver"]}

    def _trained_parameters(self) -> list[Tensor]:
        """The solvers' parameters that require gradients."""
        return self.solvers.select_parameters(lambda network: (p for p in network.parameters() if p.requires_grad))

    def rebind_parameters(self) -> None:
        """Optimize the current parameters of solver and generator of a single replica, which a caller changed."""
        self.functional_optimizers["solver"].rebind_parameters(self._trained_parameters())
        if self._generator_update is not None:
            self._generator_update.rebind_parameters()
        if self._penalized_update is not None:
            self._penalized_update.begin_task()

    @property
    def solver(self) -> nn.Module:
        """The solver of the first replica."""
        return self.solvers.modules[0]

    @property
    def generator(self) -> Generator | None:
        """The generator of the first replica, if there is one."""
        return None if self.generators is None else self.generators.modules[0]

    # --- training

    def train_task(
        self,
        task: int,
        batches: Iterable[Batch],
        iterations: int,
        on_step: StepCallback,
        first_iteration: int = 0,
        sample_pass: SamplePass | None = None,
    ) -> None:
        """Train on one task: `begin_task`, a `step` for each batch, `end_task`.

        In a task-free stream, begin and end are those of consolidation intervals (see `ConsolidationSchedule`).

        Args:
            task: Index of the task.
            batches: Yields one batch per step, from `first_iteration` on.
            iterations: Training iterations of the task. The strategy may add steps for the generator.
            on_step: Called after each step with its position and losses.
            first_iteration: Above 0 to resume within the task, after `load_states`.
            sample_pass: Iterates once over the task's samples of a replica, for strategies with `needs_second_pass`.
        """
        if first_iteration == 0 and self.consolidation_schedule is None:
            self.begin_task(task, sample_pass)
        steps = self.strategy.num_steps(iterations)
        with self.solvers.train_mode(training=True):
            for iteration, batch in zip(range(first_iteration, steps), batches, strict=False):
                step = TrainingStep(task, iteration, iterations)
                on_step(step, self.step(batch, self._strategy_step(step)))
        if self.consolidation_schedule is None:
            self.end_task(task, sample_pass)
        elif task == self.consolidation_schedule.num_tasks - 1:
            self.end_task(self.consolidation_schedule.last_interval_before(task + 1, 0))

    def _strategy_step(self, step: TrainingStep) -> TrainingStep:
        """The step as the strategy counts it. In a task-free stream, first consolidates where an interval ended."""
        if self.consolidation_schedule is None:
            return step
        interval_step = self.consolidation_schedule.interval_of(step)
        if interval_step.iteration == 0:
            if interval_step.task > 0:
                self.end_task(interval_step.task - 1)
            self.begin_task(interval_step.task)
        return interval_step

    def begin_task(self, task: int, sample_pass: SamplePass | None = None) -> None:
        """Set up optimizers and strategy for a task."""
        self.operations.begin_task()
        for optimizer in self.functional_optimizers.values():
            optimizer.begin_task(self.strategy.restarts_solver)
        if self._penalized_update is not None:
            self._penalized_update.begin_task()
        with self._autocast(), self._consolidation():
            self.strategy.begin_task(self._task_context(task, sample_pass))

    def end_task(self, task: int, sample_pass: SamplePass | None = None) -> None:
        """Consolidate a completed task: weight importance, frozen generators, exemplars, as the strategy defines."""
        context = self._task_context(task, sample_pass)
        with self._autocast(), self.solvers.train_mode(training=False), self._consolidation():
            if self._penalized_update is not None:
                self._penalized_update.end_task(context)
            self.strategy.end_task(context)
        self.release_task()

    @contextmanager
    def _consolidation(self) -> Iterator[None]:
        """Measure what a strategy does at the beginning or the end of a task."""
        with self.clock.measure("consolidation"), self.operations.once("consolidation"):
            yield

    def release_task(self) -> None:
        """Drop all references to the samples of the current task, completed or not."""
        self._sample_pass = None
        self.strategy.release_task()
        if self.strategy.regularizer is not None:
            self.strategy.regularizer.release_task()

    def step(self, batch: Batch, step: TrainingStep) -> Losses:
        """One iteration: step of the solver, update of the strategy's memory, step of the generator if one is due.

        Returns:
            Unweighted terms of each loss and the solver's `total`, (R,) each; tensors on the device, not synchronised.
        """
        losses: Losses = {}
        # A smaller batch is another kind of work.
        remainder = f".{batch.y.shape[1]}" if batch.is_remainder else ""
        with self._autocast():
            if (iteration := self.strategy.solver_iteration(step)) is not None:
                # The first step may differ: nothing is stored yet that it could replay.
                kind = "solver.first" if step.iteration < batch.updates else "solver"
                with self.clock.measure("solver"), self.operations.step(kind + remainder):
                    losses |= self._step_solver(batch, step, iteration)
                    if batch.is_last_update(step):
                        self.strategy.after_step(batch, step)
            # Samples that the solver was not trained on in this step are generated here.
            with self.operations.step(f"generator_batch{remainder}") if iteration is None else nullcontext():
                generator_batch = self.strategy.generator_batch(batch, step)  # None: no step of the generator is due
            if generator_batch is not None and self._generator_update is not None:
                learning_rate = generator_learning_rate(self.strategy, step)
                kind = self._generator_update.kind(generator_batch)
                with self.clock.measure("generator"), self.operations.step(kind + remainder):
                    losses |= self._generator_update.step(generator_batch, step.task, learning_rate)
        return losses

    def _step_solver(self, batch: Batch, step: TrainingStep, iteration: int) -> Losses:
        """One step on the strategy's loss: gradients, projection (A-GEM), weight penalty, optimizer steps."""
        recording = self.gradient_rules["solver"].recording(self.solvers)
        with self._seeded_global_stream(step.task, step.iteration), recording:
            twice = self.gradient_rules["solver"].differentiates_twice
            forward = TrainingForward(self.solvers, self.streams, self.augment, self._solver_takes_noise, step, twice)
            terms = self.strategy.loss(forward, batch, step)
            terms = masked_terms(terms, batch.mask if self.strategy.solver_reads_samples else None)
        losses = {name: detached(term.fused_or_tensor) for name, term in terms.items()}
        constraints = [term.replace(weight=1.0) for term in terms.values() if term.is_constraint]
        minimised = [term for term in terms.values() if not term.is_constraint]
        loss = weighted_loss(minimised, keep_graph=bool(constraints))
        updated = self.functional_optimizers if self.strategy.shares_loss_with_generator else self._solver_optimizer()
        gradient_step = GradientStep("solver", step.task, step.iteration, self.streams)
        gradients = self._gradients(loss, list(updated), gradient_step)
        losses |= gradient_metrics("solver", self.gradient_rules["solver"])
        if constraints:  # A-GEM: the loss on stored samples must not increase
            reference_step = replace(gradient_step, name="solver.constraint")
            reference = self._gradients(weighted_loss(constraints), ["solver"], reference_step)["solver"]
            gradients["solver"] = project_conflicting_gradient(gradients["solver"], reference, len(self.random_streams))

        def learning_rate(optimizer: Optimizer) -> float:
            return optimizer.lr_at(iteration, step.iterations)

        penalized = {} if self._penalized_update is None else self._penalized_update.functional_optimizers
        if self._penalized_update is not None:
            penalized_gradients = [gradient for name in penalized for gradient in gradients[name]]
            losses |= self._penalized_update.step(penalized_gradients, learning_rate)
        for name in updated:
            if name not in penalized:
                self.functional_optimizers[name].step(gradients[name], learning_rate)
        total = loss.detached_total
        return losses | {"total": total + losses["penalty"] if "penalty" in losses else total}

    def step_generator(self, batch: Batch, task: int) -> Losses:
        """One step of every generator objective on `batch`, regardless of the update schedule; to measure speed."""
        if self._generator_update is None or self.strategy.shares_loss_with_generator:
            return {}
        learning_rate = generator_learning_rate(self.strategy, TrainingStep(task, 0, 1))
        with self._autocast():
            return self._generator_update.step_all_objectives(batch, task, learning_rate)

    def _gradients(self, loss: Loss, names: Sequence[str], step: GradientStep) -> dict[str, list[Tensor | None]]:
        """Gradients of a solver loss by optimizer name; None for parameters that it does not depend on."""
        parameters = [p for name in names for p in self.functional_optimizers[name].parameters]
        gradients = iter(self.gradient_rules["solver"].gradients(loss, parameters, step))
        return {name: [next(gradients) for _ in self.functional_optimizers[name].parameters] for name in names}

    def _autocast(self) -> Any:
        """Context in which matrix products have the learner's precision."""
        if self.precision != "bf16":
            return nullcontext()
        # No cache of cast weights: the parameters change between two forward passes.
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    def _seeded_global_stream(self, *key: int) -> Any:
        # A solver without `training_noise` may draw from torch's global stream, which is seeded for each step.
        if self._solver_takes_noise:
            return nullcontext()
        return seeded(self.random_streams[0].seed, StreamNames.SOLVER_GLOBAL, *key)

    def _task_samples(self, replica: int) -> Iterable[tuple[Tensor, Tensor]]:
        if self._sample_pass is None:
            raise ValueError("this strategy iterates over a task's samples again: sample_pass is needed")
        return self._sample_pass(replica)

    def _task_context(self, task: int, sample_pass: SamplePass | None) -> TaskContext:
        self._sample_pass = sample_pass
        return TaskContext(
            task,
            self.solvers,
            self.generators,
            self.streams,
            self.scenario.known_units(self.task_units, task),
            self.scenario.task_of_unit(self.task_units, task),
            self.task_units[: task + 1],
            self.scenario.competing_units(self.task_units, task),
            self._task_samples,
        )

    # --- evaluation

    @contextmanager
    def classifier(self, replica: int = 0) -> Iterator[Callable[[Tensor, Hashable, int], Tensor]]:
        """The function from samples (B, ...) to logits (B, U) of one solver in evaluation mode, within the block.

        Its second argument is the identity of the samples, under which a strategy may keep their scores, or None; the
        third one is their task. Does not change random state or training mode.
        """
        solver = self.solvers.modules[replica]
        with torch.no_grad(), self._seeded_global_stream(-1), train_mode(solver, training=False):
            classifier, strategy = self.strategy.classifier(replica, solver), self.strategy
            given = strategy.keeps_scores, strategy.needs_task_identity
            yield lambda x, batch_id, task: classifier(x.to(self.dtype), *compress((batch_id, task), given))

    @property
    def logits_depend_on_batch(self) -> bool:
        """Whether the logits of a sample depend on the others of its batch, as random numbers drawn for it do.

        Scores that are kept do, too: by their rounding.
        """
        return not self._solver_takes_noise or self.strategy.scores_depend_on_batch or self.strategy.keeps_scores

    def predict(self, batches: LabelledBatches, replica: int = 0, task: int = 0) -> Predictions:
        """Logits of one solver in evaluation mode, with labels, for `batches` of (x, y), (B, ...), of one task."""
        with self.classifier(replica) as logits:
            return [(logits(x, None, task), y) for x, y in batches]

    def evaluate(self, batches: LabelledBatches, units: Tensor, replica: int = 0, task: int = 0) -> Score:
        """Accuracy and loss of one solver on `batches` of (x, y), (B, ...), when `units`, bool (U,), compete."""
        return score_predictions(self.predict(batches, replica, task), units)

    # --- state

    def nonfinite_network(self, replica: int) -> str | None:
        """`solver` or `generator` if that network of a replica has a parameter that is NaN or infinite, else None."""
        networks = {"solver": self.solvers, "generator": self.generators}
        for name, replicas in networks.items():
            values = [] if replicas is None else list(replicas.modules[replica].parameters())
            if values and not torch.stack([value.isfinite().all() for value in values]).all():
                return name
        return None

    def state_of(self, replica: int) -> State:
        """The state of one replica, as one nested dict of tensors and numbers.

        It equals the state of the same run trained alone. Random streams need no state.
        """
        stacked = {
            "solver": self.solvers.state_dict(),
            "generator": None if self.generators is None else self.generators.state_dict(),
            "strategy": self.strategy.state_dict(),
            "regularizer": None if self.strategy.regularizer is None else self.strategy.regularizer.state_dict(),
            "gradient_rules": {name: rule.state_dict() for name, rule in self.gradient_rules.items()},
        }
        state: State = unstack(stacked, replica)
        if self.generators is not None:
            state["generator"] = self.generators.modules[replica].compact_state(state["generator"])
        optimizers = self.functional_optimizers
        return state | {
            "optimizers": {name: optimizer.state_of(replica) for name, optimizer in optimizers.items()},
            "task_units": self.task_units,
            "operations": self.operations.state_dict(replica, len(self.random_streams)),
        }

    def load_states(self, states: Sequence[State], task: int, sample_pass: SamplePass | None = None) -> None:
        """Restore the state of each replica, saved during or before `task`."""
        self.task_units = states[0]["task_units"].to(self.device)
        self.operations.load_state_dicts([state["operations"] for state in states])
        parts = [{key: state[key] for key in _STACKED_STATE} for state in states]
        if self.generator is not None:
            parts = [part | {"generator": self.generator.expand_state(part["generator"])} for part in parts]
        stacked = stack_states(parts, self.device)
        self.solvers.load_state_dict(stacked["solver"])
        if self.generators is not None:
            self.generators.load_state_dict(stacked["generator"])
        for name, optimizer in self.functional_optimizers.items():
            if name in states[0]["optimizers"]:  # the checkpoint of a complete run has no optimizer states
                optimizer.load_states([state["optimizers"][name] for state in states])
        for name, rule in self.gradient_rules.items():
            rule.load_state_dict(stacked["gradient_rules"][name])
        if self.strategy.regularizer is not None:
            self.strategy.regularizer.load_state_dict(stacked["regularizer"])
        self.strategy.load_state_dict(stacked["strategy"], self._task_context(task, sample_pass))


# Entries of the state whose tensors have a replica axis in memory.
_STACKED_STATE = ("solver", "generator", "strategy", "regularizer", "gradient_rules")
