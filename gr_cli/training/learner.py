"""The learner owns solver, strategy, generator and optimisers, and holds the one training loop of this program."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gr_cli.generators.base import Generator
from gr_cli.nn.augmentation import Augment
from gr_cli.nn.gradient_projection import turned
from gr_cli.nn.gradient_rules import GradientRule, GradientStep, Loss
from gr_cli.nn.layers import NeedsNoise, mode
from gr_cli.nn.random_streams import Draws, Streams, seeded
from gr_cli.nn.replicas import Replicas, part_of, together
from gr_cli.optimizers import Descent, Optimizer
from gr_cli.scenario import Scenario
from gr_cli.strategies.base import Strategy
from gr_cli.strategies.steps import Batch, Pass, Position, Situation, State, loss_of
from gr_cli.system.timer import Clock
from gr_cli.training.generator_update import GeneratorUpdate, generator_rate, named_metrics
from gr_cli.training.penalized_step import Held
from gr_cli.training.scoring import Answers, Score, score
from gr_cli.training.solver_forward import SolverForward
from gr_cli.training.task_free import Stretches

Losses = dict[str, Tensor]
Precision = Literal["float32", "float64", "bf16"]
Observer = Callable[[Position, Losses], None]


class Learner:
    """Solvers that learn tasks one after the other under a strategy: R replicas, trained as one program.

    Args:
        solvers: map samples (R, B, ...) to logits (R, B, U).
        generators: those of the strategy, if it needs any.
        strategy: what keeps the solvers from forgetting; its numbers may be one for each replica, (R,).
        optimizers: settings for each replica's solver.
        scenario: which units compete when.
        heads: bool (T, U), which units belong to which task; rows may be appended as tasks come.
        draws: random streams of each replica; they say on which device everything lies.
        precision: `float32`, `float64`, or `bf16`: parameters and losses in float32, products in bfloat16.
        augment: what is done at random to the samples that the solvers learn.
        stretches: what the strategy takes for tasks, in `heads` too, where it isn't told which these are.
        generator_optimizers: settings for each replica's generator, whose moments are its own; None: the solvers'.
        gradient_rule: how gradients of the solvers are made; None: by autograd.
        generator_gradient_rule: those of the generators; None: by a copy of that rule.
    """

    def __init__(
        self,
        solvers: Replicas[nn.Module],
        generators: Replicas[Generator] | None,
        strategy: Strategy,
        optimizers: Sequence[Optimizer],
        scenario: Scenario,
        heads: Tensor,
        draws: Sequence[Draws],
        precision: Precision = "float32",
        augment: Augment | None = None,
        stretches: Stretches | None = None,
        generator_optimizers: Sequence[Optimizer] | None = None,
        gradient_rule: GradientRule | None = None,
        generator_gradient_rule: GradientRule | None = None,
    ) -> None:
        self.solvers, self.generators, self.strategy, self.scenario = solvers, generators, strategy, scenario
        self.augment, self.stretches = augment or Augment(), stretches
        self.precision, self.dtype = precision, torch.float64 if precision == "float64" else torch.float32
        self.draws, self.streams = list(draws), Streams(draws, self.dtype)
        self.device = self.streams.device
        self.heads = heads.to(self.device)
        self.clock = Clock()
        self._pass: Pass | None = None
        self.optimizers = list(optimizers)
        self.generator_optimizers = list(generator_optimizers or optimizers)
        self._wants_noise = isinstance(self.solver, NeedsNoise)
        self.gradient_rule, self.generator_gradient_rule = gradient_rule or GradientRule(), generator_gradient_rule
        self.gradient_rules = {"solver": copy.deepcopy(self.gradient_rule)}
        self.descents = {"solver": Descent(self._trained(), self.optimizers)}
        self._generator_update = None
        if generators is not None:
            own = generator_gradient_rule or self.gradient_rule
            self._generator_update = GeneratorUpdate(generators, self.generator_optimizers, self.streams, own)
            self.descents |= self._generator_update.descents
            self.gradient_rules |= self._generator_update.gradient_rules
        self._held = None
        if (regularizer := strategy.regularizer) is not None:
            # Where solver and generator are one network with one loss, a step is one of both.
            whole = strategy.couples and regularizer.covers_all
            held = {name: self.descents[name] for name in self.descents if whole or name == "solver"}
            self._held = Held(regularizer, held, len(self.draws))

    def _trained(self) -> list[Tensor]:
        """The solvers' parameters that are trained."""
        return self.solvers.trained(lambda network: (p for p in network.parameters() if p.requires_grad))

    def adopt_parameters(self) -> None:
        """Train the parameters that solver and generator of a single replica have now."""
        self.descents["solver"].adopt(self._trained())
        if self._generator_update is not None:
            self._generator_update.adopt_parameters()

    @property
    def solver(self) -> nn.Module:
        """The solver; of several, the first."""
        return self.solvers.modules[0]

    @property
    def generator(self) -> Generator | None:
        """The generator, if there is one; of several, the first."""
        return None if self.generators is None else self.generators.modules[0]

    # --- training

    def train_task(
        self,
        task: int,
        batches: Iterable[Batch],
        iterations: int,
        observe: Observer,
        start: int = 0,
        samples: Pass | None = None,
    ) -> None:
        """Learn one task. `batches` yields a batch for each step from `start` on; `observe` sees each step's losses.

        `start` > 0 continues in the middle of a task, after `load_states`. `samples` are passes over the task's
        samples, for strategies that look at them again.
        """
        if start == 0 and self.stretches is None:
            self.begin_task(task, samples)
        steps = self.strategy.steps(iterations)
        with self.solvers.mode(training=True):
            for iteration, batch in zip(range(start, steps), batches, strict=False):
                position = Position(task, iteration, iterations)
                observe(position, self.step(batch, self._told(position)))
        if self.stretches is None:
            self.end_task(task, samples)
        elif task == self.stretches.tasks - 1:
            self.end_task(self.stretches.reached(task + 1, 0))

    def _told(self, position: Position) -> Position:
        """What the strategy is told of a step: the position, or one in its own stretches, of which one may begin."""
        if self.stretches is None:
            return position
        told = self.stretches.told(position)
        if told.iteration == 0:
            if told.task > 0:
                self.end_task(told.task - 1)
            self.begin_task(told.task)
        return told

    def begin_task(self, task: int, samples: Pass | None = None) -> None:
        """Make ready for the first step of a task."""
        for descent in self.descents.values():
            descent.begin_task()
        with self._products(), self.clock.measure("consolidation"):
            self.strategy.begin_task(self._situation(task, samples))

    def end_task(self, task: int, samples: Pass | None = None) -> None:
        """Close a task that was learnt to its end."""
        situation = self._situation(task, samples)
        with self._products(), self.solvers.mode(training=False), self.clock.measure("consolidation"):
            if self._held is not None:
                self._held.end_task(situation)
            self.strategy.end_task(situation)
        self.leave_task()

    def leave_task(self) -> None:
        """Let go of a task, whether it came to its end or not: nothing leads to its samples any more."""
        self._pass = None
        self.strategy.leave_task()
        if self.strategy.regularizer is not None:
            self.strategy.regularizer.leave_task()

    def step(self, batch: Batch, position: Position) -> Losses:
        """One iteration: the solver's step, what the strategy makes of the batch, the generator's step if it is due.

        Returns the unweighted terms of each loss and the solver's `total`, (R,) each, as tensors that nobody has
        waited for.
        """
        losses: Losses = {}
        with self._products():
            if (iteration := self.strategy.solver_iteration(position)) is not None:
                with self.clock.measure("solver"):
                    losses |= self._step_solver(batch, position, iteration)
                    self.strategy.after_step(batch, position)
            due = self.strategy.generator_batch(batch, position)
            if due is not None and self._generator_update is not None:
                with self.clock.measure("generator"):
                    losses |= self._generator_update.step(due, position.task, generator_rate(self.strategy, position))
        return losses

    def _step_solver(self, batch: Batch, position: Position, iteration: int) -> Losses:
        with self._own_stream(position.task, position.iteration):
            forward = SolverForward(self.solvers, self.streams, self.augment, self._wants_noise, position)
            terms = self.strategy.loss(forward, batch, position)
        losses = {name: term.value.detach() for name, term in terms.items()}
        bounds = [replace(term, weight=1.0) for term in terms.values() if term.constraint]
        loss = loss_of([term for term in terms.values() if not term.constraint], keep_graph=bool(bounds))
        names = [name for name in self.descents if name == "solver" or self.strategy.couples]
        step = GradientStep("solver", position.task, position.iteration, self.streams)
        gradients = self._gradients(loss, names, step)
        losses |= named_metrics("solver", self.gradient_rules["solver"])
        if bounds:
            reference = self._gradients(loss_of(bounds), ["solver"], replace(step, name="solver.constraint"))["solver"]
            gradients["solver"] = turned(gradients["solver"], reference, len(self.draws))

        def rate(optimizer: Optimizer) -> float:
            return optimizer.lr_at(iteration, position.iterations)

        held = {} if self._held is None else self._held.descents
        if self._held is not None:
            losses |= self._held.step([g for name in held for g in gradients[name]], rate)
        for name in names:
            if name not in held:
                self.descents[name].step(gradients[name], rate)
        return losses | {"total": loss.total.detach() + losses.get("penalty", 0.0)}

    def step_generator(self, batch: Batch, task: int) -> Losses:
        """One step of all objectives of the generators on `batch`, whether one is due or not; their losses."""
        if self._generator_update is None or self.strategy.couples:
            return {}
        with self._products():
            return self._generator_update.step_all(batch, task, generator_rate(self.strategy, Position(task, 0, 1)))

    def _gradients(self, loss: Loss, names: Sequence[str], step: GradientStep) -> dict[str, list[Tensor | None]]:
        """The gradients of a loss of the solver, by the names of what is trained; None for what it does not need."""
        parameters = [p for name in names for p in self.descents[name].parameters]
        found = iter(self.gradient_rules["solver"].gradients(loss, parameters, step))
        return {name: [next(found) for _ in self.descents[name].parameters] for name in names}

    def _products(self) -> Any:
        """Where matrix products are computed as the precision says."""
        if self.precision != "bf16":
            return nullcontext()
        # No cache of what was cast: the parameters change between two forward passes.
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    def _own_stream(self, *key: int) -> Any:
        # A solver that doesn't ask for its noise may draw from torch's global stream: give it one of its own.
        return nullcontext() if self._wants_noise else seeded(self.draws[0].seed, "global", *key)

    def _samples(self, replica: int) -> Iterable[tuple[Tensor, Tensor]]:
        if self._pass is None:
            raise ValueError("this strategy looks at a task's samples again: samples are needed")
        return self._pass(replica)

    def _situation(self, task: int, samples: Pass | None) -> Situation:
        self._pass = samples
        return Situation(
            task,
            self.solvers,
            self.generators,
            self.streams,
            self.scenario.teacher_units(self.heads, task),
            self.scenario.task_of_unit(self.heads, task),
            self.heads[: task + 1],
            self.scenario.rivals(self.heads, task),
            self._samples,
        )

    # --- evaluation

    @torch.no_grad()
    def answer(self, batches: Iterable[tuple[Tensor, Tensor]], replica: int = 0) -> Answers:
        """The logits of a solver, as it stands, for each of `batches` of (x, y), (B, ...), with their labels.

        Leaves no trace: no random stream advances, the solver's mode is put back.
        """
        solver = self.solvers.modules[replica]
        answer = self.strategy.classifier(replica, solver)
        with self._own_stream(-1), mode(solver, training=False):
            return [(answer(x.to(self.dtype)), y) for x, y in batches]

    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]], units: Tensor, replica: int = 0) -> Score:
        """How a solver, as it stands, answers `batches` of (x, y), (B, ...), when `units` bool (U,) compete."""
        return score(self.answer(batches, replica), units)

    # --- state

    def not_finite(self, replica: int) -> str | None:
        """The network of a replica that has a parameter which is no finite number; None: all are."""
        networks = {"solver": self.solvers, "generator": self.generators}
        for name, replicas in networks.items():
            values = [] if replicas is None else list(replicas.modules[replica].parameters())
            if values and not torch.stack([value.isfinite().all() for value in values]).all():
                return name
        return None

    def state_of(self, replica: int) -> State:
        """Everything that a replica needs to continue, as one nested dict of tensors and numbers.

        It is what the same run alone would have. Random streams need no state.
        """
        whole = {
            "solver": self.solvers.state_dict(),
            "generator": None if self.generators is None else self.generators.state_dict(),
            "strategy": self.strategy.state_dict(),
            "regularizer": None if self.strategy.regularizer is None else self.strategy.regularizer.state_dict(),
            "gradient_rules": {name: rule.state_dict() for name, rule in self.gradient_rules.items()},
        }
        mine: State = part_of(whole, replica)
        return mine | {
            "optimizers": {name: descent.state_of(replica) for name, descent in self.descents.items()},
            "heads": self.heads,
        }

    def load_states(self, states: Sequence[State], task: int, samples: Pass | None = None) -> None:
        """Take up each replica's state, saved in or before `task`."""
        self.heads = states[0]["heads"].to(self.device)
        whole = together([{k: s[k] for k in _WHOLE} for s in states], self.device)
        self.solvers.load_state_dict(whole["solver"])
        if self.generators is not None:
            self.generators.load_state_dict(whole["generator"])
        for name, descent in self.descents.items():
            if name in states[0]["optimizers"]:  # a run that is over keeps none
                descent.load([state["optimizers"][name] for state in states])
        for name, rule in self.gradient_rules.items():
            rule.load_state_dict(whole["gradient_rules"][name])
        if self.strategy.regularizer is not None:
            self.strategy.regularizer.load_state_dict(whole["regularizer"])
        self.strategy.load_state_dict(whole["strategy"], self._situation(task, samples))


# What lies in memory with a replica axis, by its name in the state.
_WHOLE = ("solver", "generator", "strategy", "regularizer", "gradient_rules")
