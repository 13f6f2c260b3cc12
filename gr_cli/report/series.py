"""Curves and matrices of a group, from the CSV files of its finished runs: statistics over seeds.

Tasks are numbered from 0.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from gr_cli.errors import one_line
from gr_cli.report.groups import Group, parse_number
from gr_cli.report.groups import SettingColumn as SettingColumn
from gr_cli.report.tables import ReportRow, ReportTable
from gr_cli.results.accuracy import ACCURACY
from gr_cli.results.curves import ALL_TASKS_LINE, Curve, MatrixCells
from gr_cli.results.discovery import CsvRows
from gr_cli.results.statistics import UNBOUNDED, UNIT_INTERVAL, Bounds, Summary, summarize
from gr_cli.results.tables import ALL_TASKS, Column, TableFormat
from gr_cli.system.reading import parse_finite_float

Key = TypeVar("Key", bound=Hashable)


def accuracy_matrix(group: Group) -> MatrixCells:
    """Accuracy by (after task, task), both from 0."""
    return _mean_over_seeds(group, "accuracy_matrix", _parse_matrix, bounds=lambda _: UNIT_INTERVAL)


def _parse_matrix(rows: CsvRows) -> dict[tuple[int, int], float]:
    return _dict_without_duplicates(
        ((int(row["after_task"]), int(name.removeprefix("task_"))), _parse_accuracy(value))
        for row in rows
        for name, value in row.items()
        if name.startswith("task_") and value
    )


def _parse_forgetting(rows: CsvRows) -> dict[int, float]:
    cells = _parse_matrix(rows)
    trainings = sorted({after for after, _ in cells})
    tasks = sorted({task for _, task in cells})
    if len(trainings) < len(tasks):
        return {}  # joint training
    *earlier, last = trainings
    forgetting = {}
    for task in tasks[:-1]:
        # Before a task is learned it may not be evaluated; afterwards the maximum needs all accuracies.
        if (last, task) in cells and all((after, task) in cells for after in earlier if after >= task):
            best = max(cells[after, task] for after in earlier if (after, task) in cells)
            forgetting[task] = best - cells[last, task]
    return forgetting


def accuracy_curves(group: Group) -> list[Curve]:
    """Test accuracy of each task from the start of its training, by number of tasks learned.

    The last curve is the mean over the tasks so far, where all of them were evaluated.
    """
    return _curves(_mean_over_seeds(group, "evaluations", _parse_accuracy_curves, bounds=lambda _: UNIT_INTERVAL))


def _curves(points: Mapping[tuple[str, float], Summary]) -> list[Curve]:
    """A curve for each name, in the order of first appearance, from statistics by (name, x)."""
    return [Curve(name, curve) for name, curve in _points_by_key(points).items()]


def _parse_accuracy_curves(table: CsvRows) -> dict[tuple[str, float], float]:
    """Accuracy by (name of the curve, number of tasks learned)."""
    rows = [row for row in table if row["split"] == "test"]
    accuracies: dict[tuple[str, float], float] = {}
    for row, x in zip(rows, _tasks_learned(rows), strict=True):
        if x > int(row["task"]):
            accuracies[f"task {int(row['task'])}", x] = _parse_accuracy(row["accuracy"])
    values_by_x: dict[float, list[float]] = {}
    for (_, x), value in accuracies.items():
        values_by_x.setdefault(x, []).append(value)
    tasks = sorted({int(row["task"]) for row in rows})
    means = {
        ("mean so far", x): sum(values) / len(values)
        for x, values in values_by_x.items()
        if len(values) == bisect_left(tasks, x)
    }
    return accuracies | means


def _tasks_learned(rows: CsvRows) -> list[float]:
    """The number of tasks learned at the time of each row; the task in training counts by its share of iterations."""
    iterations: dict[str, int] = {}
    for row in rows:
        iterations[row["after_task"]] = max(int(row.get("iteration", "0")), iterations.get(row["after_task"], 0))
    shares = [
        int(row.get("iteration", "0")) / iterations[row["after_task"]] if iterations[row["after_task"]] else 1.0
        for row in rows
    ]
    return [round(int(row["after_task"]) + share, 6) for row, share in zip(rows, shares, strict=True)]


def table_formats(table: ReportTable) -> list[TableFormat]:
    """Formats of all tables of finished runs but the accuracy table; for equal names, that of the first run."""
    runs = [run for row in table.rows for run in row.group.finished.values()]
    formats = {name: table_format for run in reversed(runs) for name, table_format in run.tables.items()}
    return [formats[name] for name in sorted(formats) if name != ACCURACY.name]


def measured_curves(group: Group, table: TableFormat) -> dict[Column, list[Curve]]:
    """The value columns of an evaluation's table over training, except counts of samples.

    Returns:
        By column a curve for each combination of keys (a task, a class), by number of tasks learned; that of all tasks
        together comes last. All columns have the same curves; some may have no points.
    """
    columns = measured_columns(table)
    bounds = {column.name: column.bounds for column in columns}
    parse = partial(_parse_measures, table)
    points = _mean_over_seeds(group, table.name, parse, table.name, bounds=lambda key: bounds[key[0]])
    keys = sorted({key for _, key, _ in points}, key=key_order)
    panels = {}
    for column in columns if keys else ():
        curves = _points_by_key({(key, x): point for (name, key, x), point in points.items() if name == column.name})
        panels[column] = [Curve(curve_name(table, key), curves.get(key, {})) for key in keys]
    return panels


def measured_columns(table: TableFormat) -> list[Column]:
    """The value columns of an evaluation's table, except counts of samples."""
    return [column for column in table.value_columns if column.unit != "samples"]


def curve_name(table: TableFormat, key: Sequence[str]) -> str:
    """Name of the curve for the values of a table's key columns: `task 0`, or that of all tasks together."""
    return " · ".join(map(_key_with_name, table.key_names, key)) or ALL_TASKS_LINE


def key_order(key: Sequence[str]) -> list[tuple[bool, int, str]]:
    """Sort key for the values of key columns: numbers by value, all tasks together last."""
    return [(value == ALL_TASKS, len(value), value) for value in key]


def _parse_measures(table: TableFormat, rows: CsvRows) -> dict[tuple[str, tuple[str, ...], float], float]:
    """Values by (column, values of the key columns, number of tasks learned)."""
    names, times = table.key_names, _tasks_learned(rows)
    keys = [tuple(_format_key(row[name]) for name in names) for row in rows]
    return _dict_without_duplicates(
        ((column.name, key, x), parse_finite_float(row[column.name]))
        for column in measured_columns(table)
        for row, key, x in zip(rows, keys, times, strict=True)
        if row[column.name]
    )


def mean_counts(group: Group, table: TableFormat) -> dict[tuple[str, str], Summary]:
    """The first value column of a table of counts after the last task, by the last two keys; 0 for a missing row."""
    return _mean_over_seeds(group, table.name, partial(_parse_counts, table), table.name, absent=0.0)


def _parse_counts(table: TableFormat, rows: CsvRows) -> dict[tuple[str, str], float]:
    (row_key, column_key), value = table.key_names[-2:], table.value_columns[0].name
    last_task = max((int(row["after_task"]) for row in rows), default=0)
    last_rows = [row for row in rows if int(row["after_task"]) == last_task]
    return _dict_without_duplicates(
        ((_format_key(row[row_key]), _format_key(row[column_key])), parse_finite_float(row[value])) for row in last_rows
    )


def _format_key(value: str) -> str:
    """The value of a key column on one line; whole numbers without leading zeros."""
    if value.lstrip("-").isdecimal():
        return str(int(value))
    return one_line(value)[:100]


def _key_with_name(name: str, value: str) -> str:
    return ALL_TASKS_LINE if value == ALL_TASKS else f"{name} {value}"


def loss_curves(group: Group) -> list[Curve]:
    """Each loss term by iteration, counted over all tasks."""
    return _curves(_mean_over_seeds(group, "history", _parse_losses))


def _parse_losses(rows: CsvRows) -> dict[tuple[str, float], float]:
    losses: dict[tuple[str, float], float] = {}
    task_start, task, x = 0, None, 0
    for row in rows:
        if row["task"] != task:
            task_start, task = x, row["task"]
        x = task_start + int(row["iteration"])
        terms = {name: value for name, value in row.items() if name not in ("task", "iteration") and value}
        losses |= {(one_line(name), float(x)): parse_finite_float(value) for name, value in terms.items()}
    return losses


# --- values by seed, of the runs whose tables could be read


def matrices_by_seed(group: Group) -> dict[int, Mapping[tuple[int, int], float]]:
    """Accuracy matrices: accuracy by (after task, task)."""
    return _values_by_seed(group, "accuracy_matrix", _parse_matrix)


def forgetting_by_seed(group: Group) -> dict[int, Mapping[int, float]]:
    """Forgetting by task (from 0): best accuracy before the last training minus final accuracy.

    Chaudhry et al. 2018, eq. 3. Empty for joint training; the last task has none, nor has a task that was not evaluated
    each time after it was learned.
    """
    return _values_by_seed(group, "accuracy_matrix", _parse_forgetting)


def accuracies_by_seed(group: Group) -> dict[int, Mapping[tuple[str, float], float]]:
    """Test accuracy by (name of the curve, number of tasks learned), as in `accuracy_curves`."""
    return _values_by_seed(group, "evaluations", _parse_accuracy_curves)


def losses_by_seed(group: Group) -> dict[int, Mapping[tuple[str, float], float]]:
    """Losses by (name of the term, iteration over all tasks)."""
    return _values_by_seed(group, "history", _parse_losses)


def measures_by_seed(group: Group, table: TableFormat) -> dict[int, Mapping[tuple[str, tuple[str, ...], float], float]]:
    """Values of an evaluation's table by (column, values of the key columns, number of tasks learned)."""
    return _values_by_seed(group, table.name, partial(_parse_measures, table), table.name)


def _mean_over_seeds(
    group: Group,
    table: str,
    parse: Callable[[CsvRows], Mapping[Key, float]],
    required_table: str = "",
    absent: float | None = None,
    bounds: Callable[[Key], Bounds] = lambda _: UNBOUNDED,
) -> dict[Key, Summary]:
    """Statistics over the finished runs of a group of what `parse` returns for a table.

    Args:
        group: The group. Tables that can't be read are noted in its runs and left out.
        table: Name of the table.
        parse: Returns values by key.
        required_table: Leave out runs without this table; empty: none.
        absent: Value of a key that a run does not have; None leaves the run out for that key.
        bounds: Range of possible values of a key.
    """
    values_by_run = list(_values_by_seed(group, table, parse, required_table).values())
    keys = dict.fromkeys(key for values in values_by_run for key in values)
    values_by_key = {key: [values.get(key, absent) for values in values_by_run] for key in keys}
    summaries = {
        key: summarize([value for value in values if value is not None], bounds(key))
        for key, values in values_by_key.items()
    }
    return {key: summary for key, summary in summaries.items() if summary is not None}


def _values_by_seed(
    group: Group, table: str, parse: Callable[[CsvRows], Mapping[Key, float]], required_table: str = ""
) -> dict[int, Mapping[Key, float]]:
    """What `parse` returns for a table of each finished run, by seed; arguments as for `_mean_over_seeds`."""
    values_by_seed: dict[int, Mapping[Key, float]] = {}
    for seed, run in group.finished.items():
        if not required_table or required_table in run.tables:
            parsed = run.parse_table(table, parse)
            if parsed is not None:
                values_by_seed[seed] = parsed
    return values_by_seed


def _dict_without_duplicates(pairs: Iterable[tuple[Key, float]]) -> dict[Key, float]:
    """Values by key.

    Raises:
        ValueError: A key occurs twice.
    """
    pairs = list(pairs)
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("has two rows with the same keys")
    return values


def _parse_accuracy(text: str) -> float:
    value = parse_finite_float(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r} must be an accuracy in [0, 1]")
    return value


def _points_by_key(points: Mapping[tuple[Key, float], Summary]) -> dict[Key, dict[float, Summary]]:
    """Statistics by key and x, in the order of x, from those by (key, x)."""
    by_key: dict[Key, dict[float, Summary]] = {}
    for (key, x), summary in points.items():
        by_key.setdefault(key, {})[x] = summary
    return {key: dict(sorted(curve.items())) for key, curve in by_key.items()}


def setting_curves(table: ReportTable) -> list[tuple[SettingColumn, list[Curve]]]:
    """The first metric by each numeric setting in which groups differ: a curve for each combination of other settings.

    Combinations with a single value of the setting are left out.
    """
    result = []
    for i, column in enumerate(table.columns):
        rows_by_others: dict[tuple[str, ...], list[tuple[float, ReportRow]]] = {}
        for row in table.rows:
            value = parse_number(row.labels[i])
            if value is not None and row.metrics[table.metrics[0]] is not None:
                rows_by_others.setdefault((*row.labels[:i], *row.labels[i + 1 :]), []).append((value, row))
        several = {key: sorted(rows, key=lambda pair: pair[0]) for key, rows in rows_by_others.items() if len(rows) > 1}
        if several:
            names = _distinguishing_names(list(several))
            curves = [
                Curve(name, _metric_points(rows, table.metrics[0]))
                for name, rows in zip(names, several.values(), strict=True)
            ]
            result.append((column, curves))
    return result


def _metric_points(rows: Sequence[tuple[float, ReportRow]], metric: str) -> dict[float, Summary]:
    return {value: summary for value, row in rows if (summary := row.metrics[metric]) is not None}


def _distinguishing_names(keys: Sequence[tuple[str, ...]]) -> list[str]:
    """Names of curves: the parts of their keys that differ."""
    differ = [i for i in range(len(keys[0])) if len({key[i] for key in keys}) > 1] or [0]
    return [" · ".join(key[i] for i in differ) for key in keys]
