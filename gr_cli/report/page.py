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
from gr_cli.report.chart_list import Chart, comparisons, formats, mean_over, of_group, of_table, sweeps
from gr_cli.report.groups import Grouping, last_sign, seeds_shown
from gr_cli.report.tables import Row, Table, mean_and_sem, number, remarks, shown_table
from gr_cli.results import charts
from gr_cli.results.discovery import FoundRun
from gr_cli.results.statistics import Summary
from gr_cli.results.tables import FRACTION, TableFormat, title
from gr_cli.system.reading import read_bytes, read_text

_MOST_PIXELS = 40_000_000  # of a picture that is made smaller
_OPEN = 3  # so many groups are unfolded at first
_BETTER = {"higher": "higher is better", "lower": "lower is better", "none": ""}


def html(grouping: Grouping, table: Table) -> str:
    """The whole page."""
    runs = [run for group in grouping.groups for run in group.runs]
    finished = sum(run.finished for run in runs)
    environment = Environment(
        loader=PackageLoader("gr_cli.report", ""),
        autoescape=True,
        finalize=_on_one_line,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    shown = {
        "counted": f"{finished} finished of {len(runs)} runs in {len(table.rows)} configurations",
        "newest": max(runs, key=last_sign).status.get("updated", "") if runs else "",
        "version": __version__,
        "main": shown_table(table),
        "comparison": comparisons(table),
        "sweeps": sweeps(table),
        "evaluations": _sections(table),
        "groups": [_group(place, row, table) for place, row in enumerate(table.rows)],
        "newline": Markup("\n"),
    }
    # Last, when all else is made: the files that it had to leave out are among them.
    broken = [f"{run.path}: {why}; left out of the charts" for run in runs for why in run.broken.values()]
    return environment.get_template("page.html").render(shown, remarks=[*remarks(table), *broken])


def _on_one_line(value: object) -> object:
    """Any value as text of the page: without control characters, which HTML can't hold."""
    return value if isinstance(value, Markup) else one_line(value)


# --- one group


def _group(place: int, row: Row, table: Table) -> dict[str, Any]:
    """What the page says of a group, by the names that page.html has for it."""
    group, name, metric = row.group, f"group-{place}", next(iter(row.metrics))
    seeds = f"{row.n} of {len(group.seeds)} {'seeds' if len(group.seeds) != 1 else 'seed'}"
    unit = table.units[metric]
    pictured, pictures = _pictures(list(group.finished.values()))
    return {
        "name": name,
        "label": f"{place + 1} · {row.label}",
        "open": place < _OPEN,
        "result": f"{title(metric, unit)} {mean_and_sem(row.metrics[metric], unit, row.n)} · {seeds}",
        "notes": row.notes,
        "matrix": _matrix(row, f"{name}-matrix"),
        "charts": of_group(place + 1, row),
        "pictures": pictures,
        "pictured_seed": pictured,
        "runs": [_run(run) for run in sorted(group.runs, key=lambda run: (run.seed, str(run.path)))],
        "seed": group.runs[0].seed,
        "config": _config(group.runs[0]),
    }


def _matrix(row: Row, name: str) -> dict[str, Any] | None:
    """A table whose cells are coloured: its numbers can be read, copied and heard; of many tasks, drawn above it."""
    cells, lost = series.matrix(row.group), series.forgotten(row.group)
    if not cells:
        return None
    after, tasks = sorted({i for i, _ in cells}), sorted({j for _, j in cells})
    caption = "Test accuracy (%) on each task (across) after each (down); mean ± standard error"
    caption = f"{caption} over {seeds_shown(row.group.seeds_with('accuracy_matrix.csv'))}"
    many = len(tasks) > charts.FEW
    return {
        "kind": "matrix",
        "name": name,
        "drawing": Markup(charts.svg(charts.heat_map(cells, page=True), name)) if many else None,
        "caption": caption,
        "alt": caption,
        "label": "Accuracy matrix",
        "corner": "task",
        "columns": tasks,
        "rows": [(f"after {i}", [_cell(cells.get((i, j))) for j in tasks]) for i in after],
        "forgotten": [_cell(lost.get(j)) for j in tasks] if lost else [],
    }


def _cell(summary: Summary | None) -> dict[str, str] | None:
    """A mean in percent with its standard error, and colours for it."""
    if summary is None:
        return None
    error = "" if summary.sem is None else number(summary.sem, FRACTION, 1)
    return _coloured(number(summary.mean, FRACTION, 1), summary.mean, error)


def _coloured(text: str, share: float, error: str = "") -> dict[str, str]:
    """A cell of a matrix, coloured by a share of 1."""
    return {"mean": text, "error": error, "back": charts.colour_of(share), "front": charts.readable_on(share)}


def _pictures(runs: Sequence[FoundRun]) -> tuple[int, dict[int, str]]:
    """What the generator of the first seed that has pictures dreams after each task: the seed, and them in base64."""
    for run in runs:
        pictures = {}
        for task, path in sorted(_grids(run).items()):
            with run.leaving_out(path.name):  # it may be broken
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
                if image.width * image.height > _MOST_PIXELS:
                    raise ValueError(f"it is {image.width} x {image.height} pixels large")
                small = image.convert("RGB")
    except Exception as error:  # of many kinds, as PIL reads them
        raise ValueError(f"{name} is no picture that can be shown ({type(error).__name__})") from error
    small.thumbnail((width, 10 * width))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=80, optimize=True)
    return data.getvalue()


def _grids(run: FoundRun) -> dict[int, Path]:
    """Pictures of samples by task."""
    figures = run.folder.figures
    if figures.is_symlink():
        return {}
    named = (
        (re.fullmatch(r"samples_task_(\d{1,6})\.png", path.name, re.ASCII), path) for path in figures.glob("*.png")
    )
    return {int(found[1]): path for found, path in named if found}


def _run(run: FoundRun) -> dict[str, object]:
    """Where a run lies, what became of it, and how to repeat it."""
    average = (run.metrics or {}).get("average_accuracy")
    return {
        "seed": run.seed,
        "state": run.state,
        "accuracy": "–" if average is None else number(average, FRACTION),
        "command": run.status.get("command", ""),
        "folder": run.path,
    }


def _config(run: FoundRun) -> list[str]:
    """The lines of its configuration."""
    with run.leaving_out("config.yaml"):
        return read_text(run.path / "config.yaml").split("\n")
    return []


# --- what evaluations measured, none of it known by name; accuracy stands with each group


@dataclass
class _Section:
    """A part of the page about one table: what it and its columns mean, and charts or matrices of each group."""

    name: str
    heading: str
    about: str
    meanings: dict[str, str]
    charts: list[Chart] = field(default_factory=list)
    matrices: list[dict[str, Any]] = field(default_factory=list)


def _sections(table: Table) -> list[_Section]:
    """The sections of all tables that have anything to show."""
    made = [_section_of(described) for described in formats(table)]
    for described, section in zip(formats(table), made, strict=True):
        if described.layout == "lines":
            section.charts = of_table(described, table)
        else:
            section.matrices = _matrices(described, section.heading, table)
    return [section for section in made if section.charts or section.matrices]


def _section_of(described: TableFormat) -> _Section:
    words = {column: [column.unit.replace(FRACTION, "%"), _BETTER[column.direction]] for column in described.values}
    meanings = {
        f"{column.name} ({'; '.join(filter(None, parts))})" if any(parts) else column.name: column.meaning
        for column, parts in words.items()
    }
    heading = described.name.replace("_", " ").capitalize()
    return _Section(f"measured-{described.name}", heading, described.about, meanings)


def _matrices(described: TableFormat, heading: str, table: Table) -> list[dict[str, Any]]:
    """The counts of each group after its last task, coloured by their share of the row; too large ones are left out."""
    made, (down, across) = [], described.keys[-2:]
    for place, row in enumerate(table.rows, 1):
        counts = series.counted(row.group, described)
        names = [sorted({key[axis] for key in counts}, key=lambda text: (len(text), text)) for axis in (0, 1)]
        if counts and max(map(len, names)) <= charts.FEW:
            caption = f"{place} · {row.label}: {described.values[0].meaning}, after the last task"
            made.append(
                {
                    "label": heading,
                    "corner": f"{down} \\ {across}",
                    "columns": names[1],
                    "rows": [(name, _shares(name, names[1], counts)) for name in names[0]],
                    "forgotten": [],
                    "caption": f"{caption}; {mean_over(row, described.name, bands=False)}",
                }
            )
    return made


def _shares(name: str, columns: Sequence[str], counts: Mapping[tuple[str, str], Summary]) -> list[dict[str, str]]:
    """The cells of a row: counts, with colours for their shares of it."""
    values = [counts[name, column].mean if (name, column) in counts else 0.0 for column in columns]
    total = sum(values) or 1.0
    return [_coloured(number(value, "", 0 if value == int(value) else 1), value / total) for value in values]
