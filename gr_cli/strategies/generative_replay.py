from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from gr_cli.errors import ConfigError
from gr_cli.generators.base import Ensemble, Generator
from gr_cli.nn.losses import distillation_loss
from gr_cli.nn.replicas import Replicas
from gr_cli.scenario import Scenario
from gr_cli.strategies.context import (
    Batch,
    GeneratorBatch,
    LossTerm,
    SolverForward,
    State,
    TaskContext,
    TrainingStep,
    optional_state,
)
from gr_cli.strategies.generated_samples import GeneratedReplay, LikelihoodTargets, fit_classes, requested_label_targets
from gr_cli.strategies.generator_memory import GeneratorMemory
from gr_cli.strategies.regularizer import Regularizer
from gr_cli.strategies.replay import ReplayBatch, ReplayStrategy, sample_weights
from gr_cli.strategies.replay_targets import CurrentData, CurrentTargetKind, ReplayTargets, TargetKind
from gr_cli.strategies.reservoir_buffer import ReservoirBuffer
from gr_cli.strategies.update_schedule import GeneratorTiming, UpdateSchedule
from gr_cli.types import (
    CountsSamplesInMemory,
    DistillationScale,
    NonNegativeInt,
    Positive,
    PositiveInt,
    ReplayWeight,
    VariesPerReplica,
)


class GenerativeReplay(ReplayStrategy):
    """Deep generative replay (Shin et al. 2017; van de Ven & Tolias 2018).

    Before a task, generator and solver are frozen as they stand. During the task the frozen generator dreams samples
    of the earlier tasks, the frozen solver labels them (unless the generator is conditional and brings labels), and
    the solver learns them beside the current ones: loss = w_current * loss(current) + w_replay * loss(dreams). The
    generator keeps learning meanwhile, from a memory (the current task's samples by reservoir sampling, dreams for the
    earlier tasks) or from the batches themselves; one that is fitted in one go learns at one end of the task.
    No raw sample is kept beyond its task.

    Args:
        generator: what dreams.
        memory_size: places in the memory that the generator learns from.
        batch_size: replayed samples per iteration, and the generator's batch from the memory; None: as many as there
            are current samples.
        replay_weight: weight of the replay loss beside weight 1 of the current loss, or `by_tasks`: in the t-th task
            1/t on the current and 1 - 1/t on the replayed samples, or `by_old_tasks`: 1 and t - 1.
        generator_update_freq: the generator learns at every so-many-th iteration.
        task_balanced: share the places of the memory evenly between the tasks so far. Otherwise it is one reservoir:
            as many dreams as it has places come first, then all that passes, current and replayed.
        replay_source: `fresh` dreams for every iteration, or a `pool` generated once per task and drawn from.
        pool_size: number of dreams in that pool.
        targets: the frozen solver's choice (`hard`), or its probabilities at `temperature` (`soft`, distillation); or
            the probabilities of the classes by the generator's own `likelihood`, at that temperature.
        temperature: T, softens the targets, and the solver's answer to the old solver's.
        distillation_scale: what the loss on `soft` targets is multiplied by: `none`, or `temperature_squared`, T^2.
        generator_data: what the generator learns from, `memory` or the batches of `current_and_replay`, weighed
            like the solver's losses.
        generator_training: `alongside` the solver, or `before` or `after` it, with as many steps.
        generators: `one` for all tasks, which learns the earlier ones anew from its own dreams; or one `per_task`,
            frozen when the task is over, which never sees a dream.
        current_data: what the solver learns the current task from: the `real` samples, or `generated` ones, so that
            nothing tells current from earlier classes but what they look like.
        current_targets: what it learns about them: their `labels`, or what the generator's `likelihood` says.
        consolidate_every: steps after which the copies are frozen anew and the memory begins anew, its raw samples
            dropped, where nobody tells when a task is over; what is said of tasks here holds for such stretches then.
        regularizer: what else keeps the solver's parameters near to where they were.
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
        targets: TargetKind = "hard",
        temperature: Annotated[Positive, VariesPerReplica] = 2.0,
        distillation_scale: DistillationScale = "none",
        generator_data: Literal["memory", "current_and_replay"] = "memory",
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
                "is one network with the solver, which this strategy trains apart from it",
                "try strategy=rtf or strategy=bir, or generator=vae",
            )
        self.generator: Generator = generator
        self.needs_second_pass, self.generator_per_task = generator.closed_form, generator_scope == "per_task"
        self._schedule = UpdateSchedule(generator_training, generator_update_freq, generator.closed_form)
        self.boundary_requirement, self.consolidate_every = self._schedule.boundary_requirement, consolidate_every
        self.targets = ReplayTargets(targets, current_targets, current_data)
        self.targets.check_generator(generator, not self.generator_per_task, self._schedule.generator_first)
        self.memory_size, self.batch_size = memory_size, batch_size
        self.generator_update_freq, self.task_balanced = generator_update_freq, task_balanced
        self._generator_memory: GeneratorMemory | None = None  # None: the generator learns from the batches
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
                "keeps what it was fitted to by class, and here tasks have classes in common",
                "try strategy.generator_scope=per_task, or tasks that bring new classes with scenario=class",
            )
        self.targets.check_scenario(scenario)

    @property
    def memory(self) -> ReservoirBuffer | None:
        """What the generator learns from; None while there is nothing in it."""
        return None if self._generator_memory is None else self._generator_memory.buffer

    # --- before a task

    def begin_task(self, context: TaskContext) -> None:
        super().begin_task(context)
        del self.frozen_generators[context.task :]  # of a task that did not come to its end
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
        known = context.task_units if self._schedule.generator_first else context.task_units[: context.task]
        self._likelihood_targets = LikelihoodTargets(context, self.temperature, known.any(0))
        if not self.generator_per_task:
            self.frozen_generators = []

    def _freeze_current(self, situation: TaskContext) -> None:
        """The generator knows the current task now: dreams may be of it, too."""
        if self.generator_per_task:
            self._freeze_task_generator(situation)
        elif self._generates_current_data:
            self.frozen_generators = [situation.generator.frozen_copy()]
            self._generated_replay = {}  # the ones before generated by the one before

    def _freeze_task_generator(self, situation: TaskContext) -> None:
        """The generator of this task joins those that change no more; it knows the classes of this task."""
        kept, classes = situation.generator.frozen_copy(), situation.task_units[situation.task]
        if self.generator.conditional:
            kept.for_each_module(
                lambda generator: generator.learned_classes.copy_(classes.expand_as(generator.learned_classes))
            )
        self.frozen_generators.append(kept)

    # --- dreams

    def _replay_of_tasks(self, current: bool = False) -> GeneratedReplay:
        """The dreams of the earlier tasks, or of the current one."""
        if current not in self._generated_replay:
            here = self._context
            tasks = slice(here.task, None) if current else slice(here.task)
            dreamers = self.frozen_generators[tasks] if self.generator_per_task else self.frozen_generators
            target, kind = (requested_label_targets, ".current") if current else (self._replay_targets, "")
            self._generated_replay[current] = GeneratedReplay(
                here, dreamers, here.task_units[tasks], target, kind, self.pool_size
            )
        return self._generated_replay[current]

    def _replay_targets(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """What the solver shall learn about dreams `x` of earlier tasks."""
        assert self.teacher is not None
        units = self._context.known_units
        return self.targets.generated_targets(
            x, labels, self.teacher, units, self.temperature, self._likelihood_targets
        )

    @property
    def student_temperature(self) -> float | Tensor:
        return 1.0 if self.targets.generated == "likelihood" else self.temperature

    @property
    def _generates_current_data(self) -> bool:
        return self.targets.current_data == "generated"

    @property
    def current_targets_are_labels(self) -> bool:
        return self.targets.current == "labels"

    def current_loss_per_sample(self, logits: Tensor, batch: Batch) -> Tensor:
        if self.current_targets_are_labels:
            return super().current_loss_per_sample(logits, batch)
        # Dreams of the current task are none of its samples, which have been looked up.
        told = (
            self._likelihood_targets.targets(batch.x)
            if self._generates_current_data
            else self._likelihood_targets.current_targets(batch)
        )
        return distillation_loss(logits, told, batch.active_units, 1.0)

    def replay(self, batch: Batch, step: TrainingStep) -> ReplayBatch | None:
        """The dreams of this iteration; None in the first task. A function of the frozen networks and `position`."""
        if step.task == 0:
            return None
        return self._replay_of_tasks().at_step(self._replay_size(batch), step)

    def _replay_size(self, batch: Batch) -> int:
        return self.batch_size or batch.x.shape[1]

    # --- during a task

    def loss(self, solver: SolverForward, batch: Batch, step: TrainingStep) -> dict[str, LossTerm]:
        first = self._schedule.solver_step_at(step) == 0
        if first and self._schedule.generator_first and not self.generator.closed_form:
            self._freeze_current(self._context)
        return super().loss(solver, self._solver_batch(batch, step), step)

    def _solver_batch(self, batch: Batch, position: TrainingStep) -> Batch:
        """The current samples as the solver gets them: real or generated."""
        if not self._generates_current_data:
            return batch
        dreams = self._replay_of_tasks(current=True).at_step(batch.x.shape[1], position)
        assert dreams.labels is not None
        return replace(batch, x=dreams.x, y=dreams.labels)

    def num_steps(self, iterations: int) -> int:
        return iterations + self._schedule.generator_only_steps(iterations)

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
            uniform = self._context.uniform("memory.choice", self._replay_size(batch), step)
            return self._generator_memory.batch(uniform, update)
        replay = None if self.generator_per_task else self.replay(batch, step)
        if replay is None:
            return GeneratorBatch(batch.x, update, labels=y)
        x = self.current_and_replayed(batch, replay, step)
        labels = None if y is None or replay.labels is None else torch.cat([y, replay.labels], 1)
        weights = sample_weights(batch, replay, self.current_loss_weight, self.replay_loss_weight)
        return GeneratorBatch(x, update, weights, labels)

    def after_step(self, batch: Batch, step: TrainingStep) -> None:
        if self._generator_memory is not None and not self._schedule.generator_first:
            self._add_to_memory(self._generator_memory, batch, step)

    def _add_to_memory(self, memory: GeneratorMemory, batch: Batch, position: TrainingStep) -> None:
        """Let a batch pass the memory."""
        x, y = batch.x, batch.y
        if (
            not self.task_balanced
            and not self.generator_per_task
            and (replay := self.replay(batch, position)) is not None
        ):
            x = self.current_and_replayed(batch, replay, position)
            y = y if replay.labels is None else torch.cat([y, replay.labels], 1)
        memory.add(x, y, position)

    def end_task(self, context: TaskContext) -> None:
        if self.generator.closed_form and not self._schedule.generator_first:
            fit_classes(context)
        for generator in context.generator.modules:
            generator.mark_learned(context.task_units[context.task])
        if self.generator_per_task and not self._schedule.generator_first:
            self._freeze_task_generator(context)

    def release_task(self) -> None:
        # Raw samples leave with the memory; the frozen copies are taken anew before the next task.
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
        return Ensemble([dreamer.module_of(replica) for dreamer in self.frozen_generators])

    def replay_labels(
        self, x: Tensor, requested_labels: Tensor | None, generator: Generator, solver: nn.Module, task_units: Tensor
    ) -> Tensor:
        if self.targets.generated == "likelihood":
            return generator.log_likelihoods(x).unsqueeze(1).masked_fill(~task_units, -torch.inf).argmax(-1)
        # Soft targets are the solver's opinion, whatever was asked for.
        return super().replay_labels(
            x, None if self.targets.generated == "soft" else requested_labels, generator, solver, task_units
        )

    # --- state

    def state_dict(self) -> State:
        return {
            **super().state_dict(),
            "memory": optional_state(self.memory),
            "frozen_generators": [dreamer.state_dict() for dreamer in self.frozen_generators],
        }

    def load_state_dict(self, state: State, context: TaskContext) -> None:
        super().load_state_dict(state, context)
        if self._generator_memory is not None:
            self._generator_memory.buffer = ReservoirBuffer.from_state(state["memory"])
        self.frozen_generators = [context.generator.frozen_copy() for _ in state["frozen_generators"]]
        for dreamer, values in zip(self.frozen_generators, state["frozen_generators"], strict=True):
            dreamer.load_state_dict(values)
