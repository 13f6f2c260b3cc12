"""Counts, sums and second moments of samples by class and task, from which classifiers follow in closed form.

All sums are taken in one fixed order: the samples of a class in a task, the classes of a task, the tasks. So the
statistics after a class or a task was dropped equal, bit for bit, those of a stream without it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from gr_cli.errors import ConfigError, DataError
from gr_cli.nn.class_sums import FeatureMap, class_sums
from gr_cli.nn.fixed_point import as_floats, check_sum_fits
from gr_cli.nn.symmetric import diagonal_positions, unpack

Granularity = Literal["class", "task", "total"]


@dataclass(eq=False)
class TaskStatistics:
    """The statistics of K classes of a task, in float64, or in fixed point as integers.

    Attributes:
        task: The task.
        units: Output unit of each class, ascending.
        counts: Number of samples of each class, (K,).
        sums: Sum of the samples of each class, (K, D).
        moments: Sum of the outer products of samples with themselves, packed: of each class (K, P), or of all together
            (1, P); None where they are not kept by task.
    """

    task: int
    units: list[int]
    counts: Tensor
    sums: Tensor
    moments: Tensor | None

    @property
    def classes(self) -> list[int]:
        """Output units of the classes with samples, ascending."""
        return [unit for unit, count in zip(self.units, self.counts.tolist(), strict=True) if count]

    def packed_second_moment(self) -> Tensor:
        """Sum of the outer products of all samples with themselves, packed (P,)."""
        assert self.moments is not None
        total = self.moments[0].clone()
        for moment in self.moments[1:]:
            total += moment
        return total

    def second_moment(self) -> Tensor:
        """Sum of the outer products of all samples with themselves: (D, D)."""
        return unpack(as_floats(self.packed_second_moment(), 2), self.sums.shape[1])

    def plus(self, other: TaskStatistics) -> TaskStatistics:
        """The statistics with those of more samples of the same classes."""
        moments = None if self.moments is None or other.moments is None else self.moments + other.moments
        return replace(self, counts=self.counts + other.counts, sums=self.sums + other.sums, moments=moments)

    def without(self, classes: Collection[int]) -> TaskStatistics | None:
        """The statistics of a task without any samples of these classes; None if there are no others.

        Raises:
            ConfigError: They are not kept by class.
        """
        dropped = torch.tensor([unit in classes for unit in self.units], device=self.counts.device)
        if not self.counts[dropped].any():
            return self
        counts = self.counts.masked_fill(dropped, 0)
        if not counts.any():
            return None
        moments = self.moments
        if moments is not None:
            if len(moments) < len(self.units):
                raise not_kept("task", "the second moments of each class", "class")
            moments = moments.masked_fill(dropped.unsqueeze(1), 0)
        return TaskStatistics(self.task, self.units, counts, self.sums.masked_fill(dropped.unsqueeze(1), 0), moments)

    def less(self, removed: TaskStatistics, total: Tensor | None) -> TaskStatistics | None:
        """The statistics without the samples of one class, `removed`, in fixed point.

        Args:
            removed: Statistics of these samples.
            total: Second moments of all samples, packed, if those of the task are not kept.

        Returns:
            The statistics; None if counts, sums and second moments would be those of no samples.
        """
        row = self.units.index(removed.units[0])
        counts, sums = self.counts.clone(), self.sums.clone()
        counts[row] -= removed.counts[0]
        sums[row] -= removed.sums[0]
        moments, kept = self.moments, total
        if moments is not None and removed.moments is not None:
            moments, moment_row = moments.clone(), row if len(moments) == len(self.units) else 0
            moments[moment_row] -= removed.moments[0]
            kept = moments[moment_row]
        elif kept is not None and removed.moments is not None:
            kept = kept - removed.moments[0]
        diagonal = None if kept is None else kept[diagonal_positions(sums.shape[1])]
        by_class = moments is not None and len(moments) == len(self.units)
        if not _are_possible(int(counts[row]), sums[row], diagonal, by_class):
            return None
        return TaskStatistics(self.task, self.units, counts, sums, moments)


def _are_possible(count: int, total: Tensor, squares: Tensor | None, by_class: bool) -> bool:
    """Whether a class can have these integer statistics.

    Args:
        count: Number of its samples.
        total: Their sum (D,).
        squares: Sums of their squared values (D,), or of more samples; None: unknown.
        by_class: Whether `squares` are those of the class alone.
    """
    if count <= 0:
        nothing_left = not total.any() and (squares is None or not by_class or not squares.any())
        return count == 0 and nothing_left
    if squares is None:
        return True
    # In Python's integers: by Cauchy and Schwarz, (sum of x)^2 <= n * sum of x^2.
    return all(s * s <= count * q for s, q in zip(total.tolist(), squares.tolist(), strict=True))


@torch.no_grad()
def task_statistics(
    keep: Granularity | None,
    task: int,
    x: Tensor,
    y: Tensor,
    units: Sequence[int] = (),
    feature_map: FeatureMap | None = None,
    fixed_point: bool = False,
) -> TaskStatistics:
    """The statistics of all samples of a task.

    Args:
        keep: What second moments are computed of: each `class`, or all samples (`task`, `total`); None: none.
        task: The task.
        x: Samples (N, ...).
        y: Their output units (N,).
        units: Classes that have a row even if there are no samples of them.
        feature_map: Applied to flat samples (n, D) of a class, in float64, before anything is summed. Default: none.
        fixed_point: Whether sums are integers, of values rounded to multiples of 2**-12.
    """
    parts = (
        class_statistics(keep, task, unit, x, (y == unit).nonzero().squeeze(1), feature_map, fixed_point)
        for unit in sorted({*units, *y.unique().tolist()})
    )
    return join_classes(parts, keep)


def class_statistics(
    keep: Granularity | None,
    task: int,
    unit: int,
    x: Tensor,
    rows: Tensor,
    feature_map: FeatureMap | None = None,
    fixed_point: bool = False,
) -> TaskStatistics:
    """The statistics of one class: samples at positions `rows` of x (N, ...); other arguments as `task_statistics`."""
    class_sum, moment = class_sums(x, rows, feature_map, keep is not None, fixed_point)
    count = torch.tensor([len(rows)], device=rows.device)
    return TaskStatistics(task, [unit], count, class_sum.unsqueeze(0), None if moment is None else moment.unsqueeze(0))


def join_classes(parts: Iterable[TaskStatistics], keep: Granularity | None) -> TaskStatistics:
    """The statistics of all classes of a task from those of each, in ascending order."""
    units, counts, sums, moments = list[int](), [], [], list[Tensor]()
    for part in parts:
        task = part.task
        units += part.units
        counts.append(part.counts)
        sums.append(part.sums)
        if part.moments is not None:
            joins = keep != "class" and moments
            moments = [moments[0] + part.moments] if joins else [*moments, part.moments]
    return TaskStatistics(task, units, torch.cat(counts), torch.cat(sums), torch.cat(moments) if moments else None)


class ClassStatistics:
    """Counts, sums and, on request, second moments of samples, by class and task.

    >>> statistics = ClassStatistics(keep="class")
    >>> statistics.add(0, torch.tensor([[1.0, 2.0], [3.0, 2.0], [5.0, 0.0]]), torch.tensor([0, 0, 1]))
    >>> statistics.classes, statistics.counts.tolist(), statistics.means.tolist()
    ([0, 1], [2, 1], [[2.0, 2.0], [5.0, 0.0]])
    >>> statistics.within_class_scatter().tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    >>> statistics.drop(torch.tensor([[True, False]]))  # class 0 of task 0
    >>> statistics.second_moment().tolist()
    [[25.0, 0.0], [0.0, 0.0]]

    Args:
        keep: What second moments are kept of: each `class` of each task, each `task`, or all samples together
            (`total`). A matrix of D values takes 4 D (D + 1) bytes. The sums over all of them are the same, to the last
            bit. None: no second moments are kept.
        fixed_point: Whether sums are integers, of values rounded to multiples of 2**-12, so that single samples can be
            removed exactly.
    """

    def __init__(self, keep: Granularity | None = None, fixed_point: bool = False) -> None:
        self.keep, self.fixed_point = keep, fixed_point
        self.tasks: list[TaskStatistics] = []
        self._total: Tensor | None = None  # packed second moment of all samples, for `total`

    def add(
        self, task: int, x: Tensor, y: Tensor, units: Sequence[int] = (), feature_map: FeatureMap | None = None
    ) -> None:
        """Add all samples of a task, which is later than those before; arguments as in `task_statistics`."""
        self.append(task_statistics(self.keep, task, x, y, units, feature_map, self.fixed_point))

    def append(self, task: TaskStatistics) -> None:
        """Add the statistics of a task, which is later than those before; with `keep`, or by task for `total`.

        Raises:
            DataError: In fixed point, the sums would exceed the range of integers.
        """
        if self.fixed_point and task.moments is not None:
            kept = [each.moments for each in self.tasks if each.moments is not None]
            total = [] if self._total is None else [self._total.unsqueeze(0)]
            check_sum_fits(torch.cat([*kept, *total, task.moments])[:, diagonal_positions(task.sums.shape[1])])
        if self.keep == "total":
            assert task.moments is not None
            self._total = task.moments[0] if self._total is None else self._total + task.moments[0]
            task = replace(task, moments=None)
        self.tasks.append(task)

    # --- sums over tasks

    @property
    def classes(self) -> list[int]:
        """Output units of the classes with samples, ascending: K of them."""
        return sorted({unit for task in self.tasks for unit in task.classes})

    @property
    def size(self) -> int:
        """Number of values D."""
        return self.tasks[0].sums.shape[1]

    @property
    def counts(self) -> Tensor:
        """Number of samples of each class: float64 (K,)."""
        return self._over_tasks(lambda task: task.counts.double())

    @property
    def sums(self) -> Tensor:
        """Sum of the samples of each class: (K, D)."""
        return as_floats(self._over_tasks(lambda task: task.sums))

    @property
    def means(self) -> Tensor:
        """Mean of each class: (K, D)."""
        return self.sums / self.counts.unsqueeze(1)

    def _over_tasks(self, values: Callable[[TaskStatistics], Tensor]) -> Tensor:
        """Values (K, ...) of each class, summed over tasks in their order."""
        classes = self.classes
        row_of = {unit: row for row, unit in enumerate(classes)}
        result: Tensor | None = None
        for task in self.tasks:
            of_task = values(task)
            if result is None:
                result = of_task.new_zeros(len(classes), *of_task.shape[1:])
            rows = [row for row, unit in enumerate(task.units) if unit in row_of]
            result[[row_of[task.units[row]] for row in rows]] += of_task[rows]
        assert result is not None
        return result

    def second_moment(self) -> Tensor:
        """Sum of the outer products of all samples with themselves: (D, D)."""
        total = self._total
        if self.keep != "total":
            for task in self.tasks:
                of_task = task.packed_second_moment()
                total = of_task if total is None else total + of_task
        assert total is not None
        return unpack(as_floats(total, 2), self.size)

    def within_class_scatter(self) -> Tensor:
        """Sum of the outer products of all samples' differences from the means of their classes: (D, D)."""
        scaled = self.means * self.counts.sqrt().unsqueeze(1)
        return self.second_moment() - scaled.T @ scaled

    def class_scatter(self, unit: int) -> Tensor:
        """Sum of the outer products of the differences of a class's samples from their mean: (D, D).

        For statistics that are kept by class.
        """
        count, total = 0, self.tasks[0].sums.new_zeros(self.size)
        moment: Tensor | None = None
        for task in self.tasks:
            if unit in task.units:
                row = task.units.index(unit)
                assert task.moments is not None
                count, total = count + int(task.counts[row]), total + task.sums[row]
                moment = task.moments[row] if moment is None else moment + task.moments[row]
        assert moment is not None
        class_sum = as_floats(total)
        return unpack(as_floats(moment, 2), self.size) - torch.outer(class_sum, class_sum) / count

    # --- forgetting

    def drop(self, dropped: Tensor) -> None:
        """Drop what is kept of classes of tasks.

        Args:
            dropped: bool (T, U), the output units that are dropped from each task.

        Raises:
            ConfigError: They are not kept apart from others. Nothing is dropped then.
        """
        units = [set(row.nonzero().squeeze(1).tolist()) for row in dropped]
        remaining = [task.without(units[task.task]) for task in self.tasks]
        if self.keep == "total" and any(new is not old for new, old in zip(remaining, self.tasks, strict=True)):
            by_task = all(new in (None, old) for new, old in zip(remaining, self.tasks, strict=True))
            needed: Granularity = "task" if by_task else "class"
            raise not_kept("total", f"the second moments of each {needed}", needed)
        self.tasks = [task for task in remaining if task is not None]

    def remove(self, task: int, unit: int, x: Tensor) -> None:
        """Remove single samples of a class of a task, exactly; in fixed point.

        That they were added can't be verified: refused are samples without which the sums would be those of no samples.

        Args:
            task: The task.
            unit: Output unit of the class.
            x: The samples (N, ...).

        Raises:
            ConfigError: Sums are not in fixed point.
            DataError: The samples can't have been added.
        """
        if not self.fixed_point:
            allowed = "rounds sums, so that single samples can't be taken out of them exactly"
            raise ConfigError("strategy.arithmetic", "float64", allowed, "run with strategy.arithmetic=fixed_point")
        removed = task_statistics(self.keep, task, x, x.new_full((len(x),), unit, dtype=torch.long), (), None, True)
        position = next((i for i, each in enumerate(self.tasks) if each.task == task and unit in each.units), None)
        reduced = None if position is None else self.tasks[position].less(removed, self._total)
        if position is None or reduced is None:
            raise DataError(
                f"samples: {len(x)} such samples of output unit {unit} were not in task {task}: counts or sums would "
                "be those of no samples; hand in samples as the strategy had them, with their class"
            )
        if self._total is not None and removed.moments is not None:
            self._total = self._total - removed.moments[0]
        self.tasks[position : position + 1] = [reduced] if reduced.counts.any() else []
        self._total = self._total if self.tasks else None

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers, for a checkpoint."""
        tasks = [dict(vars(task)) for task in self.tasks]
        return {"tasks": tasks, "total": self._total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        self.tasks = [TaskStatistics(**task) for task in state["tasks"]]
        self._total = state["total"]


def not_kept(keep: Granularity, what: str, needed: Granularity) -> ConfigError:
    """The error for statistics that are kept of too much together."""
    return ConfigError("strategy.keep", keep, f"does not keep {what}", f"run with strategy.keep={needed}")
