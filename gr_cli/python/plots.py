"""Figures of runs and sweeps, drawn with matplotlib from their tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gr_cli.errors import FolderError
from gr_cli.report.groups import Group, group_runs
from gr_cli.results.canvas import read_picture
from gr_cli.results.discovery import DiscoveredRun, discover_runs
from gr_cli.results.matplotlib_user import import_as_configured
from gr_cli.system.reading import read_error_reason

if TYPE_CHECKING:
    from gr_cli.results.charts import Figure

_FROM_TABLES = ("accuracy_matrix", "accuracy_curves")  # figures whose files are not shown in place of damaged tables


def run_figure(folder: Path, name: str, pictures: dict[str, Path]) -> Figure:
    """A figure of a run, from its tables as they are now.

    Args:
        folder: Folder of the run.
        name: `accuracy_matrix`, `accuracy_curves`, `losses`, the table of an evaluation, or a picture.
        pictures: PNG files by name, for figures that are not drawn from a table.

    Raises:
        FolderError: There is no such figure, or what it shows can't be read.
    """
    import_as_configured()
    from gr_cli.results.charts import drawn_once, picture_chart

    discovered = discover_runs([folder])
    charts: dict[str, Callable[[], Figure]] = {}
    reasons = list(discovered.unreadable.values())
    for run in discovered.runs:
        charts = _charts(run)
        reasons += run.unreadable_files.values()
    if name in charts:
        draw = charts[name]
    elif name in pictures and not (reasons and name in _FROM_TABLES):
        draw = partial(picture_chart, _pixels(pictures[name]))
    elif reasons:
        raise FolderError(
            f"{folder}: can't draw {name!r} ({'; '.join(reasons)}); the run's command rewrites its tables"
        )
    else:
        drawable = ", ".join([*charts, *(other for other in pictures if other not in charts)]) or "none yet"
        raise FolderError(f"{folder}: has no figure {name!r}; there are {drawable}")
    return drawn_once(draw())


def _pixels(path: Path) -> Any:
    try:
        return read_picture(path)
    except (OSError, ValueError) as error:
        raise FolderError(f"{path}: can't be read ({read_error_reason(error)}); remove it") from error


def _charts(run: DiscoveredRun) -> dict[str, Callable[[], Figure]]:
    """Functions that draw the figures of a run from its tables, by name."""
    from gr_cli.report.chart_list import measure_figures, training_figures

    group = Group((replace(run, state="finished"),))  # an unfinished run has tables of the tasks so far
    drawn = training_figures(group)
    for name, table in run.tables.items():
        draw = measure_figures(table, [group])[0] if table.layout == "lines" else None
        if draw is not None:
            drawn[name] = draw
    return drawn


def comparison_figure(folders: Sequence[Path], metric: str) -> Figure:
    """A chart of a metric of several runs: by the first numeric setting that varies, else by configuration.

    Raises:
        ConfigError: There is no such metric.
        FolderError: No run has finished.
    """
    import_as_configured()
    from gr_cli.report.chart_list import comparison_charts, sweep_charts
    from gr_cli.report.scaling import with_prefixes
    from gr_cli.report.tables import report_table
    from gr_cli.results.charts import drawn_once

    table, _ = with_prefixes(report_table(group_runs(discover_runs(folders)), [metric], option="metric"))
    charts = [*sweep_charts(table), *comparison_charts(table)]
    if not charts:
        raise FolderError(f"{folders[0].parent}: no run has finished; continue the sweep by the same call")
    return drawn_once(charts[0].draw())
