"""What a group of runs found along the way, read from the CSV files of its finished runs: means over seeds."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from gr_cli.errors import one_line
from gr_cli.report.groups import Group, parse_number
from gr_cli.report.groups import SettingColumn as SettingColumn
from gr_cli.report.tables import ReportRow, ReportTable
from gr_cli.results.charts import ALL_TASKS_LINE, Curve, MatrixCells
from gr_cli.results.statistics import Summary, summarize
from gr_cli.results.tables import ALL_TASKS, Column, TableFormat
from gr_cli.system.reading import naming_file, parse_finite_float, read_table

CsvRows = Sequence[Mapping[str, str]]  # of a table, by column
Key = TypeVar("Key", bound=Hashable)


def accuracy_matrix(group: Group) -> MatrixCells:
    """The accuracy matrix."""
    return _mean_over_seeds(group, "accuracy_matrix.csv", _parse_matrix)


def _parse_matrix(rows: CsvRows) -> dict[tuple[int, int], float]:
    return _dict_without_duplicates(
        ((int(row["after_task"]), int(name.removeprefix("task_"))), _parse_accuracy(value))
        for row in rows
        for name, value in row.items()
        if name.startswith("task_") and value
    )


def forgetting_by_task(group: Group) -> dict[int, Summary]:
    """By task, how far accuracy is below its best before the last training (Chaudhry et al. 2018, eq. 3)."""
    return _mean_over_seeds(group, "accuracy_matrix.csv", _parse_forgetting)


def _parse_forgetting(rows: CsvRows) -> dict[int, float]:
    cells = _parse_matrix(rows)
    trainings = sorted({after for after, _ in cells})
    tasks = sorted({task for _, task in cells})
    if len(trainings) < len(tasks):
        return {}  # joint training
    *earlier, last = trainings
    return {task: max(cells[after, task] for after in earlier) - cells[last, task] for task in tasks[:-1]}


def accuracy_curves(group: Group) -> list[Curve]:
    """Test accuracy of each task since its training began, by how many tasks were learnt; and the mean of those."""
    return _curves(_mean_over_seeds(group, "evaluations.csv", _parse_accuracy_curves))


def _curves(found: Mapping[tuple[str, float], Summary]) -> list[Curve]:
    """A line for each name, in the order in which they first came up."""
    return [Curve(name, _points(found, name)) for name in dict.fromkeys(name for name, _ in found)]


def _parse_accuracy_curves(table: CsvRows) -> dict[tuple[str, float], float]:
    """By name of the line and x, the number of tasks learnt, of the one in training the part that is over."""
    rows = [row for row in table if row["split"] == "test"]
    found: dict[tuple[str, float], float] = {}
    for row, x in zip(rows, _tasks_learnt(rows), strict=True):
        if x > int(row["task"]):
            found[f"task {int(row['task'])}", x] = _parse_accuracy(row["accuracy"])
    now: dict[float, list[float]] = {}
    for (_, x), value in found.items():
        now.setdefault(x, []).append(value)
    return found | {("mean so far", x): sum(values) / len(values) for x, values in now.items()}


def _tasks_learnt(rows: CsvRows) -> list[float]:
    """For each row how many tasks were learnt, of the one in training the part that is over."""
    length: dict[str, int] = {}
    for row in rows:
        length[row["after_task"]] = max(int(row.get("iteration", "0")), length.get(row["after_task"], 0))
    parts = [
        int(row.get("iteration", "0")) / length[row["after_task"]] if length[row["after_task"]] else 1.0 for row in rows
    ]
    return [round(int(row["after_task"]) + part, 6) for row, part in zip(rows, parts, strict=True)]


def measured_curves(group: Group, table: TableFormat) -> dict[Column, list[Curve]]:
    """What an evaluation measured, by column: a line for each thing that rows are about (a task, a class), by how many
    tasks were learnt; all tasks together come last. All columns have the same lines, some perhaps without a point."""
    columns = [column for column in table.value_columns if column.unit != "samples"]

    def read(rows: CsvRows) -> dict[tuple[str, tuple[str, ...], float], float]:
        return _dict_without_duplicates(
            (
                (column.name, tuple(_format_key(row[key]) for key in table.key_names), x),
                parse_finite_float(row[column.name]),
            )
            for column in columns
            for row, x in zip(rows, _tasks_learnt(rows), strict=True)
            if row[column.name]
        )

    found = _mean_over_seeds(group, f"{table.name}.csv", read, table.name)
    about = sorted({key for _, key, _ in found}, key=lambda key: [(part == ALL_TASKS, len(part), part) for part in key])
    panels = {}
    for column in columns if about else ():
        mine = {(key, x): summary for (name, key, x), summary in found.items() if name == column.name}
        panels[column] = [
            Curve(" · ".join(map(_key_with_name, table.key_names, key)) or ALL_TASKS_LINE, _points(mine, key))
            for key in about
        ]
    return panels


def mean_counts(group: Group, table: TableFormat) -> dict[tuple[str, str], Summary]:
    """The first value of a table of counts by its last two keys, after the last task; where a seed has no row, 0."""
    (row_key, column_key), value = table.key_names[-2:], table.value_columns[0].name

    def read(rows: CsvRows) -> dict[tuple[str, str], float]:
        last = max((int(row["after_task"]) for row in rows), default=0)
        now = [row for row in rows if int(row["after_task"]) == last]
        return _dict_without_duplicates(
            ((_format_key(row[row_key]), _format_key(row[column_key])), parse_finite_float(row[value])) for row in now
        )

    return _mean_over_seeds(group, f"{table.name}.csv", read, table.name, absent=0.0)


def _format_key(text: str) -> str:
    """What a row is about, on one line and not long; numbers as one writes them."""
    return str(int(text)) if text.lstrip("-").isdecimal() else one_line(text)[:100]


def _key_with_name(key: str, value: str) -> str:
    return ALL_TASKS_LINE if value == ALL_TASKS else f"{key} {value}"


def loss_curves(group: Group) -> list[Curve]:
    """Each loss term by iteration, counted through all tasks."""
    return _curves(_mean_over_seeds(group, "history.csv", _parse_losses))


def _parse_losses(rows: CsvRows) -> dict[tuple[str, float], float]:
    found: dict[tuple[str, float], float] = {}
    before, task, x = 0, None, 0
    for row in rows:
        if row["task"] != task:
            before, task = x, row["task"]
        x = before + int(row["iteration"])
        terms = {name: value for name, value in row.items() if name not in ("task", "iteration") and value}
        found |= {(one_line(name), float(x)): parse_finite_float(value) for name, value in terms.items()}
    return found


def _mean_over_seeds(
    group: Group,
    table: str,
    parse: Callable[[CsvRows], Mapping[Key, float]],
    required_table: str = "",
    absent: float | None = None,
) -> dict[Key, Summary]:
    """Means of what is read from a table of each finished run, of those that have the one that is `described`; a value
    that a run does not have counts as `absent`, or not at all. A run whose table is broken takes note of that."""
    values: list[Mapping[Key, float]] = []
    for run in group.finished.values():
        if not required_table or required_table in run.tables:
            path = run.path / table
            with run.noting_unreadable(table):
                rows = read_table(path)
                with naming_file(path):
                    found = parse(rows)
                run.folder.check_file(table, run.status)
                values.append(found)
    listed = {
        key: [mine.get(key, absent) for mine in values] for key in dict.fromkeys(key for v in values for key in v)
    }
    summaries = {key: summarize([value for value in some if value is not None]) for key, some in listed.items()}
    return {key: summary for key, summary in summaries.items() if summary is not None}


def _dict_without_duplicates(pairs: Iterable[tuple[Key, float]]) -> dict[Key, float]:
    """Values by what they are of.

    Raises:
        ValueError: there are two of one.
    """
    listed = list(pairs)
    found = dict(listed)
    if len(found) < len(listed):
        raise ValueError("has two rows of one place")
    return found


def _parse_accuracy(text: str) -> float:
    value = parse_finite_float(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r} is no accuracy")
    return value


def _points(found: Mapping[tuple[Key, float], Summary], name: Key) -> dict[float, Summary]:
    return dict(sorted((x, summary) for (other, x), summary in found.items() if other == name))


def setting_curves(table: ReportTable) -> list[tuple[SettingColumn, list[Curve]]]:
    """The first metric against each setting of numbers in which groups differ: a line for each combination of what else
    differs."""
    found = []
    for place, column in enumerate(table.columns):
        lines: dict[tuple[str, ...], list[tuple[float, ReportRow]]] = {}
        for row in table.rows:
            value = parse_number(row.labels[place])
            if value is not None and row.metrics[table.metrics[0]] is not None:
                lines.setdefault((*row.labels[:place], *row.labels[place + 1 :]), []).append((value, row))
        longer = {key: sorted(rows, key=lambda pair: pair[0]) for key, rows in lines.items() if len(rows) > 1}
        if longer:
            names = _distinguishing_names(list(longer))
            drawn = [
                Curve(name, _metric_points(rows, table.metrics[0]))
                for name, rows in zip(names, longer.values(), strict=True)
            ]
            found.append((column, drawn))
    return found


def _metric_points(rows: Sequence[tuple[float, ReportRow]], metric: str) -> dict[float, Summary]:
    return {value: summary for value, row in rows if (summary := row.metrics[metric]) is not None}


def _distinguishing_names(keys: Sequence[tuple[str, ...]]) -> list[str]:
    """Names of lines: what is not the same in all."""
    differ = [i for i in range(len(keys[0])) if len({key[i] for key in keys}) > 1] or [0]
    return [" · ".join(key[i] for i in differ) for key in keys]
