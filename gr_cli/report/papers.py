"""The charts of a report as files for papers: SVG and PDF, as wide as a column, fonts inside."""

from __future__ import annotations

import re
from pathlib import Path

from gr_cli.errors import WriteError
from gr_cli.report import charts, measured, series
from gr_cli.report.tables import Row, Table, scale, title


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
        unit = table.units[metric]
        if named:
            found.append((metric, charts.comparison(named, title(metric, unit), scale(unit), page=False)))
    metric = table.metrics[0]
    words, factor = title(metric, table.units[metric]), scale(table.units[metric])
    for sweep in series.sweeps(table):
        drawn = charts.sweep(sweep.lines, sweep.column.label.replace("_", " "), words, factor, page=False)
        found.append((f"{metric}_by_{_plain(sweep.column.label)}", drawn))
    names = [f"{place}_{_plain(row.label)}" for place, row in enumerate(table.rows, 1)]
    for name, row in zip(names, table.rows, strict=True):
        found += _of_group(row, name)
    for described in measured.drawn_tables(table):
        for name, panels in zip(names, described.panels, strict=True):
            if panels:
                found.append((f"{name}_{described.format.name}", charts.panels(panels, described.tops, page=False)))
    return found


def _of_group(row: Row, name: str) -> list[tuple[str, charts.Figure]]:
    found = []
    if cells := series.matrix(row.group):
        found.append((f"{name}_matrix", charts.heat_map(cells, page=False)))
    if lines := series.curves(row.group):
        found.append((f"{name}_curves", charts.curves(lines, page=False)))
    if lines := series.losses(row.group):
        found.append((f"{name}_losses", charts.losses(lines, page=False)))
    return found


def _plain(text: str) -> str:
    """As part of a file's name."""
    return re.sub(r"[^\w.+-]+", "_", text.replace("=", "-"), flags=re.ASCII).strip("_")[:80]
