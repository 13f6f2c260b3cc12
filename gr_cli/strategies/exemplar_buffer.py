"""Samples that are kept beyond their task, class by class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from gr_cli.strategies.context import TaskContext

# Which samples of a class to keep, at most so many and in their order: of `x` (N, ...), by their places.
Selection = Callable[[Tensor, int], Tensor]


def uniform_subset(
    context: TaskContext, replica: int, max_samples: int, stream: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """`number` of the task's samples, each with the same probability, in one batch; all, if there are no more.

    In one pass, because the next one may come in another order: the samples with the smallest of random numbers.
    """
    draws = context.streams.generator(replica, stream, context.task)
    kept: tuple[Tensor, Tensor, Tensor] | None = None
    for x, y in context.sample_pass(replica):
        lots = torch.rand(y.shape[0], generator=draws, device=y.device)
        if kept is not None:
            x, y, lots = torch.cat([kept[0], x]), torch.cat([kept[1], y]), torch.cat([kept[2], lots])
        first = lots.argsort()[:max_samples].sort().values
        kept = (x[first], y[first], lots[first])
    if kept is not None:
        yield kept[0], kept[1]


@dataclass
class ExemplarBuffer:
    """Samples `x` (R, K, m, ...) of K classes, of each the first `size` (R, K) of m places valid; `label` (R, K) is
    the output unit of a class. A class of two tasks, where tasks share units, counts for each."""

    x: Tensor
    label: Tensor
    size: Tensor

    def __post_init__(self) -> None:
        replicas, classes, places = self.x.shape[:3]
        self._samples = self.x.flatten(0, 2)
        self._labels = self.label.unsqueeze(2).expand(-1, -1, places).flatten(1)
        valid = torch.arange(places, device=self.x.device) < self.size.unsqueeze(2)  # (R, K, m)
        # Places in the order in which they are drawn from: the valid ones first.
        self._valid_first = torch.argsort(valid.flatten(1).to(torch.int8), dim=1, descending=True, stable=True)
        self.num_samples = self.size.sum(1)  # (R,) of all classes together
        self._replica_offset = torch.arange(replicas, device=self.x.device).unsqueeze(1) * (classes * places)

    @classmethod
    def from_task(cls, context: TaskContext, per_class: int, selection: Callable[[int], Selection]) -> Self:
        """At most `per_class` of each class of a task, for each replica: `choice(replica)` says which."""
        found = [
            _select_by_class(context, replica, per_class, selection(replica))
            for replica in range(context.streams.replicas)
        ]
        like = next(iter(found[0].values()))
        classes = max(len(mine) for mine in found)
        x = like.new_zeros((len(found), classes, per_class, *like.shape[1:]))
        label = torch.zeros((len(found), classes), dtype=torch.long, device=x.device)
        size = torch.zeros_like(label)
        for r, mine in enumerate(found):
            for k, (unit, kept) in enumerate(mine.items()):
                x[r, k, : len(kept)], label[r, k], size[r, k] = kept, unit, len(kept)
        return cls(x, label, size)

    @classmethod
    def concatenate(cls, buffers: Sequence[Self]) -> Self:
        """The classes of all parts, which have as many places for each."""
        return cls(*(torch.cat([getattr(p, name) for p in buffers], 1) for name in ("x", "label", "size")))

    def truncate(self, per_class: int) -> Self:
        """Of each class the first `per_class` only."""
        return type(self)(self.x[:, :, :per_class].clone(), self.label, self.size.clamp(max=per_class))

    def sample(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Samples chosen evenly, with replacement, by `uniform` (R, B) in [0, 1), and their labels."""
        place = self._valid_first.gather(1, (uniform.double() * self.num_samples.unsqueeze(1)).long())
        return self._samples[place + self._replica_offset], self._labels.gather(1, place)

    def classes_of(self, replica: int) -> Iterator[tuple[int, Tensor]]:
        """Each class of a replica that has any: its output unit and its samples (n, ...)."""
        for unit, n, kept in zip(
            self.label[replica].tolist(), self.size[replica].tolist(), self.x[replica], strict=True
        ):
            if n:
                yield unit, kept[:n]

    @classmethod
    def from_state(cls, state: dict[str, Any] | None) -> Self | None:
        """What gave `state`."""
        return None if state is None else cls(state["x"], state["label"], state["size"])

    def state_dict(self) -> dict[str, Any]:
        """Tensors with the replica axis."""
        return {"x": self.x, "label": self.label, "size": self.size}


def _select_by_class(situation: TaskContext, replica: int, per_class: int, selection: Selection) -> dict[int, Tensor]:
    """What is kept of each class of the task, by its output unit. One class at a time is held whole."""
    units = sorted({unit for _, y in situation.sample_pass(replica) for unit in y.unique().tolist()})
    found = {}
    for unit in units:
        x = torch.cat([x[y == unit] for x, y in situation.sample_pass(replica)])
        if len(x):  # a loader that shuffles and drops the rest may leave out all of a class
            found[unit] = x[selection(x, per_class)].clone()
    return found
