"""A report as one HTML file without links to the network: table, charts with numbers, generated samples, commands.

Charts are drawn by matplotlib as SVG, not in the browser: the page works without scripts and can be printed. Scripts
only sort, filter and fold. The layout is in page.html.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from gr_cli.results import chart_style, charts
from gr_cli.results.discovery import DiscoveredRun
from gr_cli.results.statistics import Summary
from gr_cli.results.tables import FRACTION, TableFormat, name_with_unit
from gr_cli.system.reading import read_bytes, read_text

_MAX_PIXELS = 40_000_000  # of a figure that is embedded
_MAX_TASKS_IN_TABLE = 50  # of an accuracy matrix that is shown as a table with all its rows
_GROUPS_UNFOLDED = 3  # groups that are unfolded at first
_DIRECTION_TEXT = {"higher": "higher is better", "lower": "lower is better", "none": ""}


def render_page(grouping: Grouping, table: ReportTable) -> str:
    """The HTML text of the page."""
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
    context = {
        "summary": f"{finished} finished of {len(runs)} runs in {len(table.rows)} configurations",
        "newest_update": max(runs, key=last_heartbeat).status.get("updated", "") if runs else "",
        "version": __version__,
        "main": text_table(table),
        "comparison": comparison_charts(table),
        "sweeps": sweep_charts(table),
        "evaluations": _evaluation_sections(table),
        "groups": [_group_context(i, row, table) for i, row in enumerate(table.rows)],
        "newline": Markup("\n"),
    }
    # Last, because drawing the charts finds unreadable files.
    unreadable = [
        f"{run.path}: {reason}; left out of the charts" for run in runs for reason in run.unreadable_files.values()
    ]
    return environment.get_template("page.html").render(context, footnotes=[*footnotes(table), *unreadable])


def _without_control_characters(value: object) -> object:
    """A value as text on one line, without control characters, which HTML does not allow."""
    return value if isinstance(value, Markup) else one_line(value)


# --- groups


def _group_context(index: int, row: ReportRow, table: ReportTable) -> dict[str, Any]:
    """Variables of page.html for a group; `index` is that of its row, from 0."""
    group, name, metric = row.group, f"group-{index}", next(iter(row.metrics))
    seeds = f"{row.n} of {len(group.seeds)} {'seeds' if len(group.seeds) != 1 else 'seed'}"
    unit = table.units[metric]
    pictures_seed, pictures = _sample_pictures(list(group.finished.values()))
    return {
        "name": name,
        "label": f"{index + 1} · {row.label}",
        "open": index < _GROUPS_UNFOLDED,
        "result": f"{name_with_unit(metric, unit)} {format_mean(row.metrics[metric], unit, row.n)} · {seeds}",
        "warnings": row.warnings,
        "matrix": _matrix_context(row, f"{name}-matrix"),
        "charts": group_charts(index + 1, row),
        "pictures": pictures,
        "pictures_seed": pictures_seed,
        "runs": [_run_context(run) for run in sorted(group.runs, key=lambda run: (run.seed, str(run.path)))],
        "seed": group.runs[0].seed,
        "config": _config_lines(group.runs[0]),
    }


def _matrix_context(row: ReportRow, name: str) -> dict[str, Any] | None:
    """Variables for the accuracy matrix, a table with coloured cells and, for many tasks, a drawing."""
    cells, forgetting = series.accuracy_matrix(row.group), series.forgetting_by_task(row.group)
    if not cells:
        return None
    trainings, tasks = sorted({i for i, _ in cells}), sorted({j for _, j in cells})
    caption = "Test accuracy (%) on each task (columns) after each task (rows); mean ± standard error"
    caption = f"{caption} over {format_seeds(row.group.seeds_with('accuracy_matrix.csv'))}"
    is_drawn, shown = len(tasks) > chart_style.MAX_SHOWN_SEPARATELY, trainings
    if len(tasks) > _MAX_TASKS_IN_TABLE:
        shown, caption = trainings[-1:], f"{caption}; the table has the last row of the drawing"
    return {
        "css_class": "matrix",
        "name": name,
        "drawing": Markup(charts.svg_element(charts.heat_map(cells, page=True), name)) if is_drawn else None,
        "caption": caption,
        "alt_text": caption,
        "label": "Accuracy matrix",
        "corner": "task",
        "columns": tasks,
        "rows": [(f"after {i}", [_matrix_cell(cells.get((i, j))) for j in tasks]) for i in shown],
        "forgetting": [_matrix_cell(forgetting.get(j)) for j in tasks] if forgetting else [],
    }


def _matrix_cell(summary: Summary | None) -> dict[str, str] | None:
    """Mean in percent, standard error and colours of a cell."""
    if summary is None:
        return None
    error = "" if summary.sem is None else format_number(summary.sem, FRACTION, 1)
    return _coloured_cell(format_number(summary.mean, FRACTION, 1), summary.mean, error)


def _coloured_cell(text: str, share: float, error: str = "") -> dict[str, str]:
    """A cell of a matrix with the heat-map colours of a share in [0, 1]."""
    return {
        "mean": text,
        "error": error,
        "back": chart_style.heat_colour(share),
        "front": chart_style.text_colour_on(share),
    }


def _sample_pictures(runs: Sequence[DiscoveredRun]) -> tuple[int, dict[int, str]]:
    """Figures of generated samples after each task as base64 JPEG, of the first seed that has some."""
    for run in runs:
        pictures = {}
        for task, path in run.folder.sample_figures().items():
            with run.noting_unreadable(path.name):
                pictures[task] = base64.b64encode(_thumbnail(read_bytes(path), path.name)).decode()
        if pictures:
            return run.seed, pictures
    return 0, {}


def _thumbnail(picture: bytes, name: str, width: int = 400) -> bytes:
    """Shrink a PNG picture and return it as JPEG.

    Args:
        picture: Content of the PNG file.
        name: Its name, for messages.
        width: Width of the result in pixels.

    Raises:
        ValueError: It is damaged, or larger than the figures of a run.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is checked here
            with Image.open(io.BytesIO(picture), formats=["PNG"]) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise ValueError(f"it is {image.width} x {image.height} pixels large")
                small = image.convert("RGB")
    except Exception as error:  # PIL raises exceptions of many types for damaged files
        raise ValueError(f"{name} can't be shown as a picture ({type(error).__name__})") from error
    small.thumbnail((width, 10 * width))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=80, optimize=True)
    return data.getvalue()


def _run_context(run: DiscoveredRun) -> dict[str, object]:
    """Variables for a run: seed, state, accuracy, command and folder."""
    average_accuracy = (run.metrics or {}).get("average_accuracy")
    return {
        "seed": run.seed,
        "state": run.state,
        "accuracy": "–" if average_accuracy is None else format_number(average_accuracy, FRACTION),
        "command": run.status.get("command", ""),
        "folder": run.path,
    }


def _config_lines(run: DiscoveredRun) -> list[str]:
    """The lines of config.yaml; none if it can't be read."""
    with run.noting_unreadable("config.yaml"):
        return read_text(run.path / "config.yaml").split("\n")
    return []


# --- evaluations other than accuracy, generically from their table formats


@dataclass
class _Section:
    """A section of the page about one table."""

    name: str
    """Id of the section."""
    heading: str
    description: str
    """Description of the table."""
    column_meanings: dict[str, str]
    """Meaning by column, with unit and direction."""
    charts: list[Chart] = field(default_factory=list)
    """A chart per group, for tables with layout `lines`."""
    matrices: list[dict[str, Any]] = field(default_factory=list)
    """A matrix per group, for tables with layout `matrix`."""


def _evaluation_sections(table: ReportTable) -> list[_Section]:
    """The sections of all tables with charts or matrices."""
    formats = table_formats(table)
    sections = [_empty_section(table_format) for table_format in formats]
    for table_format, section in zip(formats, sections, strict=True):
        if table_format.layout == "lines":
            section.charts = measured_charts(table_format, table)
        else:
            section.matrices = _count_matrices(table_format, section.heading, table)
    return [section for section in sections if section.charts or section.matrices]


def _empty_section(table_format: TableFormat) -> _Section:
    units_and_directions = {
        column: [column.unit.replace(FRACTION, "%"), _DIRECTION_TEXT[column.direction]]
        for column in table_format.value_columns
    }
    meanings = {
        f"{column.name} ({'; '.join(filter(None, texts))})" if any(texts) else column.name: column.meaning
        for column, texts in units_and_directions.items()
    }
    heading = table_format.name.replace("_", " ").capitalize()
    return _Section(f"measured-{table_format.name}", heading, table_format.description, meanings)


def _count_matrices(table_format: TableFormat, heading: str, table: ReportTable) -> list[dict[str, Any]]:
    """The counts of each group after its last task, coloured by their share of the row. Large matrices are left out."""
    matrices, (row_key, column_key) = [], table_format.key_names[-2:]
    for number, row in enumerate(table.rows, 1):
        counts = series.mean_counts(row.group, table_format)
        names = [sorted({key[axis] for key in counts}, key=lambda text: (len(text), text)) for axis in (0, 1)]
        if counts and max(map(len, names)) <= chart_style.MAX_SHOWN_SEPARATELY:
            caption = f"{number} · {row.label}: {table_format.value_columns[0].meaning}, after the last task"
            matrices.append(
                {
                    "label": heading,
                    "corner": f"{row_key} \\ {column_key}",
                    "columns": names[1],
                    "rows": [(name, _count_cells(name, names[1], counts)) for name in names[0]],
                    "forgetting": [],
                    "caption": f"{caption}; {seeds_caption(row, table_format.name, bands=False)}",
                }
            )
    return matrices


def _count_cells(name: str, columns: Sequence[str], counts: Mapping[tuple[str, str], Summary]) -> list[dict[str, str]]:
    """The cells of a row of counts, with colours for their shares of the row."""
    values = [counts[name, column].mean if (name, column) in counts else 0.0 for column in columns]
    total = sum(values) or 1.0
    return [
        _coloured_cell(format_number(value, "", 0 if value == int(value) else 1), value / total) for value in values
    ]
