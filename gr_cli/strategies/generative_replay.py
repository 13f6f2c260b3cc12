from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from gr_cli.checks import Count, PerReplica, Positive, PositiveInt, ReplayWeight
from gr_cli.errors import ConfigError
from gr_cli.generators.base import Generator
from gr_cli.layers import per_replica
from gr_cli.losses import cross_entropy, distillation, soft_targets, weighted_sum
from gr_cli.randomness import Noise
from gr_cli.replicas import Replicas
from gr_cli.strategies.base import Batch, GeneratorBatch, Position, Situation, Solve, State, Strategy, Term
from gr_cli.strategies.memory import Memory, pick_balanced, shares

_SURPLUS = 4  # generated samples per place of the memory, so that rare classes fill their share
_CHUNK = 1024  # samples dreamt at once: large enough for fast matrix products, small enough for the cache
_LEAST = 64  # ... by each replica


@dataclass(frozen=True)
class Replay:
    """Dreamt samples `x` (R, N, ...) with a target for each of H heads: units (R, N, H), or probabilities
    (R, N, H, U)."""

    x: Tensor
    target: Tensor

    def part(self, start: int, stop: int) -> Replay:
        """The dreams from `start` to before `stop` of each replica."""
        return Replay(self.x[:, start:stop], self.target[:, start:stop])

    def at(self, index: Tensor) -> Replay:
        """The dreams at `index` (R, B), each replica's own."""
        replica = torch.arange(index.shape[0], device=index.device).unsqueeze(1)
        return Replay(self.x[replica, index], self.target[replica, index])


class GenerativeReplay(Strategy):
    """Deep generative replay (Shin et al. 2017; van de Ven & Tolias 2018).

    Before a task, generator and solver are frozen as they stand. During the task the frozen generator dreams samples
    of the earlier tasks, the frozen solver labels them, and the solver learns them beside the current ones:
    loss = w_current * loss(current) + w_replay * loss(dreams). The generator keeps learning meanwhile, from a memory
    (the current task's samples by reservoir sampling, dreams for the earlier tasks) or from the batches themselves.
    No raw sample is kept beyond its task.

    Args:
        generator: what dreams.
        memory_size: places in the memory that the generator learns from.
        batch_size: replayed samples per iteration, and the generator's batch from the memory.
        replay_weight: weight of the replay loss beside weight 1 of the current loss, or `by_tasks`: in the t-th task
            1/t on the current and 1 - 1/t on the replayed samples.
        generator_update_freq: the generator learns at every so-many-th iteration.
        task_balanced: share the places of the memory evenly between the tasks so far. Otherwise it is one reservoir:
            as many dreams as it has places come first, then all that passes, current and replayed.
        replay_source: `fresh` dreams for every iteration, or a `pool` dreamt once per task and drawn from.
        pool_size: number of dreams in that pool.
        targets: the frozen solver's choice (`hard`), or its probabilities at `temperature` (`soft`, distillation).
        temperature: softens the targets and the solver's answer to them; no factor T^2.
        generator_data: what the generator learns from, `memory` or the batches of `current_and_replay`, weighed
            like the solver's losses.
        generator_training: `alongside` the solver, or `after` it, with as many steps.
    """

    def __init__(
        self,
        generator: Generator,
        memory_size: Count = 500,
        batch_size: PositiveInt = 32,
        replay_weight: Annotated[ReplayWeight, PerReplica] = 1.0,
        generator_update_freq: PositiveInt = 5,
        task_balanced: bool = True,
        replay_source: Literal["fresh", "pool"] = "fresh",
        pool_size: PositiveInt = 5000,
        targets: Literal["hard", "soft"] = "hard",
        temperature: Annotated[Positive, PerReplica] = 2.0,
        generator_data: Literal["memory", "current_and_replay"] = "memory",
        generator_training: Literal["alongside", "after"] = "alongside",
    ) -> None:
        if memory_size == 0 and generator_data == "memory":
            raise ConfigError(
                "strategy.memory_size",
                0,
                "the generator would have nothing to learn from",
                "try strategy.memory_size=500 or strategy.generator_data=current_and_replay",
            )
        self.generator: Generator = generator
        self.memory_size, self.batch_size, self.replay_weight = memory_size, batch_size, replay_weight
        self.generator_update_freq, self.task_balanced = generator_update_freq, task_balanced
        self.pool_size = pool_size if replay_source == "pool" else None
        self.targets, self.temperature = targets, temperature
        self.generator_data, self.generator_training = generator_data, generator_training
        self.memory: Memory | None = None
        self.dreamer: Replicas[Generator] | None = None
        self.teacher: Replicas[nn.Module] | None = None
        self._block: tuple[int, Replay] | None = None
        self._rows: tuple[tuple[int, int], int, Tensor] | None = None
        self._joined: tuple[Position, Batch, Tensor] | None = None

    # --- before a task

    def begin_task(self, situation: Situation) -> None:
        self._enter(situation)
        self.memory = None
        if situation.task > 0:
            # Copy before training: dreams and their labels must come from the networks as they were.
            self._freeze(situation)
            if self.generator_data == "memory":
                self.memory = self._open_memory()

    def _enter(self, situation: Situation) -> None:
        self._situation, self._block, self._rows, self._joined = situation, None, None, None
        self.dreamer = self.teacher = None
        self.current_weight, self.dream_weight = weights(self.replay_weight, situation.task)

    def _freeze(self, situation: Situation) -> None:
        assert situation.generator is not None
        self.dreamer, self.teacher = situation.generator.frozen(), situation.solver.frozen()

    def _open_memory(self) -> Memory:
        """A memory with dreams of the earlier tasks in their places."""
        here = self._situation
        by_label = self.task_balanced and here.task_of_unit is not None
        dreams = self._dream(self.memory_size * (_SURPLUS if by_label else 1), "memory")
        memory = Memory.empty(self.memory_size, dreams.x)
        if not self.task_balanced:
            first = dreams.x[:, : self.memory_size]
            memory.add(first, first.new_zeros(first.shape[:2]))
            return memory
        places = self.memory_size * here.task // (here.task + 1)
        valid = torch.ones(dreams.x.shape[:2], dtype=torch.bool, device=dreams.x.device)
        if here.task_of_unit is not None:
            first_head = dreams.target[:, :, 0]
            label = first_head if self.targets == "hard" else first_head.argmax(-1)
            valid = pick_balanced(here.task_of_unit[label], shares(places, here.task))
        memory.reserve(dreams.x, valid, places)
        return memory

    # --- dreams

    @torch.no_grad()
    def _dream(self, number: int, stream: str, *key: int) -> Replay:
        """`number` dreams with their targets, from the random stream (`stream`, task, `key`)."""
        assert self.dreamer is not None and self.teacher is not None
        here, parts = self._situation, []
        latent = {
            name: here.streams.draw(noise.kind, f"{stream}.{name}", here.task, *key, shape=noise.shape)
            for name, noise in self.dreamer.noise("latent", number).items()
        }
        size = max(_CHUNK // here.streams.replicas, _LEAST)
        for start in range(0, number, size):
            chunk = {name: noise[:, start : start + size] for name, noise in latent.items()}
            x = self.dreamer.call("decode", chunk).to(here.streams.dtype)
            logits = (
                self.teacher.call("__call__", x).to(here.streams.dtype).unsqueeze(-2)
            )  # (R, N, 1, U) against (H, U)
            if self.targets == "soft":
                target = soft_targets(logits, here.teacher_units, per_replica(self.temperature, logits))
            else:
                target = logits.masked_fill(~here.teacher_units, -torch.inf).argmax(-1)
            parts.append(Replay(x, target))
        if len(parts) == 1:
            return parts[0]
        return Replay(torch.cat([p.x for p in parts], 1), torch.cat([p.target for p in parts], 1))

    def replay(self, position: Position) -> Replay | None:
        """The dreams of this iteration; None in the first task. A function of the frozen networks and `position`."""
        if position.task == 0:
            return None
        if self.pool_size is not None:
            pool = self._cached(0, self.pool_size)
            uniform = self._uniform("pool.choice", self.batch_size, position)
            return pool.at((uniform * self.pool_size).long().clamp(max=self.pool_size - 1))
        per_block = max(1, _CHUNK // self.batch_size)
        block, offset = divmod(position.iteration, per_block)
        dreams = self._cached(block, per_block * self.batch_size)
        return dreams.part(offset * self.batch_size, (offset + 1) * self.batch_size)

    def _cached(self, block: int, number: int) -> Replay:
        if self._block is None or self._block[0] != block:
            self._block = None  # let go of the old dreams before new ones are made
            self._block = (block, self._dream(number, "replay", block))
        return self._block[1]

    def _both(self, batch: Batch, replay: Replay, position: Position) -> Tensor:
        """Current and replayed samples, one after the other; put together once in an iteration."""
        if self._joined is None or self._joined[0] != position or self._joined[1] is not batch:
            self._joined = (position, batch, torch.cat([batch.x, replay.x], 1))
        return self._joined[2]

    def _uniform(self, stream: str, size: int, position: Position) -> Tensor:
        noise = Noise("uniform", (size,))
        return self._situation.streams.rows(noise, stream, position.task, position.iteration)

    # --- during a task

    def loss(self, solver: Solve, batch: Batch, position: Position) -> dict[str, Term]:
        replay = self.replay(position)
        if replay is None:
            return super().loss(solver, batch, position)
        size = batch.x.shape[1]
        logits = solver(self._both(batch, replay, position))
        if self.targets == "hard" and replay.target.shape[-1] == 1 and batch.units.dim() == 1:
            target = torch.cat([batch.y, replay.target[..., 0]], 1)
            units = torch.cat([batch.units.expand(size, -1), batch.replay_units.expand(target.shape[1] - size, -1)])
            loss = cross_entropy(logits, target, units)
            return self._terms(loss[:, :size], loss[:, size:])
        current, dreamt = logits[:, :size], logits[:, size:].unsqueeze(-2)
        per_head = (
            distillation(dreamt, replay.target, batch.replay_units, per_replica(self.temperature, dreamt))
            if self.targets == "soft"
            else cross_entropy(dreamt.expand(*replay.target.shape, -1), replay.target, batch.replay_units)
        )
        return self._terms(cross_entropy(current, batch.y, batch.units), per_head.mean(-1))

    def _terms(self, current: Tensor, dreamt: Tensor) -> dict[str, Term]:
        """The losses of single samples, (R, B) and (R, N), as weighted means."""
        return {
            "current": Term(weighted_sum(current, None), self.current_weight),
            "replay": Term(weighted_sum(dreamt, None), self.dream_weight),
        }

    def steps(self, iterations: int) -> int:
        after = 0 if self.generator_training == "alongside" else iterations // self.generator_update_freq
        return iterations + after

    def _update(self, position: Position) -> int | None:
        """Which update of the generator is due at `position`, if any."""
        if self.generator_training == "after":
            beyond = position.iteration - position.iterations
            return beyond if beyond >= 0 else None
        update, rest = divmod(position.iteration + 1, self.generator_update_freq)
        return update - 1 if rest == 0 else None

    def generator_batch(self, batch: Batch, position: Position) -> GeneratorBatch | None:
        update = self._update(position)
        if update is None:
            return None
        if self.generator_data == "memory":
            assert self.memory is not None
            uniform = self._uniform("memory.choice", self.batch_size, position)
            return GeneratorBatch(self.memory.sample(uniform), update)
        replay = self.replay(position)
        if replay is None:
            return GeneratorBatch(batch.x, update)
        x = self._both(batch, replay, position)
        size, total = batch.x.shape[1], self.current_weight + self.dream_weight
        weights = x.new_empty(x.shape[:2])
        weights[:, :size] = per_replica(self.current_weight / total / size, weights)
        weights[:, size:] = per_replica(self.dream_weight / total / replay.x.shape[1], weights)
        return GeneratorBatch(x, update, weights)

    def after_step(self, batch: Batch, position: Position) -> None:
        if self.generator_data != "memory":
            return
        passing = batch.x
        if not self.task_balanced and (replay := self.replay(position)) is not None:
            passing = self._both(batch, replay, position)
        if self.memory is None:
            self.memory = Memory.empty(self.memory_size, passing)
        self.memory.put(passing, self._place(passing.shape[1], position))

    def _place(self, size: int, position: Position) -> Tensor:
        """The rows of the memory for the batch of this iteration; found for many iterations at once."""
        assert self.memory is not None
        key, row = (size, position.task), position.iteration
        if self._rows is None or self._rows[0] != key or not 0 <= row - self._rows[1] < len(self._rows[2]):
            noise = Noise("uniform", (size,))
            first, uniform = self._situation.streams.ahead(noise, "memory.place", position.task, row)
            # What has passed before: `size` with each iteration, and before the first whatever was there.
            passed = self.memory.seen - (row - first) * size
            self._rows = (key, first, self.memory.places(uniform, passed))
        return self._rows[2][row - self._rows[1]]

    def end_task(self) -> None:
        # Raw samples leave with the memory; the frozen copies are taken anew before the next task.
        self.memory = self.dreamer = self.teacher = self._block = self._rows = self._joined = None

    # --- state

    def state_dict(self) -> State:
        return {
            "memory": None if self.memory is None else self.memory.state_dict(),
            "dreamer": None if self.dreamer is None else self.dreamer.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
        }

    def load_state_dict(self, state: State, situation: Situation) -> None:
        self._enter(situation)
        self.memory = None if state["memory"] is None else Memory.from_state(state["memory"])
        if state["dreamer"] is not None:
            self._freeze(situation)
            assert self.dreamer is not None and self.teacher is not None
            self.dreamer.load_state_dict(state["dreamer"])
            self.teacher.load_state_dict(state["teacher"])


def weights(rule: float | Tensor | Literal["by_tasks"], task: int) -> tuple[float, float | Tensor]:
    """Weights of the current and the replay loss in `task` (from 0); a rule of one number per replica, (R,), as is."""
    if isinstance(rule, str):
        return 1.0 / (task + 1), task / (task + 1)
    return 1.0, rule
