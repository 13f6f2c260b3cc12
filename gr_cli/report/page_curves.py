"""Curves, matrices and counts of configurations as plain values for the script of the page.

A *family* is a set of curves with one x axis: test accuracy, forgetting, losses, and each table of an evaluation. It
has columns (what is measured), and curves by name (a task, a class, all together). Values are as people see them:
fractions in percent, rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gr_cli.report import series
from gr_cli.report.groups import Group
from gr_cli.results.accuracy import ACCURACY
from gr_cli.results.chart_style import TASKS_LEARNED
from gr_cli.results.statistics import SIGNED_UNIT, Bounds, Summary, summarize
from gr_cli.results.tables import ALL_TASKS, FRACTION, Column, TableFormat, display_factor, name_with_unit

MAX_DETAILS = 300_000  # numbers of the curves of single tasks and classes, and of matrices, over all configurations
_MAX_POINTS = 60  # of a loss curve
_MAX_SIDE = 50  # rows and columns of a matrix
_MEAN_CURVE = "mean so far"
_SIGNIFICANT_DIGITS = 4  # of numbers other than fractions
Values = Mapping[int, float]  # by seed
Point = tuple[str, str, float]  # column, curve, x


def shown(value: float | None, unit: str) -> float | None:
    """A number as the page shows it: percent with two decimals, others with four digits; None for NaN and infinity."""
    if value is None or not abs(value) < float("inf"):
        return None
    return round(value * display_factor(unit), 2) if unit == FRACTION else float(f"{value:.{_SIGNIFICANT_DIGITS}g}")


def shown_statistics(summary: Summary | None, unit: str) -> list[float | None] | None:
    """Mean and ends of the interval, None where there is no interval; None without values."""
    if summary is None:
        return None
    return [shown(value, unit) for value in (summary.mean, *(summary.interval or (None, None)))]


def shown_bounds(bounds: Bounds, unit: str) -> dict[str, float | None]:
    """Ends of a range as the page shows numbers."""
    return {"low": shown(bounds.low, unit), "high": shown(bounds.high, unit)}


@dataclass
class Family:
    """Curves with the same x axis.

    Attributes:
        name: Identifier: the name of the CSV file.
        title: Heading.
        x: Label of the x axis.
        columns: What is measured; columns that are not among them are losses.
        read: Returns values by (column, curve, x) for each seed of a group.
        summary_curve: The curve that every configuration has; others are left out of large pages.
        description: A sentence for readers.
        bounds: Range of possible values by column, where it is not that of the column.
        curves: Names of the curves of all configurations so far, as keys.
        measured: Names of the columns that some configuration so far has values in.
    """

    name: str
    title: str
    x: str
    columns: list[Column]
    read: Callable[[Group], dict[int, dict[Point, float]]]
    summary_curve: str
    description: str = ""
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    curves: dict[str, None] = field(default_factory=dict)
    measured: set[str] = field(default_factory=set)

    def as_dict(self) -> dict[str, Any]:
        """Texts and ranges of the family."""
        columns = [
            {
                "name": column.name,
                "label": name_with_unit(column.name, column.unit),
                "meaning": column.meaning,
                "better": column.direction,
                "percent": column.unit == FRACTION,
                **shown_bounds(self._bounds_of(column), column.unit),
            }
            for column in self.columns
            if column.name in self.measured
        ]
        texts = {"name": self.name, "title": self.title, "x": self.x, "description": self.description}
        return {
            **texts,
            "columns": columns,
            "curves": sorted(self.curves, key=self._curve_order),
            "summary": self.summary_curve,
        }

    def _curve_order(self, curve: str) -> tuple[bool, int, str]:
        """Numbered curves by number, the summary curve last."""
        return (curve == self.summary_curve, len(curve), curve)

    def _bounds_of(self, column: Column) -> Bounds:
        return self.bounds.get(column.name, column.bounds)

    def curves_of(self, group: Group, detailed: bool) -> tuple[dict[str, dict[str, Any]], int]:
        """Curves of a group by column and name, and how many numbers they have.

        Args:
            group: The group.
            detailed: Whether to return all curves, or the summary curve only.
        """
        by_curve: dict[tuple[str, str], dict[float, dict[int, float]]] = {}
        for seed, values in self.read(group).items():
            self.curves |= dict.fromkeys(curve for _, curve, _ in values)
            self.measured |= {column for column, _, _ in values}
            known = {column.name for column in self.columns}
            self.columns += [
                Column(name, "", "", "lower")
                for name in dict.fromkeys(name for name, *_ in values)
                if name not in known
            ]
            for (column, curve, x), value in values.items():
                if detailed or curve == self.summary_curve:
                    by_curve.setdefault((column, curve), {}).setdefault(x, {})[seed] = value
        columns = {column.name: column for column in self.columns}
        result: dict[str, dict[str, Any]] = {}
        for (column, curve), points in by_curve.items():
            result.setdefault(column, {})[curve] = _curve(
                dict(sorted(points.items())),
                columns[column].unit,
                self._bounds_of(columns[column]),
                len(group.finished) > 1,
            )
        return result, sum(len(points) * (3 + len(group.finished)) for points in by_curve.values())


def _curve(points: Mapping[float, Values], unit: str, bounds: Bounds, by_seed: bool) -> dict[str, Any]:
    """A curve: x, mean, and the values by seed if asked for; ends of intervals where there are some."""
    summaries = [summarize(list(values.values()), bounds) for values in points.values()]
    statistics = [shown_statistics(summary, unit) or [None] * 3 for summary in summaries]
    seeds = sorted({seed for values in points.values() for seed in values})
    curve: dict[str, Any] = {"x": list(points), "mean": [point[0] for point in statistics]}
    if any(point[1] is not None for point in statistics):
        curve |= {"low": [point[1] for point in statistics], "high": [point[2] for point in statistics]}
    if by_seed:
        curve["seeds"] = {seed: [shown(values.get(seed), unit) for values in points.values()] for seed in seeds}
    return curve


def families(formats: Sequence[TableFormat]) -> list[Family]:
    """The families of a page: accuracy, forgetting, losses, and the tables with layout `lines`."""
    accuracy = Column("accuracy", "share of test samples that are classified correctly", FRACTION, "higher")
    forgetting = Column("forgetting", "best accuracy before the last task minus final accuracy", FRACTION, "lower")
    result = [
        Family(ACCURACY.name, "Accuracy", TASKS_LEARNED, [accuracy], _read_accuracy, _MEAN_CURVE),
        Family(
            "forgetting",
            "Forgetting",
            "task",
            [forgetting],
            _read_forgetting,
            "by task",
            bounds={"forgetting": SIGNED_UNIT},
        ),
        Family("history", "Losses", "iteration over all tasks", [], _read_losses, "loss"),
    ]
    for table in formats:
        if table.layout == "lines":
            title = table.name.replace("_", " ").capitalize()
            last = series.curve_name(table, [ALL_TASKS for _ in table.key_names])
            columns = series.measured_columns(table)
            result.append(Family(table.name, title, TASKS_LEARNED, columns, _reader(table), last, table.description))
    return result


def _read_accuracy(group: Group) -> dict[int, dict[Point, float]]:
    return {
        seed: {("accuracy", curve, x): value for (curve, x), value in values.items()}
        for seed, values in series.accuracies_by_seed(group).items()
    }


def _read_forgetting(group: Group) -> dict[int, dict[Point, float]]:
    return {
        seed: {("forgetting", "by task", float(task)): value for task, value in values.items()}
        for seed, values in series.forgetting_by_seed(group).items()
    }


def _read_losses(group: Group) -> dict[int, dict[Point, float]]:
    """Losses at evenly chosen iterations, the last one among them."""
    result: dict[int, dict[Point, float]] = {}
    for seed, values in series.losses_by_seed(group).items():
        iterations = set(evenly(sorted({x for _, x in values}), _MAX_POINTS))
        result[seed] = {(term, "loss", x): value for (term, x), value in values.items() if x in iterations}
    return result


def _reader(table: TableFormat) -> Callable[[Group], dict[int, dict[Point, float]]]:
    names: dict[tuple[str, ...], str] = {}

    def read(group: Group) -> dict[int, dict[Point, float]]:
        by_seed = series.measures_by_seed(group, table)
        for key in sorted({key for values in by_seed.values() for _, key, _ in values}, key=series.key_order):
            names.setdefault(key, series.curve_name(table, key))
        return {
            seed: {(column, names[key], x): value for (column, key, x), value in values.items()}
            for seed, values in by_seed.items()
        }

    return read


def evenly(values: Sequence[Any], number: int) -> list[Any]:
    """At most `number` of `values`, evenly chosen, the last one among them."""
    step = -(-len(values) // number) or 1
    return list(values[::-1][::step][::-1])


def matrix_of(group: Group) -> dict[str, Any] | None:
    """Accuracy matrix of a group, mean and by seed, in percent; large ones at evenly chosen tasks."""
    by_seed = series.matrices_by_seed(group)
    cells = {cell for matrix in by_seed.values() for cell in matrix}
    if not cells:
        return None
    rows = evenly(sorted({i for i, _ in cells}), _MAX_SIDE)
    columns = evenly(sorted({j for _, j in cells}), _MAX_SIDE)

    def mean(cell: tuple[int, int]) -> float | None:
        summary = summarize([matrix[cell] for matrix in by_seed.values() if cell in matrix])
        return None if summary is None else shown(summary.mean, FRACTION)

    result: dict[str, Any] = {"rows": rows, "columns": columns}
    result["mean"] = [[mean((i, j)) for j in columns] for i in rows]
    if len(group.finished) > 1:
        result["seeds"] = {
            seed: [[shown(matrix.get((i, j)), FRACTION) for j in columns] for i in rows]
            for seed, matrix in by_seed.items()
        }
    return result


def counts_of(group: Group, table: TableFormat) -> dict[str, Any] | None:
    """Counts after the last task by the last two keys of a table: mean over seeds. None if there are too many."""
    counts = series.mean_counts(group, table)
    rows, columns = (sorted({key[axis] for key in counts}, key=lambda text: (len(text), text)) for axis in (0, 1))
    if not counts or max(len(rows), len(columns)) > _MAX_SIDE:
        return None
    cells = [[counts[row, column].mean if (row, column) in counts else 0.0 for column in columns] for row in rows]
    return {"rows": rows, "columns": columns, "mean": [[shown(value, "") for value in row] for row in cells]}
