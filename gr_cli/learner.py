"""The learner owns solver, strategy, generator and optimisers, and holds the one training loop of this program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from math import prod
from time import perf_counter
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from gr_cli.generators.base import Generator
from gr_cli.layers import NeedsNoise, mode, per_replica
from gr_cli.losses import cross_entropy, weighted_sum
from gr_cli.optimizers import Descent, Optimizer
from gr_cli.randomness import Draws, Streams, seeded
from gr_cli.replicas import Replicas, part_of, together
from gr_cli.scenario import Scenario
from gr_cli.strategies.base import Batch, GeneratorBatch, Position, Situation, State, Strategy

Losses = dict[str, Tensor]
Precision = Literal["float32", "float64", "bf16"]
Observer = Callable[[Position, Losses], None]


@dataclass(frozen=True)
class Evaluation:
    """How a solver does on `n` samples: fraction correct, and mean loss (None where a label can't be answered)."""

    accuracy: float
    loss: float | None
    n: int


@dataclass
class Clock:
    """Seconds spent on each kind of work, by name."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - start

    def take(self) -> dict[str, float]:
        """The seconds so far; the clock begins again."""
        taken, self.seconds = self.seconds, {}
        return taken


class Learner:
    """Solvers that learn tasks one after the other under a strategy: R replicas, trained as one program.

    Args:
        solvers: map samples (R, B, ...) to logits (R, B, U).
        generators: those of the strategy, if it needs any.
        strategy: what keeps the solvers from forgetting; its numbers may be one for each replica, (R,).
        optimizers: settings for each replica's solver; its generator has the same, and moments of its own.
        scenario: which units compete when.
        heads: bool (T, U), which units belong to which task; rows may be appended as tasks come.
        draws: random streams of each replica; they say on which device everything lies.
        precision: `float32`, `float64`, or `bf16`: parameters and losses in float32, products in bfloat16.
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
    ) -> None:
        self.solvers, self.generators, self.strategy, self.scenario = solvers, generators, strategy, scenario
        self.precision, self.dtype = precision, torch.float64 if precision == "float64" else torch.float32
        self.draws, self.streams = list(draws), Streams(draws, self.dtype)
        self.device = self.streams.device
        self.heads = heads.to(self.device)
        self.clock = Clock()
        self.optimizers = list(optimizers)
        self._wants_noise = isinstance(self.solver, NeedsNoise)
        self._parts = {} if self.generator is None else self.generator.parts()
        trained = {"solver": solvers.trained(lambda net: (p for p in net.parameters() if p.requires_grad))}
        if generators is not None:
            for name in self._parts:
                trained[f"generator.{name}"] = generators.trained(lambda net, n=name: net.parts()[n].parameters)  # type: ignore[misc]
        self.descents = {name: Descent(parameters, self.optimizers) for name, parameters in trained.items()}

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
    ) -> None:
        """Learn one task. `batches` yields a batch for each step from `start` on; `observe` sees each step's losses.

        `start` > 0 continues in the middle of a task, after `load_states`.
        """
        if start == 0:
            self.begin_task(task)
        steps = self.strategy.steps(iterations)
        with self.solvers.mode(training=True):
            for iteration, batch in zip(range(start, steps), batches, strict=False):
                position = Position(task, iteration, iterations)
                observe(position, self.step(batch, position))
        self.strategy.end_task()

    def begin_task(self, task: int) -> None:
        """Make ready for the first step of a task."""
        for descent in self.descents.values():
            descent.begin_task()
        with self._products():
            self.strategy.begin_task(self._situation(task))

    def step(self, batch: Batch, position: Position) -> Losses:
        """One iteration: the solver's step, what the strategy makes of the batch, the generator's step if it is due.

        Returns the unweighted terms of each loss and the solver's `total`, (R,) each, as tensors that nobody has
        waited for.
        """
        losses: Losses = {}
        with self._products():
            if position.iteration < position.iterations:
                with self.clock.measure("solver"):
                    losses |= self._step_solver(batch, position)
                    self.strategy.after_step(batch, position)
            due = self.strategy.generator_batch(batch, position)
            if due is not None:
                with self.clock.measure("generator"):
                    losses |= self._step_generator(due, position)
        return losses

    def _step_solver(self, batch: Batch, position: Position) -> Losses:
        with self._own_stream(position.task, position.iteration):
            terms = self.strategy.loss(lambda x: self._solve(x, position), batch, position)
        parts = [per_replica(term.weight, term.value) * term.value for term in terms.values()]
        total = sum(parts[1:], start=parts[0])
        self._descend("solver", total, position)
        return {name: term.value.detach() for name, term in terms.items()} | {"total": total.detach()}

    def _solve(self, x: Tensor, position: Position) -> Tensor:
        """The solvers' logits while training, their noise taken from the runs' own streams."""
        wanted = self.solvers.noise("noise_needed", x.shape[1]) if self._wants_noise else {}
        noise = [self.streams.batch(wanted, "solver", position.task, position.iteration)] if wanted else []
        return cast(Tensor, self.solvers.call("__call__", x, *noise)).to(self.dtype)

    def step_generator(self, x: Tensor, task: int) -> Losses:
        """One step of all parts of the generators on samples `x` (R, B, ...), whether one is due or not; its losses."""
        if self.generators is None:
            return {}
        with self._products():
            update = prod(part.every for part in self._parts.values()) - 1
            return self._step_generator(GeneratorBatch(x, update), Position(task, 0, 1))

    def _step_generator(self, batch: GeneratorBatch, position: Position) -> Losses:
        assert self.generators is not None
        losses: Losses = {}
        for name, part in self._parts.items():
            if (batch.update + 1) % part.every:
                continue
            wanted = self.generators.noise("noise", batch.x.shape[1])
            noise = self.streams.batch(wanted, f"generator.{name}", position.task, batch.update)
            terms = self.generators.call("losses", name, batch.x, noise)
            values = {term: weighted_sum(value, batch.weights) for term, value in terms.items()}
            first, *others = values.values()
            self._descend(f"generator.{name}", sum(others, start=first), position)
            losses |= {term: value.detach() for term, value in values.items()}
        return losses

    def _descend(self, name: str, loss: Tensor, position: Position) -> None:
        """One step down `loss` (R,) for the parameters of that name; those that it does not depend on stay."""
        # The replicas share no parameter, so the gradient of the sum holds each one's own.
        descent = self.descents[name]
        gradients = torch.autograd.grad(loss.sum(), descent.parameters, allow_unused=True)
        descent.step(gradients, lambda optimizer: self._lr(optimizer, position))

    def _products(self) -> Any:
        """Where matrix products are computed as the precision says."""
        if self.precision != "bf16":
            return nullcontext()
        # No cache of what was cast: the parameters change between two forward passes.
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    def _lr(self, optimizer: Optimizer, position: Position) -> float:
        """The learning rate at `position`; steps after the solver's have a course of their own."""
        beyond = position.iteration - position.iterations
        if beyond < 0:
            return optimizer.lr_at(position.iteration, position.iterations)
        return optimizer.lr_at(beyond, self.strategy.steps(position.iterations) - position.iterations)

    def _own_stream(self, *key: int) -> Any:
        # A solver that doesn't ask for its noise may draw from torch's global stream: give it one of its own.
        return nullcontext() if self._wants_noise else seeded(self.draws[0].seed, "global", *key)

    def _situation(self, task: int) -> Situation:
        return Situation(
            task,
            self.solvers,
            self.generators,
            self.streams,
            self.scenario.teacher_units(self.heads, task),
            self.scenario.task_of_unit(self.heads, task),
        )

    # --- evaluation

    @torch.no_grad()
    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]], units: Tensor) -> Evaluation:
        """How the solver, as it stands, answers `batches` of (x, y), (B, ...), when `units` bool (U,) compete.

        Of several solvers it is the first. Leaves no trace: no random stream advances, the solver's mode is put back.
        """
        solver = self.solver
        correct = torch.zeros((), dtype=torch.long, device=self.device)
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        n = 0
        answerable = torch.ones((), dtype=torch.bool, device=self.device)
        with self._own_stream(-1), mode(solver, training=False), self.clock.measure("evaluation"):
            for x, y in batches:
                logits = solver(x.to(self.dtype))
                correct += (logits.masked_fill(~units, -torch.inf).argmax(-1) == y).sum()
                loss += cross_entropy(logits, y, units).sum().double()
                answerable &= units[y].all()
                n += x.shape[0]
        if n == 0:
            return Evaluation(float("nan"), None, 0)
        return Evaluation(correct.item() / n, loss.item() / n if answerable.item() else None, n)

    # --- state

    def state_of(self, replica: int) -> State:
        """Everything that a replica needs to continue, as one nested dict of tensors and numbers.

        It is what the same run alone would have. Random streams need no state.
        """
        whole = {
            "solver": self.solvers.state_dict(),
            "generator": None if self.generators is None else self.generators.state_dict(),
            "strategy": self.strategy.state_dict(),
        }
        mine: State = part_of(whole, replica)
        return mine | {
            "optimizers": {name: descent.state_of(replica) for name, descent in self.descents.items()},
            "heads": self.heads,
        }

    def load_states(self, states: Sequence[State], task: int) -> None:
        """Take up each replica's state, saved in or before `task`."""
        self.heads = states[0]["heads"].to(self.device)
        whole = together([{k: s[k] for k in ("solver", "generator", "strategy")} for s in states], self.device)
        self.solvers.load_state_dict(whole["solver"])
        if self.generators is not None:
            self.generators.load_state_dict(whole["generator"])
        for name, descent in self.descents.items():
            descent.load([state["optimizers"][name] for state in states])
        self.strategy.load_state_dict(whole["strategy"], self._situation(task))
