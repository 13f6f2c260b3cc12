"""What a group of runs found along the way, read from the CSV files of its finished runs: means over seeds."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from gr_cli.errors import one_line
from gr_cli.report.groups import Column as SettingColumn
from gr_cli.report.groups import Group, as_number
from gr_cli.report.tables import Row, Table
from gr_cli.results.charts import TOGETHER, Cells, Line
from gr_cli.results.statistics import Summary, summarised
from gr_cli.results.tables import ALL_TASKS, Column, TableFormat
from gr_cli.system.reading import finite, naming, read_table

Rows = Sequence[Mapping[str, str]]  # of a table, by column
Key = TypeVar("Key", bound=Hashable)


def matrix(group: Group) -> Cells:
    """The accuracy matrix."""
    return _over_seeds(group, "accuracy_matrix.csv", _matrix_of)


def _matrix_of(rows: Rows) -> dict[tuple[int, int], float]:
    return _distinct(
        ((int(row["after_task"]), int(name.removeprefix("task_"))), _accuracy(value))
        for row in rows
        for name, value in row.items()
        if name.startswith("task_") and value
    )


def forgotten(group: Group) -> dict[int, Summary]:
    """By task, how far accuracy is below its best before the last training (Chaudhry et al. 2018, eq. 3)."""
    return _over_seeds(group, "accuracy_matrix.csv", _forgotten_of)


def _forgotten_of(rows: Rows) -> dict[int, float]:
    cells = _matrix_of(rows)
    trainings = sorted({after for after, _ in cells})
    tasks = sorted({task for _, task in cells})
    if len(trainings) < len(tasks):
        return {}  # joint training
    *earlier, last = trainings
    return {task: max(cells[after, task] for after in earlier) - cells[last, task] for task in tasks[:-1]}


def curves(group: Group) -> list[Line]:
    """Test accuracy of each task since its training began, by how many tasks were learnt; and the mean of those."""
    return _lines(_over_seeds(group, "evaluations.csv", _curves_of))


def _lines(found: Mapping[tuple[str, float], Summary]) -> list[Line]:
    """A line for each name, in the order in which they first came up."""
    return [Line(name, _points(found, name)) for name in dict.fromkeys(name for name, _ in found)]


def _curves_of(table: Rows) -> dict[tuple[str, float], float]:
    """By name of the line and x, the number of tasks learnt, of the one in training the part that is over."""
    rows = [row for row in table if row["split"] == "test"]
    found: dict[tuple[str, float], float] = {}
    for row, x in zip(rows, _tasks_learnt(rows), strict=True):
        if x > int(row["task"]):
            found[f"task {int(row['task'])}", x] = _accuracy(row["accuracy"])
    now: dict[float, list[float]] = {}
    for (_, x), value in found.items():
        now.setdefault(x, []).append(value)
    return found | {("mean so far", x): sum(values) / len(values) for x, values in now.items()}


def _tasks_learnt(rows: Rows) -> list[float]:
    """For each row how many tasks were learnt, of the one in training the part that is over."""
    length: dict[str, int] = {}
    for row in rows:
        length[row["after_task"]] = max(int(row.get("iteration", "0")), length.get(row["after_task"], 0))
    parts = [
        int(row.get("iteration", "0")) / length[row["after_task"]] if length[row["after_task"]] else 1.0 for row in rows
    ]
    return [round(int(row["after_task"]) + part, 6) for row, part in zip(rows, parts, strict=True)]


def measured(group: Group, table: TableFormat) -> dict[Column, list[Line]]:
    """What an evaluation measured, by column: a line for each thing that rows are about (a task, a class), by how many
    tasks were learnt; all tasks together come last. All columns have the same lines, some perhaps without a point."""
    columns = [column for column in table.values if column.unit != "samples"]

    def read(rows: Rows) -> dict[tuple[str, tuple[str, ...], float], float]:
        return _distinct(
            ((column.name, tuple(_label(row[key]) for key in table.keys), x), finite(row[column.name]))
            for column in columns
            for row, x in zip(rows, _tasks_learnt(rows), strict=True)
            if row[column.name]
        )

    found = _over_seeds(group, f"{table.name}.csv", read, table.name)
    about = sorted({key for _, key, _ in found}, key=lambda key: [(part == ALL_TASKS, len(part), part) for part in key])
    panels = {}
    for column in columns if about else ():
        mine = {(key, x): summary for (name, key, x), summary in found.items() if name == column.name}
        panels[column] = [
            Line(" · ".join(map(_part, table.keys, key)) or TOGETHER, _points(mine, key)) for key in about
        ]
    return panels


def counted(group: Group, table: TableFormat) -> dict[tuple[str, str], Summary]:
    """The first value of a table of counts by its last two keys, after the last task; where a seed has no row, 0."""
    (row_key, column_key), value = table.keys[-2:], table.values[0].name

    def read(rows: Rows) -> dict[tuple[str, str], float]:
        last = max((int(row["after_task"]) for row in rows), default=0)
        now = [row for row in rows if int(row["after_task"]) == last]
        return _distinct(((_label(row[row_key]), _label(row[column_key])), finite(row[value])) for row in now)

    return _over_seeds(group, f"{table.name}.csv", read, table.name, absent=0.0)


def _label(text: str) -> str:
    """What a row is about, on one line and not long; numbers as one writes them."""
    return str(int(text)) if text.lstrip("-").isdecimal() else one_line(text)[:100]


def _part(key: str, value: str) -> str:
    return TOGETHER if value == ALL_TASKS else f"{key} {value}"


def losses(group: Group) -> list[Line]:
    """Each loss term by iteration, counted through all tasks."""
    return _lines(_over_seeds(group, "history.csv", _losses_of))


def _losses_of(rows: Rows) -> dict[tuple[str, float], float]:
    found: dict[tuple[str, float], float] = {}
    before, task, x = 0, None, 0
    for row in rows:
        if row["task"] != task:
            before, task = x, row["task"]
        x = before + int(row["iteration"])
        terms = {name: value for name, value in row.items() if name not in ("task", "iteration") and value}
        found |= {(one_line(name), float(x)): finite(value) for name, value in terms.items()}
    return found


def _over_seeds(
    group: Group,
    table: str,
    read: Callable[[Rows], Mapping[Key, float]],
    described: str = "",
    absent: float | None = None,
) -> dict[Key, Summary]:
    """Means of what is read from a table of each finished run, of those that have the one that is `described`; a value
    that a run does not have counts as `absent`, or not at all. A run whose table is broken takes note of that."""
    values: list[Mapping[Key, float]] = []
    for run in group.finished.values():
        if not described or described in run.tables:
            path = run.path / table
            with run.leaving_out(table):
                rows = read_table(path)
                with naming(path):
                    found = read(rows)
                run.folder.check_file(table, run.status)
                values.append(found)
    listed = {
        key: [mine.get(key, absent) for mine in values] for key in dict.fromkeys(key for v in values for key in v)
    }
    summaries = {key: summarised([value for value in some if value is not None]) for key, some in listed.items()}
    return {key: summary for key, summary in summaries.items() if summary is not None}


def _distinct(pairs: Iterable[tuple[Key, float]]) -> dict[Key, float]:
    """Values by what they are of.

    Raises:
        ValueError: there are two of one.
    """
    listed = list(pairs)
    found = dict(listed)
    if len(found) < len(listed):
        raise ValueError("has two rows of one place")
    return found


def _accuracy(text: str) -> float:
    value = finite(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r} is no accuracy")
    return value


def _points(found: Mapping[tuple[Key, float], Summary], name: Key) -> dict[float, Summary]:
    return dict(sorted((x, summary) for (other, x), summary in found.items() if other == name))


def sweeps(table: Table) -> list[tuple[SettingColumn, list[Line]]]:
    """The first metric against each setting of numbers in which groups differ: a line for each combination of what else
    differs."""
    found = []
    for place, column in enumerate(table.columns):
        lines: dict[tuple[str, ...], list[tuple[float, Row]]] = {}
        for row in table.rows:
            value = as_number(row.labels[place])
            if value is not None and row.metrics[table.metrics[0]] is not None:
                lines.setdefault((*row.labels[:place], *row.labels[place + 1 :]), []).append((value, row))
        longer = {key: sorted(rows, key=lambda pair: pair[0]) for key, rows in lines.items() if len(rows) > 1}
        if longer:
            names = _told_apart(list(longer))
            drawn = [
                Line(name, _metric(rows, table.metrics[0])) for name, rows in zip(names, longer.values(), strict=True)
            ]
            found.append((column, drawn))
    return found


def _metric(rows: Sequence[tuple[float, Row]], metric: str) -> dict[float, Summary]:
    return {value: summary for value, row in rows if (summary := row.metrics[metric]) is not None}


def _told_apart(keys: Sequence[tuple[str, ...]]) -> list[str]:
    """Names of lines: what is not the same in all."""
    differ = [i for i in range(len(keys[0])) if len({key[i] for key in keys}) > 1] or [0]
    return [" · ".join(key[i] for i in differ) for key in keys]
