"""A report as one HTML file that needs no network: the table, charts with their numbers, dreams, and how to repeat it.

The charts are drawn here, by matplotlib, and not in the browser: the page is small, can be read without scripts, and
what is drawn can be printed. Scripts only sort, filter and fold what is there. What stands where is in page.html.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gr_cli._version import __version__
from gr_cli.errors import one_line
from gr_cli.report import series
from gr_cli.report.chart_list import (
    Chart,
    comparison_charts,
    group_charts,
    measured_charts,
    seeds_caption,
    sweep_charts,
    table_formats,
)
from gr_cli.report.groups import Grouping, format_seeds, last_heartbeat
from gr_cli.report.tables import ReportRow, ReportTable, footnotes, format_mean, format_number, text_table
from gr_cli.results import charts
from gr_cli.results.discovery import DiscoveredRun
from gr_cli.results.statistics import Summary
from gr_cli.results.tables import FRACTION, TableFormat, name_with_unit
from gr_cli.system.reading import read_bytes, read_text

_MAX_PIXELS = 40_000_000  # of a picture that is made smaller
_GROUPS_UNFOLDED = 3  # so many groups are unfolded at first
_DIRECTION_TEXT = {"higher": "higher is better", "lower": "lower is better", "none": ""}


def render_page(grouping: Grouping, table: ReportTable) -> str:
    """The whole page."""
    runs = [run for group in grouping.groups for run in group.runs]
    finished = sum(run.finished for run in runs)
    environment = Environment(
        loader=PackageLoader("gr_cli.report", ""),
        autoescape=True,
        finalize=_without_control_characters,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    shown = {
        "counted": f"{finished} finished of {len(runs)} runs in {len(table.rows)} configurations",
        "newest": max(runs, key=last_heartbeat).status.get("updated", "") if runs else "",
        "version": __version__,
        "main": text_table(table),
        "comparison": comparison_charts(table),
        "sweeps": sweep_charts(table),
        "evaluations": _evaluation_sections(table),
        "groups": [_group_context(place, row, table) for place, row in enumerate(table.rows)],
        "newline": Markup("\n"),
    }
    # Last, when all else is made: the files that it had to leave out are among them.
    broken = [f"{run.path}: {why}; left out of the charts" for run in runs for why in run.unreadable_files.values()]
    return environment.get_template("page.html").render(shown, remarks=[*footnotes(table), *broken])


def _without_control_characters(value: object) -> object:
    """Any value as text of the page: without control characters, which HTML can't hold."""
    return value if isinstance(value, Markup) else one_line(value)


# --- one group


def _group_context(place: int, row: ReportRow, table: ReportTable) -> dict[str, Any]:
    """What the page says of a group, by the names that page.html has for it."""
    group, name, metric = row.group, f"group-{place}", next(iter(row.metrics))
    seeds = f"{row.n} of {len(group.seeds)} {'seeds' if len(group.seeds) != 1 else 'seed'}"
    unit = table.units[metric]
    pictured, pictures = _sample_pictures(list(group.finished.values()))
    return {
        "name": name,
        "label": f"{place + 1} · {row.label}",
        "open": place < _GROUPS_UNFOLDED,
        "result": f"{name_with_unit(metric, unit)} {format_mean(row.metrics[metric], unit, row.n)} · {seeds}",
        "notes": row.warnings,
        "matrix": _matrix_context(row, f"{name}-matrix"),
        "charts": group_charts(place + 1, row),
        "pictures": pictures,
        "pictured_seed": pictured,
        "runs": [_run_context(run) for run in sorted(group.runs, key=lambda run: (run.seed, str(run.path)))],
        "seed": group.runs[0].seed,
        "config": _config_lines(group.runs[0]),
    }


def _matrix_context(row: ReportRow, name: str) -> dict[str, Any] | None:
    """A table whose cells are coloured: its numbers can be read, copied and heard; of many tasks, drawn above it."""
    cells, lost = series.accuracy_matrix(row.group), series.forgetting_by_task(row.group)
    if not cells:
        return None
    after, tasks = sorted({i for i, _ in cells}), sorted({j for _, j in cells})
    caption = "Test accuracy (%) on each task (across) after each (down); mean ± standard error"
    caption = f"{caption} over {format_seeds(row.group.seeds_with('accuracy_matrix.csv'))}"
    many = len(tasks) > charts.MAX_SHOWN_SEPARATELY
    return {
        "css_class": "matrix",
        "name": name,
        "drawing": Markup(charts.svg_element(charts.heat_map(cells, page=True), name)) if many else None,
        "caption": caption,
        "alt_text": caption,
        "label": "Accuracy matrix",
        "corner": "task",
        "columns": tasks,
        "rows": [(f"after {i}", [_matrix_cell(cells.get((i, j))) for j in tasks]) for i in after],
        "forgotten": [_matrix_cell(lost.get(j)) for j in tasks] if lost else [],
    }


def _matrix_cell(summary: Summary | None) -> dict[str, str] | None:
    """A mean in percent with its standard error, and colours for it."""
    if summary is None:
        return None
    error = "" if summary.sem is None else format_number(summary.sem, FRACTION, 1)
    return _coloured_cell(format_number(summary.mean, FRACTION, 1), summary.mean, error)


def _coloured_cell(text: str, share: float, error: str = "") -> dict[str, str]:
    """A cell of a matrix, coloured by a share of 1."""
    return {"mean": text, "error": error, "back": charts.heat_colour(share), "front": charts.text_colour_on(share)}


def _sample_pictures(runs: Sequence[DiscoveredRun]) -> tuple[int, dict[int, str]]:
    """What the generator of the first seed that has pictures dreams after each task: the seed, and them in base64."""
    for run in runs:
        pictures = {}
        for task, path in sorted(_sample_picture_paths(run).items()):
            with run.noting_unreadable(path.name):  # it may be broken
                pictures[task] = base64.b64encode(_thumbnail(read_bytes(path), path.name)).decode()
        if pictures:
            return run.seed, pictures
    return 0, {}


def _thumbnail(picture: bytes, name: str, width: int = 400) -> bytes:
    """A PNG picture made smaller, as JPEG.

    Raises:
        ValueError: it is broken, or too large to be one of a run.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its size, which is looked at here
            with Image.open(io.BytesIO(picture), formats=["PNG"]) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise ValueError(f"it is {image.width} x {image.height} pixels large")
                small = image.convert("RGB")
    except Exception as error:  # of many kinds, as PIL reads them
        raise ValueError(f"{name} is no picture that can be shown ({type(error).__name__})") from error
    small.thumbnail((width, 10 * width))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=80, optimize=True)
    return data.getvalue()


def _sample_picture_paths(run: DiscoveredRun) -> dict[int, Path]:
    """Pictures of samples by task."""
    figures = run.folder.figures
    if figures.is_symlink():
        return {}
    named = (
        (re.fullmatch(r"samples_task_(\d{1,6})\.png", path.name, re.ASCII), path) for path in figures.glob("*.png")
    )
    return {int(found[1]): path for found, path in named if found}


def _run_context(run: DiscoveredRun) -> dict[str, object]:
    """Where a run lies, what became of it, and how to repeat it."""
    average = (run.metrics or {}).get("average_accuracy")
    return {
        "seed": run.seed,
        "state": run.state,
        "accuracy": "–" if average is None else format_number(average, FRACTION),
        "command": run.status.get("command", ""),
        "folder": run.path,
    }


def _config_lines(run: DiscoveredRun) -> list[str]:
    """The lines of its configuration."""
    with run.noting_unreadable("config.yaml"):
        return read_text(run.path / "config.yaml").split("\n")
    return []


# --- what evaluations measured, none of it known by name; accuracy stands with each group


@dataclass
class _Section:
    """A part of the page about one table: what it and its columns mean, and charts or matrices of each group."""

    name: str
    heading: str
    description: str
    column_meanings: dict[str, str]
    charts: list[Chart] = field(default_factory=list)
    matrices: list[dict[str, Any]] = field(default_factory=list)


def _evaluation_sections(table: ReportTable) -> list[_Section]:
    """The sections of all tables that have anything to show."""
    made = [_empty_section(described) for described in table_formats(table)]
    for described, section in zip(table_formats(table), made, strict=True):
        if described.layout == "lines":
            section.charts = measured_charts(described, table)
        else:
            section.matrices = _count_matrices(described, section.heading, table)
    return [section for section in made if section.charts or section.matrices]


def _empty_section(described: TableFormat) -> _Section:
    words = {
        column: [column.unit.replace(FRACTION, "%"), _DIRECTION_TEXT[column.direction]]
        for column in described.value_columns
    }
    meanings = {
        f"{column.name} ({'; '.join(filter(None, parts))})" if any(parts) else column.name: column.meaning
        for column, parts in words.items()
    }
    heading = described.name.replace("_", " ").capitalize()
    return _Section(f"measured-{described.name}", heading, described.description, meanings)


def _count_matrices(described: TableFormat, heading: str, table: ReportTable) -> list[dict[str, Any]]:
    """The counts of each group after its last task, coloured by their share of the row; too large ones are left out."""
    made, (down, across) = [], described.key_names[-2:]
    for place, row in enumerate(table.rows, 1):
        counts = series.mean_counts(row.group, described)
        names = [sorted({key[axis] for key in counts}, key=lambda text: (len(text), text)) for axis in (0, 1)]
        if counts and max(map(len, names)) <= charts.MAX_SHOWN_SEPARATELY:
            caption = f"{place} · {row.label}: {described.value_columns[0].meaning}, after the last task"
            made.append(
                {
                    "label": heading,
                    "corner": f"{down} \\ {across}",
                    "columns": names[1],
                    "rows": [(name, _count_cells(name, names[1], counts)) for name in names[0]],
                    "forgotten": [],
                    "caption": f"{caption}; {seeds_caption(row, described.name, bands=False)}",
                }
            )
    return made


def _count_cells(name: str, columns: Sequence[str], counts: Mapping[tuple[str, str], Summary]) -> list[dict[str, str]]:
    """The cells of a row: counts, with colours for their shares of it."""
    values = [counts[name, column].mean if (name, column) in counts else 0.0 for column in columns]
    total = sum(values) or 1.0
    return [
        _coloured_cell(format_number(value, "", 0 if value == int(value) else 1), value / total) for value in values
    ]
