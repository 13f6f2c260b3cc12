"""Deep generative replay (Shin et al. 2017; van de Ven & Tolias 2018)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from gr_cli.errors import ConfigError
from gr_cli.generators.base import Ensemble, Generator
from gr_cli.nn.losses import Targets
from gr_cli.nn.replicas import Replicas
from gr_cli.scenario import Scenario
from gr_cli.strategies.context import (
    Batch,
    GeneratorBatch,
    GeneratorDistillation,
    LossTerm,
    SolverForward,
    State,
    TaskContext,
    TrainingStep,
    classification_losses,
    optional_state,
)
from gr_cli.strategies.generated_samples import GeneratedReplay, LikelihoodTargets, fit_classes, requested_label_targets
from gr_cli.strategies.generator_distillation import check_distillation
from gr_cli.strategies.generator_memory import GeneratorMemory
from gr_cli.strategies.interference import loss_increases, unchanged_buffers
from gr_cli.strategies.regularizer import Regularizer
from gr_cli.strategies.replay import ReplayBatch, ReplayStrategy, sample_weights
from gr_cli.strategies.replay_targets import CurrentData, CurrentTargetKind, ReplayTargets, TargetKind
from gr_cli.strategies.reservoir_buffer import ReservoirBuffer
from gr_cli.strategies.update_schedule import GeneratorTiming, UpdateSchedule
from gr_cli.types import (
    CountsSamplesInMemory,
    DistillationScale,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveInt,
    ReplayWeight,
    VariesPerReplica,
)


class GenerativeReplay(ReplayStrategy):
    """Deep generative replay of samples from a frozen generator (Shin et al. 2017).

    Before a task, generator and solver are copied and frozen. During the task the frozen generator generates samples
    of the earlier tasks, the frozen solver (the teacher) labels them unless the generator is class-conditional, and
    the solver is trained on current and generated samples (van de Ven & Tolias 2018):

    loss = w_current * loss(current samples) + w_replay * loss(generated samples)

    The generator is trained on a memory that holds current samples (by reservoir sampling) and generated samples of
    earlier tasks, or on the same batches as the solver. No raw sample is stored beyond its task.

    Args:
        generator: The generator that is trained and replayed from.
        memory_size: Capacity, in samples, of the memory that the generator is trained on.
        batch_size: Generated samples replayed per iteration, and the generator's batch size when it is trained on the
            memory; None: as many as there are current samples.
        replay_weight: Weight of the replay loss; the current loss has weight 1. `by_tasks`: in task t (from 1) the
            current loss has weight 1/t and the replay loss 1 - 1/t. `by_old_tasks`: 1 and t - 1.
        generator_update_freq: Solver iterations per update of the generator.
        task_balanced: Whether the memory is divided evenly between the tasks so far. If not, it is one reservoir that
            starts filled with generated samples and is updated with all current and replayed samples.
        replay_source: Generate new samples in each iteration (`fresh`), or draw from a pool generated once per task
            (`pool`).
        pool_size: Samples in the pool.
        replay_candidates: Generated candidates per replayed sample of the solver. Above 1, those are replayed whose
            loss a virtual step on the current batch increases most (maximally interfered retrieval, Aljundi et al.
            2019).
        virtual_step_size: Learning rate of the virtual step, which is plain gradient descent.
        targets: Targets of generated samples: the teacher's predicted class (`hard`), its probabilities (`soft`,
            distillation), or the generator's own class probabilities (`likelihood`).
        temperature: Temperature T of soft and likelihood targets, and of the solver's softmax against soft targets.
        distillation_scale: Factor of the loss on soft targets: 1 (`none`) or T^2 (`temperature_squared`, Hinton et al.
            2015).
        generator_data: What the generator is trained on: the `memory`, or the solver's batches of
            `current_and_replay` samples with the weights of the solver's losses.
        generator_distillation: Weight of generative distillation (Masip et al. 2023): on replayed samples, noised at
            random times, the generator learns the outputs of the frozen one, in place of the samples; the loss on
            current samples has weight 1. None: it learns replayed samples as it does current ones.
        generator_training: Whether the generator is trained `alongside` the solver or in separate steps `before` or
            `after` it; the number of generator updates is the same.
        generator_scope: One generator for all tasks, which is trained on its own samples of earlier tasks too
            (`shared`), or one for each task, trained on that task only and frozen at its end (`per_task`).
        current_data: What the solver learns the current task from: its `real` samples, or `generated` ones, so that
            current and earlier classes have the same quality.
        current_targets: Targets of current samples: their `labels`, or the generator's class probabilities
            (`likelihood`).
        consolidate_every: Iterations between two consolidations, at which the networks are copied and frozen again and
            the memory is emptied. Required in task-free streams (`task_boundaries=unknown`), else not allowed.
        regularizer: Penalty on the solver's parameters that is added to the loss; None: no penalty.
    """

    uses_teacher = True
    supports_consolidation = True

    def __init__(
        self,
        generator: Generator,
        memory_size: Annotated[NonNegativeInt, CountsSamplesInMemory] = 500,
        batch_size: Annotated[PositiveInt | None, CountsSamplesInMemory] = 32,
        replay_weight: Annotated[ReplayWeight, VariesPerReplica] = 1.0,
        generator_update_freq: PositiveInt = 5,
        task_balanced: bool = True,
        replay_source: Literal["fresh", "pool"] = "fresh",
        pool_size: Annotated[PositiveInt, CountsSamplesInMemory] = 5000,
        replay_candidates: PositiveInt = 1,
        virtual_step_size: Annotated[Positive, VariesPerReplica] = 0.1,
        targets: TargetKind = "hard",
        temperature: Annotated[Positive, VariesPerReplica] = 2.0,
        distillation_scale: DistillationScale = "none",
        generator_data: Literal["memory", "current_and_replay"] = "memory",
        generator_distillation: Annotated[NonNegative | None, VariesPerReplica] = None,
        generator_training: GeneratorTiming = "alongside",
        generator_scope: Literal["shared", "per_task"] = "shared",
        current_data: CurrentData = "real",
        current_targets: CurrentTargetKind = "labels",
        consolidate_every: PositiveInt | None = None,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(replay_weight, temperature, regularizer, distillation_scale)
        if generator.reads_features and not self.shares_loss_with_generator:
            raise ConfigError(
                "generator",
                type(generator).__name__,
                "shares its network with the solver, but this strategy trains the two separately",
                "try strategy=rtf or strategy=bir, or generator=vae",
            )
        if generator_distillation is not None:
            check_distillation(generator, generator_data, generator_scope)
        self.generator_distillation = generator_distillation
        self.replay_candidates, self.virtual_step_size = replay_candidates, virtual_step_size
        self.generator: Generator = generator
        self.needs_second_pass, self.generator_per_task = generator.closed_form, generator_scope == "per_task"
        self._schedule = UpdateSchedule(generator_training, generator_update_freq, generator.closed_form)
        self.boundary_requirement, self.consolidate_every = self._schedule.boundary_requirement, consolidate_every
        self.targets = ReplayTargets(targets, current_targets, current_data)
        self.targets.check_generator(generator, not self.generator_per_task, self._schedule.generator_first)
        self.memory_size, self.batch_size = memory_size, batch_size
        self.generator_update_freq, self.task_balanced = generator_update_freq, task_balanced
        self._generator_memory: GeneratorMemory | None = None  # None: trained on the solver's batches
        if generator_data == "memory" and not generator.closed_form:
            self._generator_memory = GeneratorMemory(memory_size, task_balanced, generator.conditional)
        self.pool_size = pool_size if replay_source == "pool" else None
        self.frozen_generators: list[Replicas[Generator]] = []
        self._generated_replay: dict[bool, GeneratedReplay] = {}

    def check(self, scenario: Scenario, solver: nn.Module) -> None:
        if self.generator.closed_form and not self.generator_per_task and not scenario.classes_are_disjoint:
            raise ConfigError(
                "generator",
                type(self.generator).__name__,
                "is fitted once per class, but here tasks have classes in common",
                "try strategy.generator_scope=per_task, or scenario=class with new classes in each task",
            )
        self.targets.check_scenario(scenario)

    @property
    def memory(self) -> ReservoirBuffer | None:
        """The buffer that the generator is trained on; None while empty or unused."""
        return None if self._generator_memory is None else self._generator_memory.buffer

    # --- before a task

    def begin_task(self, context: TaskContext) -> None:
        super().begin_task(context)
        del self.frozen_generators[context.task :]  # of a task that was not completed
        if context.task > 0 and not self.generator_per_task:
            self.frozen_generators = [context.generator.frozen_copy()]
            if self._generator_memory is not None:
                self._generator_memory.fill(context, self._replay_of_tasks())
        if self._schedule.generator_first and self.generator.closed_form:
            fit_classes(context)
            self._freeze_current(context)

    def _set_up_task(self, context: TaskContext) -> None:
        super()._set_up_task(context)
        self._generated_replay = {}
        if self._generator_memory is not None:
            self._generator_memory.set_up_task(context)
        known_units = context.task_units if self._schedule.generator_first else context.task_units[: context.task]
        self._likelihood_targets = LikelihoodTargets(context, self.temperature, known_units.any(0))
        if not self.generator_per_task:
            self.frozen_generators = []

    def _freeze_current(self, context: TaskContext) -> None:
        """Freeze the generator after it learned the current task, before the solver does."""
        if self.generator_per_task:
            self._freeze_task_generator(context)
        elif self._generates_current_data:
            self.frozen_generators = [context.generator.frozen_copy()]
            self._generated_replay = {}  # discard samples of the previous generator

    def _freeze_task_generator(self, context: TaskContext) -> None:
        """Append a frozen copy of this task's generator, restricted to the classes of this task."""
        frozen, classes = context.generator.frozen_copy(), context.task_units[context.task]
        if self.generator.conditional:
            frozen.for_each_module(
                lambda generator: generator.learned_classes.copy_(classes.expand_as(generator.learned_classes))
            )
        self.frozen_generators.append(frozen)

    # --- generated samples

    def _replay_of_tasks(self, current: bool = False) -> GeneratedReplay:
        """Generated samples of the earlier tasks, or of the current one."""
        if current not in self._generated_replay:
            context = self._context
            tasks = slice(context.task, None) if current else slice(context.task)
            generators = self.frozen_generators[tasks] if self.generator_per_task else self.frozen_generators
            target_function, suffix = (
                (self._generated_current_targets, ".current") if current else (self._replay_targets, "")
            )
            self._generated_replay[current] = GeneratedReplay(
                context, generators, context.task_units[tasks], target_function, suffix, self.pool_size
            )
        return self._generated_replay[current]

    def _replay_targets(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """The solver's targets for generated samples of earlier tasks."""
        assert self.teacher is not None
        units = self._context.known_units
        return self.targets.generated_targets(
            x, labels, self.teacher, units, self.temperature, self._likelihood_targets
        )

    def _generated_current_targets(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """The solver's targets for generated samples of the current task."""
        if self.targets.current == "labels":
            return requested_label_targets(x, labels)
        return self._likelihood_targets.targets(x)

    @property
    def student_temperature(self) -> float | Tensor:
        return 1.0 if self.targets.generated == "likelihood" else self.temperature

    @property
    def _generates_current_data(self) -> bool:
        return self.targets.current_data == "generated"

    def current_targets(self, batch: Batch) -> Targets:
        if self.targets.current == "labels":
            return super().current_targets(batch)
        target = self._likelihood_targets.current_targets(batch) if batch.target is None else batch.target
        return Targets(target, batch.units_by_head)

    def replay(self, batch: Batch, step: TrainingStep) -> ReplayBatch | None:
        """The generated samples of this step; None in the first task."""
        if step.task == 0:
            return None
        size = self._replay_size(batch)
        candidates = self._replay_of_tasks().at_step(size * self.replay_candidates, step)
        return candidates if self.replay_candidates == 1 else candidates.first(size)

    def solver_replay(self, solver: SolverForward, batch: Batch, step: TrainingStep) -> ReplayBatch | None:
        if step.task == 0 or self.replay_candidates == 1:
            return self.replay(batch, step)
        size = self._replay_size(batch)
        candidates = self._replay_of_tasks().at_step(size * self.replay_candidates, step)
        targets, solvers = self.replay_targets(batch, candidates, 0), self._context.solver
        with unchanged_buffers(solvers):
            (current,) = classification_losses(solver, batch.x, [self.current_targets(batch)])
            increases = loss_increases(solvers, solver, current.value, candidates.x, targets, self.virtual_step_size)
        return candidates.select(increases.topk(size, dim=1).indices)

    def _replay_size(self, batch: Batch) -> int:
        return self.batch_size or batch.x.shape[1]

    # --- during a task

    def loss(self, solver: SolverForward, batch: Batch, step: TrainingStep) -> dict[str, LossTerm]:
        first = self._schedule.solver_step_at(step) == 0
        if first and self._schedule.generator_first and not self.generator.closed_form:
            self._freeze_current(self._context)
        return super().loss(solver, self._solver_batch(batch, step), step)

    def _solver_batch(self, batch: Batch, step: TrainingStep) -> Batch:
        """The batch that the solver is trained on: real or generated samples of the current task."""
        if not self._generates_current_data:
            return batch
        generated = self._replay_of_tasks(current=True).at_step(batch.x.shape[1], step)
        assert generated.labels is not None
        return replace(batch, x=generated.x, y=generated.labels, mask=None, target=generated.target)

    def num_steps(self, iterations: int) -> int:
        return iterations + self._schedule.generator_only_steps(iterations)

    def num_generator_updates(self, iterations: int) -> int:
        return self._schedule.num_updates(iterations)

    @property
    def solver_reads_samples(self) -> bool:
        return not self._generates_current_data

    @property
    def other_sample_uses(self) -> str | None:
        if self._generator_memory is not None:
            return "trains the generator on a memory of samples (strategy.generator_data=memory)"
        if self.replay_candidates > 1 and self.solver_reads_samples:
            return "selects replayed samples by a step on current ones (strategy.replay_candidates)"
        return super().other_sample_uses

    def solver_iteration(self, step: TrainingStep) -> int | None:
        return self._schedule.solver_step_at(step)

    def generator_batch(self, batch: Batch, step: TrainingStep) -> GeneratorBatch | None:
        update = self._schedule.generator_step_at(step)
        if update is None:
            return None
        y = batch.y if self.generator.conditional else None
        if self._generator_memory is not None:
            if self._schedule.generator_first:
                self._add_to_memory(self._generator_memory, batch, step)
            if self._generator_memory.buffer is None:
                return None  # the first batch enters the memory after its last update
            return self._generator_memory.batch(self._replay_size(batch), step, update)
        replay = None if self.generator_per_task else self.replay(batch, step)
        number, mask = batch.x.shape[1], batch.mask
        if replay is None:
            return GeneratorBatch(batch.x, update, labels=y, num_current=number, mask=mask)
        if self.generator_distillation is not None:
            teacher, weight = self.frozen_generators[0], self.generator_distillation
            distillation = GeneratorDistillation(teacher, replay.x, replay.labels, weight)
            return GeneratorBatch(batch.x, update, labels=y, distillation=distillation, num_current=number, mask=mask)
        x = self.current_and_replayed(batch, replay, step)
        labels = None if y is None or replay.labels is None else torch.cat([y, replay.labels], 1)
        weights = sample_weights(batch, replay, self.current_loss_weight, self.replay_loss_weight)
        return GeneratorBatch(x, update, weights, labels, num_current=number, mask=mask)

    def after_step(self, batch: Batch, step: TrainingStep) -> None:
        if self._generator_memory is not None and not self._schedule.generator_first:
            self._add_to_memory(self._generator_memory, batch, step)

    def _add_to_memory(self, memory: GeneratorMemory, batch: Batch, step: TrainingStep) -> None:
        """Add a batch to the generator's memory."""
        x, y = batch.x, batch.y
        if not self.task_balanced and not self.generator_per_task and (replay := self.replay(batch, step)) is not None:
            x = self.current_and_replayed(batch, replay, step)
            y = y if replay.labels is None else torch.cat([y, replay.labels], 1)
        memory.add(x, y, batch.without_repeats(step))

    def end_task(self, context: TaskContext) -> None:
        if self.generator.closed_form and not self._schedule.generator_first:
            fit_classes(context)
        for generator in context.generator.modules:
            generator.mark_learned(context.task_units[context.task])
        if self.generator_per_task and not self._schedule.generator_first:
            self._freeze_task_generator(context)

    def release_task(self) -> None:
        # The memory holds raw samples; frozen copies are made again before the next task.
        super().release_task()
        if self._generator_memory is not None:
            self._generator_memory.buffer = None
        self._generated_replay = {}
        self._likelihood_targets.clear_cache()
        if not self.generator_per_task:
            self.frozen_generators = []

    def sampling_generator(self, replica: int, generator: Generator) -> Generator:
        if not self.generator_per_task or not self.frozen_generators:
            return generator
        return Ensemble([frozen.module_of(replica) for frozen in self.frozen_generators])

    def replay_labels(
        self, x: Tensor, requested_labels: Tensor | None, generator: Generator, solver: nn.Module, task_units: Tensor
    ) -> Tensor:
        if self.targets.generated == "likelihood":
            return generator.learned_log_likelihoods(x).unsqueeze(1).masked_fill(~task_units, -torch.inf).argmax(-1)
        # Soft targets are the teacher's predictions, also for requested classes.
        return super().replay_labels(
            x, None if self.targets.generated == "soft" else requested_labels, generator, solver, task_units
        )

    # --- state

    def state_dict(self) -> State:
        return {
            **super().state_dict(),
            "memory": optional_state(self.memory),
            "frozen_generators": [frozen.state_dict() for frozen in self.frozen_generators],
        }

    def load_state_dict(self, state: State, context: TaskContext) -> None:
        super().load_state_dict(state, context)
        if self._generator_memory is not None:
            self._generator_memory.buffer = ReservoirBuffer.from_state(state["memory"])
        self.frozen_generators = [context.generator.frozen_copy() for _ in state["frozen_generators"]]
        for frozen, values in zip(self.frozen_generators, state["frozen_generators"], strict=True):
            frozen.load_state_dict(values)
