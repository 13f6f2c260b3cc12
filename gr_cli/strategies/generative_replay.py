from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from gr_cli.errors import ConfigError
from gr_cli.generators.base import Ensemble, Generator
from gr_cli.nn.losses import distillation
from gr_cli.nn.replicas import Replicas
from gr_cli.scenario import Scenario
from gr_cli.strategies.generated_samples import Dreams, Likelihoods, fit_classes, requested_labels
from gr_cli.strategies.generator_data import GeneratorMemory
from gr_cli.strategies.regularizer import Regularizer
from gr_cli.strategies.replay import Replay, ReplayStrategy, sample_weights
from gr_cli.strategies.replay_targets import CurrentData, CurrentTargetKind, ReplayTargets, TargetKind
from gr_cli.strategies.reservoir import Memory
from gr_cli.strategies.steps import Batch, GeneratorBatch, Position, Situation, Solve, State, Term, state_of
from gr_cli.strategies.update_schedule import GeneratorTiming, UpdateSchedule
from gr_cli.types import Count, DistillationScale, InMemory, PerReplica, Positive, PositiveInt, ReplayWeight


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
        replay_source: `fresh` dreams for every iteration, or a `pool` dreamt once per task and drawn from.
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
        current_data: what the solver learns the current task from: the `real` samples, or `dreamt` ones, so that
            nothing tells current from earlier classes but what they look like.
        current_targets: what it learns about them: their `labels`, or what the generator's `likelihood` says.
        consolidate_every: steps after which the copies are frozen anew and the memory begins anew, its raw samples
            dropped, where nobody tells when a task is over; what is said of tasks here holds for such stretches then.
        regularizer: what else keeps the solver's parameters near to where they were.
    """

    copies_solver = True
    consolidates = True

    def __init__(
        self,
        generator: Generator,
        memory_size: Annotated[Count, InMemory] = 500,
        batch_size: Annotated[PositiveInt | None, InMemory] = 32,
        replay_weight: Annotated[ReplayWeight, PerReplica] = 1.0,
        generator_update_freq: PositiveInt = 5,
        task_balanced: bool = True,
        replay_source: Literal["fresh", "pool"] = "fresh",
        pool_size: Annotated[PositiveInt, InMemory] = 5000,
        targets: TargetKind = "hard",
        temperature: Annotated[Positive, PerReplica] = 2.0,
        distillation_scale: DistillationScale = "none",
        generator_data: Literal["memory", "current_and_replay"] = "memory",
        generator_training: GeneratorTiming = "alongside",
        generators: Literal["one", "per_task"] = "one",
        current_data: CurrentData = "real",
        current_targets: CurrentTargetKind = "labels",
        consolidate_every: PositiveInt | None = None,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(replay_weight, temperature, regularizer, distillation_scale)
        if generator.reads_features and not self.couples:
            raise ConfigError(
                "generator",
                type(generator).__name__,
                "is one network with the solver, which this strategy trains apart from it",
                "try strategy=rtf or strategy=bir, or generator=vae",
            )
        self.generator: Generator = generator
        self.looks_again, self.per_task = generator.fitted, generators == "per_task"
        self._schedule = UpdateSchedule(generator_training, generator_update_freq, generator.fitted)
        self.needs_boundaries, self.consolidate_every = self._schedule.boundary_requirement, consolidate_every
        self.targets = ReplayTargets(targets, current_targets, current_data)
        self.targets.check_generator(generator, not self.per_task, self._schedule.generator_first)
        self.memory_size, self.batch_size = memory_size, batch_size
        self.generator_update_freq, self.task_balanced = generator_update_freq, task_balanced
        self._generator_memory: GeneratorMemory | None = None  # None: the generator learns from the batches
        if generator_data == "memory" and not generator.fitted:
            self._generator_memory = GeneratorMemory(memory_size, task_balanced, generator.conditional)
        self.pool_size = pool_size if replay_source == "pool" else None
        self.dreamers: list[Replicas[Generator]] = []
        self._made: dict[bool, Dreams] = {}

    def check(self, scenario: Scenario, solver: nn.Module) -> None:
        if self.generator.fitted and not self.per_task and not scenario.classes_come_once:
            raise ConfigError(
                "generator",
                type(self.generator).__name__,
                "keeps what it was fitted to by class, and here tasks have classes in common",
                "try strategy.generators=per_task, or tasks that bring new classes with scenario=class",
            )
        self.targets.check_scenario(scenario)

    @property
    def memory(self) -> Memory | None:
        """What the generator learns from; None while there is nothing in it."""
        return None if self._generator_memory is None else self._generator_memory.buffer

    # --- before a task

    def begin_task(self, situation: Situation) -> None:
        super().begin_task(situation)
        del self.dreamers[situation.task :]  # of a task that did not come to its end
        if situation.task > 0 and not self.per_task:
            self.dreamers = [situation.generator.frozen()]
            if self._generator_memory is not None:
                self._generator_memory.fill(situation, self._dreams())
        if self._schedule.generator_first and self.generator.fitted:
            fit_classes(situation)
            self._freeze_current(situation)

    def _enter(self, situation: Situation) -> None:
        super()._enter(situation)
        self._made = {}
        if self._generator_memory is not None:
            self._generator_memory.enter(situation)
        known = situation.heads if self._schedule.generator_first else situation.heads[: situation.task]
        self._likelihoods = Likelihoods(situation, self.temperature, known.any(0))
        if not self.per_task:
            self.dreamers = []

    def _freeze_current(self, situation: Situation) -> None:
        """The generator knows the current task now: dreams may be of it, too."""
        if self.per_task:
            self._keep(situation)
        elif self._dreams_current:
            self.dreamers = [situation.generator.frozen()]
            self._made = {}  # the ones before dreamt by the one before

    def _keep(self, situation: Situation) -> None:
        """The generator of this task joins those that change no more; it knows the classes of this task."""
        kept, classes = situation.generator.frozen(), situation.heads[situation.task]
        if self.generator.conditional:
            kept.tell(lambda generator: generator.known.copy_(classes.expand_as(generator.known)))
        self.dreamers.append(kept)

    # --- dreams

    def _dreams(self, current: bool = False) -> Dreams:
        """The dreams of the earlier tasks, or of the current one."""
        if current not in self._made:
            here = self._situation
            tasks = slice(here.task, None) if current else slice(here.task)
            dreamers = self.dreamers[tasks] if self.per_task else self.dreamers
            target, kind = (requested_labels, ".current") if current else (self._target, "")
            self._made[current] = Dreams(here, dreamers, here.heads[tasks], target, kind, self.pool_size)
        return self._made[current]

    def _target(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """What the solver shall learn about dreams `x` of earlier tasks."""
        assert self.teacher is not None
        units = self._situation.teacher_units
        return self.targets.of_generated(x, labels, self.teacher, units, self.temperature, self._likelihoods)

    @property
    def answer_temperature(self) -> float | Tensor:
        return 1.0 if self.targets.generated == "likelihood" else self.temperature

    @property
    def _dreams_current(self) -> bool:
        return self.targets.current_data == "dreamt"

    @property
    def current_by_labels(self) -> bool:
        return self.targets.current == "labels"

    def current_losses(self, logits: Tensor, batch: Batch) -> Tensor:
        if self.current_by_labels:
            return super().current_losses(logits, batch)
        # Dreams of the current task are none of its samples, which have been looked up.
        told = self._likelihoods.of(batch.x) if self._dreams_current else self._likelihoods.of_current(batch)
        return distillation(logits, told, batch.units, 1.0)

    def replay(self, batch: Batch, position: Position) -> Replay | None:
        """The dreams of this iteration; None in the first task. A function of the frozen networks and `position`."""
        if position.task == 0:
            return None
        return self._dreams().at(self._size(batch), position)

    def _size(self, batch: Batch) -> int:
        return self.batch_size or batch.x.shape[1]

    # --- during a task

    def loss(self, solver: Solve, batch: Batch, position: Position) -> dict[str, Term]:
        first = self._schedule.solver_step_at(position) == 0
        if first and self._schedule.generator_first and not self.generator.fitted:
            self._freeze_current(self._situation)
        return super().loss(solver, self._seen(batch, position), position)

    def _seen(self, batch: Batch, position: Position) -> Batch:
        """The current samples as the solver gets them: real or dreamt."""
        if not self._dreams_current:
            return batch
        dreams = self._dreams(current=True).at(batch.x.shape[1], position)
        assert dreams.labels is not None
        return replace(batch, x=dreams.x, y=dreams.labels)

    def steps(self, iterations: int) -> int:
        return iterations + self._schedule.generator_only_steps(iterations)

    def solver_iteration(self, position: Position) -> int | None:
        return self._schedule.solver_step_at(position)

    def generator_batch(self, batch: Batch, position: Position) -> GeneratorBatch | None:
        update = self._schedule.generator_step_at(position)
        if update is None:
            return None
        y = batch.y if self.generator.conditional else None
        if self._generator_memory is not None:
            if self._schedule.generator_first:
                self._remember(self._generator_memory, batch, position)
            uniform = self._situation.uniform("memory.choice", self._size(batch), position)
            return self._generator_memory.batch(uniform, update)
        replay = None if self.per_task else self.replay(batch, position)
        if replay is None:
            return GeneratorBatch(batch.x, update, labels=y)
        x = self.both(batch, replay, position)
        labels = None if y is None or replay.labels is None else torch.cat([y, replay.labels], 1)
        weights = sample_weights(batch, replay, self.current_weight, self.old_weight)
        return GeneratorBatch(x, update, weights, labels)

    def after_step(self, batch: Batch, position: Position) -> None:
        if self._generator_memory is not None and not self._schedule.generator_first:
            self._remember(self._generator_memory, batch, position)

    def _remember(self, memory: GeneratorMemory, batch: Batch, position: Position) -> None:
        """Let a batch pass the memory."""
        x, y = batch.x, batch.y
        if not self.task_balanced and not self.per_task and (replay := self.replay(batch, position)) is not None:
            x = self.both(batch, replay, position)
            y = y if replay.labels is None else torch.cat([y, replay.labels], 1)
        memory.add(x, y, position)

    def end_task(self, situation: Situation) -> None:
        if self.generator.fitted and not self._schedule.generator_first:
            fit_classes(situation)
        for generator in situation.generator.modules:
            generator.meet(situation.heads[situation.task])
        if self.per_task and not self._schedule.generator_first:
            self._keep(situation)

    def leave_task(self) -> None:
        # Raw samples leave with the memory; the frozen copies are taken anew before the next task.
        super().leave_task()
        if self._generator_memory is not None:
            self._generator_memory.buffer = None
        self._made = {}
        self._likelihoods.forget()
        if not self.per_task:
            self.dreamers = []

    def dreamer(self, replica: int, generator: Generator) -> Generator:
        if not self.per_task or not self.dreamers:
            return generator
        return Ensemble([dreamer.one(replica) for dreamer in self.dreamers])

    def dream_labels(
        self, x: Tensor, asked: Tensor | None, generator: Generator, solver: nn.Module, units: Tensor
    ) -> Tensor:
        if self.targets.generated == "likelihood":
            return generator.log_likelihoods(x).unsqueeze(1).masked_fill(~units, -torch.inf).argmax(-1)
        # Soft targets are the solver's opinion, whatever was asked for.
        return super().dream_labels(x, None if self.targets.generated == "soft" else asked, generator, solver, units)

    # --- state

    def state_dict(self) -> State:
        return {
            **super().state_dict(),
            "memory": state_of(self.memory),
            "dreamers": [dreamer.state_dict() for dreamer in self.dreamers],
        }

    def load_state_dict(self, state: State, situation: Situation) -> None:
        super().load_state_dict(state, situation)
        if self._generator_memory is not None:
            self._generator_memory.buffer = Memory.from_state(state["memory"])
        self.dreamers = [situation.generator.frozen() for _ in state["dreamers"]]
        for dreamer, values in zip(self.dreamers, state["dreamers"], strict=True):
            dreamer.load_state_dict(values)
