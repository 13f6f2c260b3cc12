"""What strategies do with generators: ask them for dreams, in turn, and fit those that learn in one go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gr_cli.generators.base import Generator
from gr_cli.nn.layers import per_replica
from gr_cli.nn.losses import soft_targets
from gr_cli.nn.replicas import Replicas
from gr_cli.strategies.replay import Replay
from gr_cli.strategies.steps import Batch, Position, Situation

_CHUNK = 1024  # samples dreamt at once: large enough for fast matrix products, small enough for the cache
_LEAST = 64  # ... by each replica


class Dreams:
    """What frozen generators dream in a task, with targets: a function of them, the random streams and the position.

    Args:
        situation: the task in which they dream.
        dreamers: they dream in turn.
        heads: bool (G, U), the classes that each of them knows, of which conditional ones are asked for.
        target: what a solver shall learn about dreams (R, N, ...) of these labels (R, N), if any were asked for.
        kind: tells the random streams of several kinds of dreams apart.
        pool_size: dreams are drawn from so many, dreamt once; None: they are fresh in every iteration.
    """

    def __init__(
        self,
        situation: Situation,
        dreamers: Sequence[Replicas[Generator]],
        heads: Tensor,
        target: Callable[[Tensor, Tensor | None], Tensor],
        kind: str = "",
        pool_size: int | None = None,
    ) -> None:
        self._situation, self._dreamers, self._target, self._kind = situation, dreamers, target, kind
        self._heads = heads if len(dreamers) > 1 else heads.any(0, keepdim=True)
        self._pool_size = pool_size
        self._cached: tuple[tuple[int, int], Replay] | None = None

    def at(self, size: int, position: Position) -> Replay:
        """The dreams of an iteration, the same however often they are asked for."""
        if self._pool_size is not None:
            uniform = self._situation.uniform(f"pool{self._kind}.choice", size, position)
            chosen = (uniform * self._pool_size).long().clamp(max=self._pool_size - 1)
            return self._block(0, self._pool_size).at(chosen)
        per_block = max(1, _CHUNK // size)
        block, offset = divmod(position.iteration, per_block)
        return self._block(block, per_block * size).part(offset * size, (offset + 1) * size)

    def _block(self, block: int, number: int) -> Replay:
        if self._cached is None or self._cached[0] != (block, number):
            self._cached = None  # let go of the old dreams before new ones are made
            self._cached = ((block, number), self.draw(number, f"replay{self._kind}", block))
        return self._cached[1]

    @torch.no_grad()
    def draw(self, number: int, stream: str, *key: int) -> Replay:
        """`number` dreams from the random stream (`stream`, task, `key`)."""
        here, parts = self._situation, []
        labels = None
        if self._dreamers[0].modules[0].conditional:
            labels = in_turn(self._heads, number).expand(here.streams.replicas, -1)
        latent = {
            name: here.streams.draw(noise.kind, f"{stream}.{name}", here.task, *key, shape=noise.shape)
            for name, noise in self._dreamers[0].noise("latent", number).items()
        }
        size = max(_CHUNK // here.streams.replicas, _LEAST)
        for start in range(0, number, size):
            stop = min(start + size, number)
            chunk = {name: noise[:, start:stop] for name, noise in latent.items()}
            asked = None if labels is None else labels[:, start:stop]
            x = decoded(self._dreamers, chunk, asked, start).to(here.streams.dtype)
            gated = self._dreamers[0].modules[0].gated_by_task
            tasks = self._dreamers[0].call("tasks_of", chunk) if gated else None
            parts.append(Replay(x, self._target(x, asked), labels=asked, tasks=tasks))
        return Replay.joined(parts)


@dataclass
class Likelihoods:
    """The probabilities of the classes in `known`, bool (U,), by what the generator says how likely a sample is."""

    situation: Situation
    temperature: float | Tensor
    known: Tensor
    _tables: list[Tensor] | None = None

    def forget(self) -> None:
        """Let go of what was looked up."""
        self._tables = None

    def of(self, x: Tensor) -> Tensor:
        """For samples `x` (R, N, ...): (R, N, U)."""
        told = self.situation.generator.call("log_likelihoods", x).to(x.dtype)
        return soft_targets(told, self.known, per_replica(self.temperature, told))

    @torch.no_grad()
    def of_current(self, batch: Batch) -> Tensor:
        """For samples of the current task, which come many times and are looked up once: (R, B, U)."""
        if batch.index is None:
            return self.of(batch.x)
        if self._tables is None:
            here = self.situation
            self._tables = []
            for replica, generator in enumerate(here.generator.modules):
                told = torch.cat([generator.log_likelihoods(x) for x, _ in here.samples(replica)])
                temperature = self.temperature[replica] if isinstance(self.temperature, Tensor) else self.temperature
                self._tables.append(soft_targets(told.to(batch.x.dtype), self.known, temperature))
        return torch.stack([table[index] for table, index in zip(self._tables, batch.index, strict=True)])


def requested_labels(x: Tensor, labels: Tensor | None) -> Tensor:
    """Targets of generated samples, the classes `labels` (R, N) that they were asked for: (R, N, 1)."""
    assert labels is not None
    return labels.unsqueeze(-1)


def in_turn(heads: Tensor, number: int) -> Tensor:
    """Classes for so many dreams, of generators that dream in turn, each of the classes in its row of `heads` bool
    (G, U): (number,). The i-th dream is the turn of generator i modulo G, whose classes come in turn."""
    turns = torch.arange(number, device=heads.device)
    labels = torch.empty_like(turns)
    for i, head in enumerate(heads):
        classes = head.nonzero().squeeze(1)
        mine = labels[i :: len(heads)]
        mine.copy_(classes[turns[: len(mine)] % len(classes)])
    return labels


def decoded(
    dreamers: Sequence[Replicas[Generator]], latent: Mapping[str, Tensor], labels: Tensor | None, first: int
) -> Tensor:
    """Dreams (R, N, ...) of generators that dream in turn, of which these are the ones from number `first` on."""
    if len(dreamers) == 1:
        found: Tensor = dreamers[0].call("decode", latent, *([] if labels is None else [labels]))
        return found
    turns = [slice((i - first) % len(dreamers), None, len(dreamers)) for i in range(len(dreamers))]
    parts: list[Tensor] = []
    for generator, turn in zip(dreamers, turns, strict=True):
        mine = {name: noise[:, turn] for name, noise in latent.items()}
        parts.append(generator.call("decode", mine, *([] if labels is None else [labels[:, turn]])))
    whole = parts[0].new_empty((len(parts[0]), sum(x.shape[1] for x in parts), *parts[0].shape[2:]))
    for turn, x in zip(turns, parts, strict=True):
        whole[:, turn] = x
    return whole


def fit_classes(situation: Situation) -> None:
    """Fit the generator of each replica to the classes of the task, one by one."""
    for replica, generator in enumerate(situation.generator.modules):
        samples = list(situation.samples(replica))
        x, y = torch.cat([x for x, _ in samples]), torch.cat([y for _, y in samples])
        with torch.autocast(x.device.type, enabled=False):  # what is solved exactly shall not be coarse
            for label in y.unique().tolist():
                generator.fit(x[y == label], label, situation.streams.generator(replica, "fit", situation.task, label))
