"""The tables of a report for a terminal: columns with one value are said once above, the rest fits its width."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from gr_cli.errors import one_line
from gr_cli.report.chance import chance_rows, with_chance
from gr_cli.report.groups import NO_VALUE, SettingColumn, format_ranges
from gr_cli.report.privacy_notes import privacy_notes
from gr_cli.report.run_table import RunRow, RunTable, format_optional
from gr_cli.report.scaling import with_prefixes
from gr_cli.report.tables import (
    ReportRow,
    ReportTable,
    difference_notes,
    format_difference,
    format_interval,
    format_mean,
    format_number,
    format_p_value,
    interval_note,
    mean_note,
    override_notes,
    p_value_header,
    warning_lines,
)
from gr_cli.results.tables import FRACTION, name_with_unit
from gr_cli.terminal.fitted_table import FittedColumn, FittedTable
from gr_cli.terminal.format import with_plural

_INTERVAL = "95 % interval"


def overview(table: ReportTable) -> FittedTable:
    """The main table for a terminal."""
    table, _ = with_prefixes(table)
    rows = table.rows
    warnings = warning_lines(table)
    seeds = _seeds_text(rows)
    runs, finished = sum(len(row.group.by_seed) for row in rows), sum(row.n for row in rows)
    heading = [with_plural(len(rows), "configuration"), _runs_text(finished, runs), *([seeds] if seeds else [])]
    labels = [row.labels for row in rows]
    # Lines below the table name rows by number.
    numbers = [FittedColumn("#", tuple(map(str, range(1, len(rows) + 1))))] if warnings else []
    counts = [f"{row.n}" if row.n == len(row.group.seeds) else f"{row.n} of {len(row.group.seeds)}" for row in rows]
    first = table.metrics[0]
    required = [_metric_column(metric, table.units[metric], rows) for metric in table.metrics]
    required += [] if seeds else [FittedColumn("seeds", tuple(counts))]
    required += _difference_columns(table)
    optional = [
        _interval_column(first, table.units[first], rows),
        _seconds_column(rows),
        FittedColumn("peak MiB", tuple(format_optional(row.peak_memory_mib, "", 0) for row in rows)),
    ]
    optional = [column for column in optional if set(column.cells) != {NO_VALUE}]
    names = _name_columns(table.columns, table.naming_columns, labels, [row.label for row in rows])
    chances = chance_rows(table)
    return FittedTable(
        [" · ".join(heading), *_constants(table.columns, table.naming_columns, labels)],
        [with_chance([*numbers, *columns], chances) for columns in names],
        with_chance(required, chances),
        with_chance(optional, chances),
        [
            mean_note(table) or "no finished run",
            *override_notes(table),
            *privacy_notes([row.group for row in table.rows]),
        ],
        _column_notes(table),
        warnings,
    )


def _column_notes(table: ReportTable) -> dict[str, str]:
    """What a column shows, by its header."""
    notes = {_INTERVAL: interval_note(table)}
    if differences := difference_notes(table):
        notes[_difference_header(table)] = differences[0]
    return {header: note for header, note in notes.items() if note}


def _difference_header(table: ReportTable) -> str:
    return "difference (points)" if table.units[table.metrics[0]] == FRACTION else "difference"


def run_overview(table: RunTable) -> FittedTable:
    """The table of single runs for a terminal."""
    rows, labels = table.rows, [row.configuration.labels for row in table.rows]
    states = Counter(row.run.state for row in rows)
    heading = " · ".join([with_plural(len(rows), "run"), *(f"{number} {state}" for state, number in states.items())])
    names = _name_columns(
        table.columns, table.naming_columns, labels, [row.configuration.label for row in rows]
    )  # fmt: skip
    seed = FittedColumn("seed", tuple(str(row.run.seed) for row in rows))
    state = [FittedColumn("state", tuple(row.run.state for row in rows), is_text=True)] if len(states) > 1 else []
    metrics = [
        _run_metric_column(metric, table.shown_units[metric], table.sizes[metric], rows) for metric in table.metrics
    ]
    optional = [
        FittedColumn("seconds", tuple(format_optional(row.seconds, "", 1) for row in rows)),
        FittedColumn("peak MiB", tuple(format_optional(row.peak_memory_mib, "", 0) for row in rows)),
        FittedColumn("folder", tuple(str(row.run.path) for row in rows), is_text=True),
    ]
    return FittedTable(
        [heading, *_constants(table.columns, table.naming_columns, labels)],
        [[*columns, seed] for columns in names],
        [*metrics[:1], *state, *metrics[1:]],
        optional,
        warnings=table.notes,
    )


def _rounded(header: str, cells: Callable[[int], list[str]]) -> FittedColumn:
    """A column of numbers; `cells` returns them with a number of digits."""
    return FittedColumn(header, tuple(cells(2)), tuple(cells(1)))


def _run_metric_column(metric: str, unit: str, size: float, rows: Sequence[RunRow]) -> FittedColumn:
    return _rounded(
        name_with_unit(metric, unit),
        lambda digits: [format_optional(row.metric(metric, size), unit, digits) for row in rows],
    )


def _metric_column(metric: str, unit: str, rows: Sequence[ReportRow]) -> FittedColumn:
    return _rounded(
        name_with_unit(metric, unit),
        lambda digits: [format_mean(row.metrics[metric], unit, row.n, digits) for row in rows],
    )


def _interval_column(metric: str, unit: str, rows: Sequence[ReportRow]) -> FittedColumn:
    return _rounded(_INTERVAL, lambda digits: [format_interval(row.metrics[metric], unit, digits) for row in rows])


def _difference_columns(table: ReportTable) -> list[FittedColumn]:
    if not any(row.difference for row in table.rows):
        return []
    unit = table.units[table.metrics[0]]
    columns = [
        _rounded(_difference_header(table), lambda digits: [_difference_cell(row, unit, digits) for row in table.rows])
    ]
    if table.num_comparisons:
        columns.append(FittedColumn(p_value_header(table), tuple(format_p_value(row.p_value) for row in table.rows)))
    return columns


def _difference_cell(row: ReportRow, unit: str, digits: int) -> str:
    if row.baseline is row.group:
        return "baseline"
    return format_difference(row.difference, unit, digits, expected_n=row.n)


def _seconds_column(rows: Sequence[ReportRow]) -> FittedColumn:
    means = tuple(NO_VALUE if row.seconds is None else format_number(row.seconds.mean, "", 1) for row in rows)
    return FittedColumn("seconds", tuple(format_mean(row.seconds, "", row.n, 1) for row in rows), means)


def _name_columns(
    columns: Sequence[SettingColumn],
    naming_columns: Sequence[SettingColumn],
    labels: Sequence[tuple[str, ...]],
    names: Sequence[str],
) -> list[list[FittedColumn]]:
    """Ways to name the rows: all settings with several values, those that distinguish the rows, the short label."""
    by_column = {
        column: FittedColumn(column.label, tuple(texts), is_text=True)
        for column, texts in zip(columns, zip(*labels, strict=True), strict=True)
    } if labels else {}  # fmt: skip
    several = [
        shown
        for column, shown in by_column.items()
        if column in naming_columns or len(set(shown.cells) - {NO_VALUE}) > 1
    ]
    minimal = [by_column[column] for column in naming_columns if column in by_column]
    label = FittedColumn("configuration", tuple(names), is_text=True)
    return [ways for ways in (several, minimal) if ways] + [[label]]


def _constants(
    columns: Sequence[SettingColumn], naming_columns: Sequence[SettingColumn], labels: Sequence[tuple[str, ...]]
) -> list[str]:
    """The settings with one value, in a line."""
    texts = []
    for column, cells in zip(columns, zip(*labels, strict=True), strict=False):
        values = set(cells) - {NO_VALUE}
        if column not in naming_columns and len(values) == 1:
            texts.append(f"{column.label}={values.pop()}")
    return [one_line(" · ".join(texts))] if texts else []


def _runs_text(finished: int, runs: int) -> str:
    return with_plural(runs, "run") if finished == runs else f"{finished} of {with_plural(runs, 'run')} finished"


def _seeds_text(rows: Sequence[ReportRow]) -> str:
    """The seeds if they are the same in all rows, and all are finished; else empty."""
    seeds = {tuple(sorted(row.group.seeds)) for row in rows}
    if len(seeds) != 1 or any(row.n < len(row.group.seeds) for row in rows):
        return ""
    (common,) = seeds
    text = f"{'seed' if len(common) == 1 else 'seeds'} {format_ranges(common)}"
    return text if len(rows) == 1 else f"{text} each"
