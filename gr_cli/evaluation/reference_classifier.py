"""A small network that learnt all classes of a benchmark at once, and so can say what a dream shows.

It is trained once for the same data, whatever the order of the classes, and kept on disk. No run learns from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil, prod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.benchmarks.base import Benchmark, Samples, Task
from gr_cli.evaluation.fidelity import Balls
from gr_cli.nn.batch_order import Order
from gr_cli.nn.convolutions import Convolutions, doubling
from gr_cli.nn.initialization import start_linear, start_relu
from gr_cli.nn.random_streams import Draws, seeded
from gr_cli.nn.supervised import learn_classes
from gr_cli.system.cache import Tensors, digest, kept
from gr_cli.system.devices import flushing_denormals, repeatable, thread_limit
from gr_cli.system.messages import tell

_VERSION = 1  # of what is computed here: another one has nothing to do with what was kept
_FEATURES = 64
_BATCH, _LR, _PASSES, _MOST, _LEAST = 64, 0.003, 20, 1000, 100  # iterations: so many passes, within bounds
_LOOKED_AT = 2000  # samples that tell the scale of inputs and features
_LONG = 500_000  # values of a sample times iterations: from there on it takes several seconds
_MANY = 1024  # values of a sample
_AT_ONCE = 256  # samples that are looked at together


class JudgeNetwork(nn.Module):
    """Samples (B, *shape) to logits (B, classes), by features that are scaled so that real ones have variance 1 in all.

    Images are seen twice, by convolutions and pixel by pixel, because the pixels of permuted ones have no neighbours.
    """

    mean: Tensor
    deviation: Tensor
    spread: Tensor

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        size = prod(shape)
        self.maps: Convolutions | None = None
        if len(shape) == 3:
            self.maps = Convolutions(shape[0], [channels // 2 for channels in doubling(*shape[1:])])
            with torch.no_grad():
                size += self.maps(torch.zeros(1, *shape)).shape[1]
        self.hidden, self.output = nn.Linear(size, _FEATURES), nn.Linear(_FEATURES, classes)
        start_relu(self.hidden)
        start_linear(self.output)
        # Of images, for each channel; of vectors, for each value.
        like = torch.zeros(shape[0], 1, 1) if len(shape) == 3 else torch.zeros(shape)
        self.register_buffer("mean", like)
        self.register_buffer("deviation", torch.ones_like(like))
        self.register_buffer("spread", torch.ones(()))

    def activations(self, x: Tensor) -> Tensor:
        """(B, *shape) -> what the last layer sees, (B, F)."""
        x = (x - self.mean) / self.deviation
        # Of many values each counts less, or a step of learning would change their sum too much.
        flat = x.flatten(1) * min(1.0, _MANY / x[0].numel())
        seen = [flat] if self.maps is None else [flat, self.maps(x)]
        return F.relu(self.hidden(torch.cat(seen, 1)))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.output(self.activations(x))
        return logits

    def look_at_inputs(self, x: Tensor) -> None:
        """Take note of where typical samples lie."""
        over = (0, *range(2, x.dim())) if x.dim() == 4 else (0,)
        deviation = x.std(over, correction=0)
        self.mean.copy_(x.mean(over).view_as(self.mean))
        self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0).view_as(self.deviation))

    def look_at_features(self, x: Tensor) -> None:
        """Take note of how far the features of typical samples lie apart."""
        total = self.activations(x).var(0, correction=0).sum()
        self.spread.copy_(torch.where(total > 0, total, 1.0).sqrt())


# --- the classes, as it tells them apart whatever the scenario calls them


@dataclass(frozen=True)
class Classes:
    """What there is to tell apart in a benchmark: a class of one data set in one view of it is the same in all tasks.

    `first` (C,): the first task that has it. `units` bool (C, U): the output units that stand for it.
    `of`: for each task, the numbers (k,) of its classes in the order of their labels.
    """

    first: Tensor
    units: Tensor
    of: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.first)


def classes_of(benchmark: Benchmark, offsets: list[int], units: int) -> Classes:
    """The classes of a benchmark whose tasks' labels begin at `offsets`, of so many output units.

    Their numbers do not depend on the order in which a data set's classes come.
    """
    views = _views(benchmark)
    keys = [[(view, name) for name in task.classes] for view, task in zip(views, benchmark.tasks, strict=True)]
    numbers = {key: i for i, key in enumerate(sorted({key for mine in keys for key in mine}))}
    of = [[numbers[key] for key in mine] for mine in keys]
    first = [next(t for t, mine in enumerate(of) if number in mine) for number in range(len(numbers))]
    table = torch.zeros(len(numbers), units, dtype=torch.bool)
    for offset, mine in zip(offsets, of, strict=True):
        table[mine, range(offset, offset + len(mine))] = True
    device = benchmark.tasks[0].train.y.device
    return Classes(torch.tensor(first).to(device), table.to(device), tuple(torch.tensor(m).to(device) for m in of))


def _views(benchmark: Benchmark) -> list[int]:
    """For each task, which view of which samples it has, counted as they come."""
    numbers: dict[tuple[int, int], int] = {}
    found: list[int] = []
    for task in benchmark.tasks:
        if task.repeats is not None:
            found.append(found[task.repeats])
            continue
        key = (id(task.train.store), id(task.train.transform))
        found.append(numbers.setdefault(key, len(numbers)))
    return found


# --- what it learns from


@dataclass(frozen=True)
class _Lessons:
    """The training samples of all tasks by view, labelled by number of class, in an order of their own."""

    views: tuple[Samples, ...]

    @classmethod
    def of(cls, benchmark: Benchmark, classes: Classes, offsets: list[int]) -> _Lessons:
        by_view: dict[int, list[tuple[Samples, Tensor]]] = {}
        for view, task in zip(_views(benchmark), benchmark.tasks, strict=True):
            by_view.setdefault(view, []).append((task.train, _numbers(task, classes, offsets)))
        views = []
        for parts in by_view.values():
            whole = parts[0][0]
            rows = torch.cat([part.rows(torch.arange(len(part), device=part.y.device)) for part, _ in parts])
            order = rows.argsort(stable=True)
            y = torch.cat([numbers for _, numbers in parts])
            views.append(Samples(whole.store, y[order], whole.transform, rows[order]))
        return cls(tuple(views))

    def __len__(self) -> int:
        return sum(map(len, self.views))

    @property
    def iterations(self) -> int:
        """How long they are learnt."""
        return min(_MOST, max(_LEAST, ceil(_PASSES * len(self) / _BATCH)))

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The samples at `index`, view by view: x float32, y."""
        x, y, first = [], [], 0
        for view in self.views:
            mine = index[(index >= first) & (index < first + len(view))] - first
            if len(mine):
                part = view.batch(mine.to(view.y.device))
                x.append(part[0].float())
                y.append(part[1])
            first += len(view)
        return torch.cat(x), torch.cat(y)

    def some(self, most: int) -> Tensor:
        """At most so many samples, in equal steps through all of them."""
        number = min(most, len(self))
        return self.batch(torch.arange(number) * len(self) // number)[0]

    def name(self) -> str:
        """What tells these samples from others: the stores, which of their rows, and how some of them are seen."""
        stores: dict[int, str] = {}
        parts: list[object] = []
        for view in self.views:
            if id(view.store) not in stores:
                stores[id(view.store)] = digest(view.store)
            parts += [
                stores[id(view.store)],
                view.index,
                view.y,
                view.thinned(_BATCH).batch(torch.arange(min(_BATCH, len(view))))[0],
            ]
        return digest(*parts)


def _numbers(task: Task, classes: Classes, offsets: list[int]) -> Tensor:
    """The number of the class of each training sample of a task, (N,); some may be lent from other tasks."""
    y = task.train.y
    if task.origin is None:
        return classes.of[task.id][y - offsets[task.id]]
    origin, found = task.origin.to(y.device), torch.empty_like(y)
    for owner in origin.unique().tolist():
        mine = origin == owner
        found[mine] = classes.of[owner][y[mine] - offsets[owner]]
    return found


def judge_network(benchmark: Benchmark, classes: Classes, offsets: list[int], cache_root: Path) -> JudgeNetwork:
    """The network that learnt the training samples of all tasks of `benchmark` at once, or what was kept of it."""
    lessons, device = _Lessons.of(benchmark, classes, offsets), benchmark.tasks[0].train.y.device
    with seeded(0, "initialisation.judge"):
        network = JudgeNetwork(benchmark.spec.shape, len(classes))
    name = digest(_VERSION, torch.__version__, device.type, network, lessons.name())
    network.to(device)

    def learnt() -> Tensors:
        if network.maps is not None and lessons.iterations * benchmark.spec.size >= _LONG:
            tell(f"a network that judges dreams is trained, and kept in {cache_root / 'judges'}")
        _train(network, lessons)
        return dict(network.state_dict())

    network.load_state_dict(kept(cache_root / "judges" / f"{name}.pt", learnt))
    return network.eval().requires_grad_(False)


def _train(network: JudgeNetwork, lessons: _Lessons) -> None:
    # One thread and one way of rounding: what is trained here is what another process would have kept.
    with flushing_denormals(), thread_limit(1), repeatable(network.mean.device):
        some = lessons.some(_LOOKED_AT)
        with torch.no_grad():
            network.look_at_inputs(some)
        order = Order(len(lessons), _BATCH, Draws(0), 0)
        learn_classes(network, lessons.batch, order, lessons.iterations, _LR, "the judge of dreams")
        with torch.no_grad():
            network.look_at_features(some)


# --- how it is asked


@dataclass(frozen=True)
class Real:
    """Real samples (N,) of a task: their features (N, F), and of each whether the judge knows its class."""

    features: Tensor
    known: Tensor

    @staticmethod
    def together(parts: list[Real], most: int) -> Real:
        """At most so many of all, in equal steps."""
        features, known = torch.cat([p.features for p in parts]), torch.cat([p.known for p in parts])
        number = min(most, len(known))
        index = torch.arange(number, device=known.device) * len(known) // max(1, number)
        return Real(features[index], known[index])


class Judge:
    """Looks at dreams, and at `most` real test samples of each task to compare them with.

    `offsets`: the output unit of each task's first class, of `units` in all.
    `real`, `balls`: the real samples of a task, and the balls around them.
    """

    def __init__(self, benchmark: Benchmark, offsets: list[int], units: int, most: int, cache_root: Path) -> None:
        self.classes, self.most = classes_of(benchmark, offsets, units), most
        self._network = judge_network(benchmark, self.classes, offsets, cache_root)
        self._benchmark, self._offsets = benchmark, offsets
        # Of each task they are looked at, and measured, once.
        self.real, self.balls = cache(self._real), cache(lambda task: Balls(self.real(task).features))

    @torch.no_grad()
    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What it makes of samples (N, *shape): their features (N, F), and the numbers (N,) of the classes that it
        takes them for."""
        features = torch.cat([self._network.activations(part.float()) for part in x.split(_AT_ONCE)])
        return features / self._network.spread, self._network.output(features).argmax(1)

    def _real(self, task: int) -> Real:
        """The real samples of a task."""
        parts = list(self._benchmark.tasks[task].test.thinned(self.most).batches())
        features, predicted = self.look(torch.cat([x for x, _ in parts]))
        numbers = self.classes.of[task][torch.cat([y for _, y in parts]) - self._offsets[task]]
        return Real(features, predicted == numbers)
