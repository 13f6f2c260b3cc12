"""The charts of a report as files for papers: SVG and PDF, as wide as a column, fonts inside."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from gr_cli.errors import WriteError
from gr_cli.report import charts, series
from gr_cli.report.tables import Row, Table, title
from gr_cli.results.metrics import FRACTIONS


def draw(table: Table, folder: Path) -> list[Path]:
    """Draw everything there are numbers of into `folder`; the files without their endings.

    Raises:
        WriteError: `folder` can't be made, or a file not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{folder}: can't be made ({error.strerror})") from error
    made = []
    for name, figure in _figures(table):
        charts.save(figure, folder / name)
        made.append(folder / name)
    return made


def _figures(table: Table) -> list[tuple[str, charts.Figure]]:
    found = []
    for metric in table.metrics:
        named = {row.label: summary for row in table.rows if (summary := row.metrics[metric]) is not None}
        scale = 100.0 if metric in FRACTIONS else 1.0
        if named:
            found.append((metric, charts.comparison(named, title(metric), scale, page=False)))
    metric = table.metrics[0]
    scale = 100.0 if metric in FRACTIONS else 1.0
    for sweep in series.sweeps(table):
        drawn = charts.sweep(sweep.lines, sweep.column.label.replace("_", " "), title(metric), scale, page=False)
        found.append((f"{metric}_by_{_plain(sweep.column.label)}", drawn))
    tops = series.tops([series.dreams(row.group) for row in table.rows])
    for place, row in enumerate(table.rows, 1):
        found += _of_group(row, tops, f"{place}_{_plain(row.label)}")
    return found


def _of_group(row: Row, tops: Mapping[str, float], name: str) -> list[tuple[str, charts.Figure]]:
    found = []
    if cells := series.matrix(row.group):
        found.append((f"{name}_matrix", charts.heat_map(cells, page=False)))
    if lines := series.curves(row.group):
        found.append((f"{name}_curves", charts.curves(lines, page=False)))
    if lines := series.losses(row.group):
        found.append((f"{name}_losses", charts.losses(lines, page=False)))
    if drawn := series.dreams(row.group):
        found.append((f"{name}_dreams", charts.dreams(drawn, tops, page=False)))
    return found


def _plain(text: str) -> str:
    """As part of a file's name."""
    return re.sub(r"[^\w.+-]+", "_", text.replace("=", "-"), flags=re.ASCII).strip("_")[:80]
