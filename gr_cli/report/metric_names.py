"""The metrics of a report by name: whether they exist, their units and ranges.

A name is one of metrics.csv, or the address of a column of another table: `sample_quality.recall`.
"""

from __future__ import annotations

from collections.abc import Sequence

from gr_cli.errors import ConfigError, suggestion
from gr_cli.report.groups import Grouping
from gr_cli.results.cells import addressable_columns, cell_addresses, key_names, parse_cell, with_cells_as_metrics
from gr_cli.results.metrics import fraction_metrics, metric_bounds
from gr_cli.results.references import REFERENCE_METRICS
from gr_cli.results.statistics import Bounds
from gr_cli.results.tables import FRACTION, TableFormat


def check_metrics(grouping: Grouping, names: Sequence[str], option: str, argument: str = "") -> None:
    """Check that some finished run has each metric. Without a finished run any name will do.

    Args:
        grouping: The groups.
        names: Names of metrics.
        option: The option of the command line that names them, for messages.
        argument: What was given there; empty: the name.

    Raises:
        ConfigError: There is no such metric.
    """
    known = grouping.metric_names
    for name in names if known else ():
        if name not in known:
            _check_address(grouping, name, option, argument or name)


def _check_address(grouping: Grouping, name: str, option: str, argument: str) -> None:
    if (metric := REFERENCE_METRICS.get(name)) is not None:
        no_reference = f"needs a run of strategy={metric.strategy}, else of the same settings, and there is none"
        raise ConfigError(option, argument, no_reference, f"make one with the same seeds: strategy={metric.strategy}")
    cell, formats = parse_cell(name), grouping.table_formats
    if cell is None or cell.table not in formats:
        known, addresses = sorted(grouping.metric_names), cell_addresses(formats.values())
        tables = f"; and after the last task the columns {', '.join(addresses)}" if addresses else ""
        hint = suggestion(name, [*known, *addresses])
        there_are = "" if hint else f"; there are {', '.join(known)}{tables}"
        raise ConfigError(option, argument, f"no such metric{there_are}", hint)
    table = formats[cell.table]
    if cell.column_in(table) is None:
        columns = [column.name for column in addressable_columns(table)]
        no_column = f"no such column; {cell.table} has {', '.join(columns) or 'none but counts'}"
        raise ConfigError(option, argument, no_column, suggestion(cell.column, columns))
    if unknown := cell.unknown_keys(table):
        no_key = f"no key {unknown[0]}; rows of {cell.table} have the keys {', '.join(key_names(table))}"
        raise ConfigError(option, argument, no_key, "name one of them")
    if cell.keys and not any(group.metric(name) for group in grouping.groups):
        raise ConfigError(option, argument, "no finished run has a value there", f"look into {cell.table}.csv")


def units_and_bounds(grouping: Grouping, names: Sequence[str]) -> tuple[dict[str, str], dict[str, Bounds]]:
    """Unit and range of each metric; those of evaluations other than accuracy are in the runs' tables.json."""
    formats: list[TableFormat] = []
    if not fraction_metrics([]).issuperset(names):
        formats = with_cells_as_metrics(list(grouping.table_formats.values()), names)
    fractions = fraction_metrics(formats)
    columns = {name: column.unit for table in formats for name, column in table.metric_columns.items()}
    units = {name: FRACTION if name in fractions else columns.get(name, "") for name in names}
    return units, {name: metric_bounds(name, formats) for name in names}
