"""The learner owns solver, strategy, generator and optimisers, and holds the one training loop of this program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor, nn

from gr_cli.layers import NeedsNoise, mode
from gr_cli.losses import cross_entropy, weighted_sum
from gr_cli.optimizers import Moments, Optimizer
from gr_cli.randomness import Draws, seeded
from gr_cli.scenario import Scenario
from gr_cli.strategies.base import Batch, GeneratorBatch, Position, Situation, State, Strategy

Losses = dict[str, Tensor]
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
    """A solver that learns tasks one after the other under a strategy.

    Args:
        solver: maps samples (B, ...) to logits (B, U).
        strategy: what keeps it from forgetting; brings its generator along, if it needs one.
        optimizer: settings for the solver; the generator has the same, and moments of its own.
        scenario: which units compete when.
        heads: bool (T, U), which units belong to which task; rows may be appended as tasks come.
        seed: of all random streams.
        device: where it runs.
    """

    def __init__(
        self,
        solver: nn.Module,
        strategy: Strategy,
        optimizer: Optimizer,
        scenario: Scenario,
        heads: Tensor,
        seed: int,
        device: torch.device,
    ) -> None:
        self.solver, self.strategy, self.scenario = solver.to(device), strategy, scenario
        self.generator = None if strategy.generator is None else strategy.generator.to(device)
        self.heads, self.device = heads.to(device), device
        self.draws = Draws(seed, device)
        self.clock = Clock()
        self.optimizer = optimizer
        self._solver_noise = solver.noise_needed if isinstance(solver, NeedsNoise) else None
        self._parts = {} if self.generator is None else self.generator.parts()
        self._trained = {"solver": [p for p in self.solver.parameters() if p.requires_grad]}
        self._trained |= {f"generator.{name}": list(part.parameters) for name, part in self._parts.items()}
        self._moments = self._start_optimizers()

    def _start_optimizers(self) -> dict[str, Moments]:
        return {name: self.optimizer.start(parameters) for name, parameters in self._trained.items()}

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

        `start` > 0 continues in the middle of a task, after `load_state_dict`.
        """
        if start == 0:
            if self.optimizer.reset_per_task:
                self._moments = self._start_optimizers()
            self.strategy.begin_task(self._situation(task))
        steps = self.strategy.steps(iterations)
        with mode(self.solver, training=True):
            for iteration, batch in zip(range(start, steps), batches, strict=False):
                position = Position(task, iteration, iterations)
                observe(position, self.step(batch, position))
        self.strategy.end_task()

    def step(self, batch: Batch, position: Position) -> Losses:
        """One iteration: the solver's step, what the strategy makes of the batch, the generator's step if it is due.

        Returns the unweighted terms of each loss and the solver's `total`, as tensors that nobody has waited for.
        """
        losses: Losses = {}
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
        total = sum((term.weight * term.value for term in terms.values()), start=batch.x.new_zeros(()))
        self._descend("solver", total, position)
        return {name: term.value.detach() for name, term in terms.items()} | {"total": total.detach()}

    def _solve(self, x: Tensor, position: Position) -> Tensor:
        """The solver's logits while training, its noise taken from the run's own streams."""
        wanted = {} if self._solver_noise is None else self._solver_noise(x.shape[0])
        if not wanted:
            return cast(Tensor, self.solver(x))
        noise = self.draws.batch(wanted, "solver", position.task, position.iteration)
        return cast(Tensor, self.solver(x, noise))

    def _step_generator(self, batch: GeneratorBatch, position: Position) -> Losses:
        assert self.generator is not None
        losses: Losses = {}
        for name, part in self._parts.items():
            if (batch.update + 1) % part.every:
                continue
            wanted = self.generator.noise(batch.x.shape[0])
            noise = self.draws.batch(wanted, f"generator.{name}", position.task, position.iteration)
            terms = self.generator.losses(name, batch.x, noise)
            values = {term: weighted_sum(value, batch.weights) for term, value in terms.items()}
            self._descend(f"generator.{name}", sum(values.values(), start=batch.x.new_zeros(())), position)
            losses |= {term: value.detach() for term, value in values.items()}
        return losses

    def _descend(self, name: str, loss: Tensor, position: Position) -> None:
        """One step down `loss` for the parameters of that name; those that it does not depend on stay as they are."""
        parameters, moments = self._trained[name], self._moments[name]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        lr = self._lr(position)
        used = [i for i, gradient in enumerate(gradients) if gradient is not None]
        with torch.no_grad():
            self.optimizer.step(
                [parameters[i] for i in used],
                [gradients[i] for i in used],
                {moment: [values[i] for i in used] for moment, values in moments.items()},
                lr,
            )

    def _lr(self, position: Position) -> float:
        """The learning rate at `position`; steps after the solver's have a course of their own."""
        beyond = position.iteration - position.iterations
        if beyond < 0:
            return self.optimizer.lr_at(position.iteration, position.iterations)
        return self.optimizer.lr_at(beyond, self.strategy.steps(position.iterations) - position.iterations)

    def _own_stream(self, *key: int) -> Any:
        # A solver that doesn't ask for its noise may draw from torch's global stream: give it one of its own.
        return nullcontext() if self._solver_noise is not None else seeded(self.draws.seed, "global", *key)

    def _situation(self, task: int) -> Situation:
        return Situation(
            task,
            self.solver,
            self.draws,
            self.scenario.teacher_units(self.heads, task),
            self.scenario.task_of_unit(self.heads, task),
        )

    # --- evaluation

    @torch.no_grad()
    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]], units: Tensor) -> Evaluation:
        """How the solver, as it stands, answers `batches` of (x, y) when `units` bool (U,) compete.

        Leaves no trace: no random stream advances, the solver's mode is put back.
        """
        correct = torch.zeros((), dtype=torch.long, device=self.device)
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        n = 0
        answerable = torch.ones((), dtype=torch.bool, device=self.device)
        with self._own_stream(-1), mode(self.solver, training=False), self.clock.measure("evaluation"):
            for x, y in batches:
                logits = self.solver(x)
                correct += (logits.masked_fill(~units, -torch.inf).argmax(-1) == y).sum()
                loss += cross_entropy(logits, y, units).sum().double()
                answerable &= units[y].all()
                n += x.shape[0]
        if n == 0:
            return Evaluation(float("nan"), None, 0)
        return Evaluation(correct.item() / n, loss.item() / n if answerable.item() else None, n)

    # --- state

    def state_dict(self) -> State:
        """Everything needed to continue, as one nested dict of tensors and numbers. Random streams need no state."""
        return {
            "solver": self.solver.state_dict(),
            "generator": None if self.generator is None else self.generator.state_dict(),
            "optimizers": self._moments,
            "strategy": self.strategy.state_dict(),
            "heads": self.heads,
        }

    def load_state_dict(self, state: State, task: int) -> None:
        """Take up `state`, saved in or before `task`."""
        self.heads = state["heads"].to(self.device)
        self.solver.load_state_dict(state["solver"])
        if self.generator is not None:
            self.generator.load_state_dict(state["generator"])
        self._moments = {
            name: {moment: [value.to(self.device) for value in values] for moment, values in moments.items()}
            for name, moments in state["optimizers"].items()
        }
        self.strategy.load_state_dict(state["strategy"], self._situation(task))
