"""A report as one HTML file that needs no network: the table, charts with their numbers, dreams, and how to repeat it.

The charts are drawn here, by matplotlib, and not in the browser: the page is small, can be read without scripts, and
what is drawn can be printed. Scripts only sort, filter and fold what is there. What stands where is in page.html.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gr_cli._version import __version__
from gr_cli.errors import one_line
from gr_cli.report import charts, measured, series
from gr_cli.report.groups import Grouping, last_sign, seeds_shown
from gr_cli.report.page_chart import STATISTICS, Chart, alt_text, chart_of, line_numbers, numbers_of
from gr_cli.report.statistics import Summary
from gr_cli.report.tables import Row, Shown, Table, mean_and_sem, number, remarks, scale, shown_table, title
from gr_cli.results.discovery import FoundRun
from gr_cli.results.tables import FRACTION
from gr_cli.system.reading import read_bytes, read_text

_OPEN = 3  # so many groups are unfolded at first


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
        "comparison": _comparison(table),
        "sweeps": _sweeps(table),
        "evaluations": measured.sections(table),
        "groups": [_group(place, row, table) for place, row in enumerate(table.rows)],
        "newline": Markup("\n"),
    }
    # Last, when all else is made: the files that it had to leave out are among them.
    broken = [f"{run.path}: {why}; left out of the charts" for run in runs for why in run.broken.values()]
    return environment.get_template("page.html").render(shown, remarks=[*remarks(table), *broken])


def _on_one_line(value: object) -> object:
    """Any value as text of the page: without control characters, which HTML can't hold."""
    return value if isinstance(value, Markup) else one_line(value)


# --- charts


def _comparison(table: Table) -> list[Chart]:
    made = []
    for metric in table.metrics:
        named = {
            f"{i + 1} · {row.label}": summary for i, row in enumerate(table.rows) if (summary := row.metrics[metric])
        }
        if named:
            unit = table.units[metric]
            figure = charts.comparison(named, title(metric, unit), scale(unit), page=True)
            caption = f"{title(metric, unit)} with 95 % confidence intervals"
            best = max(named, key=lambda name: named[name].mean)
            alt = f"{caption}; highest: {best} with {number(named[best].mean, unit)}"
            rows = [[name, *numbers_of(summary, unit)] for name, summary in named.items()]
            numbers = Shown(["configuration", *STATISTICS], rows, 1)
            made.append(chart_of("comparison", f"compare-{metric}", figure, caption, alt, numbers))
    return made


def _sweeps(table: Table) -> list[Chart]:
    metric, made = table.metrics[0], []
    for sweep in series.sweeps(table):
        name = f"sweep-{re.sub(r'[^a-z0-9]+', '-', sweep.column.name.lower())}"
        unit = table.units[metric]
        figure = charts.sweep(sweep.lines, sweep.column.label, title(metric, unit), scale(unit), page=True)
        caption = f"{title(metric, unit)} by {sweep.column.label}, with 95 % confidence intervals"
        alt, numbers = alt_text(caption, sweep.lines, unit), line_numbers(sweep.lines, sweep.column.label, unit)
        made.append(chart_of("sweep", name, figure, caption, alt, numbers))
    return made


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
        "charts": [*_curves(row, f"{name}-curves"), *_losses(row, f"{name}-losses")],
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
    back, front = charts.colour_of(summary.mean), charts.readable_on(summary.mean)
    return {"mean": number(summary.mean, FRACTION, 1), "error": error, "back": back, "front": front}


def _curves(row: Row, name: str) -> list[Chart]:
    if not (lines := series.curves(row.group)):
        return []
    caption = "Test accuracy (%) of each task as training goes on; bands: standard error"
    alt, numbers = alt_text(caption, lines, FRACTION), line_numbers(lines, "tasks learnt", FRACTION)
    return [chart_of("curves", name, charts.curves(lines, page=True), caption, alt, numbers)]


def _losses(row: Row, name: str) -> list[Chart]:
    if not (lines := series.losses(row.group)):
        return []
    caption = "Losses by iteration through all tasks; bands: standard error"
    alt, numbers = alt_text(caption, lines, ""), line_numbers(lines, "iteration", "")
    return [chart_of("losses", name, charts.losses(lines, page=True), caption, alt, numbers)]


def _pictures(runs: Sequence[FoundRun]) -> tuple[int, dict[int, str]]:
    """What the generator of the first seed that has pictures dreams after each task: the seed, and them in base64."""
    for run in runs:
        pictures = {}
        for task, path in sorted(_grids(run).items()):
            with run.leaving_out(path.name):  # it may be broken
                pictures[task] = base64.b64encode(charts.thumbnail(read_bytes(path), path.name)).decode()
        if pictures:
            return run.seed, pictures
    return 0, {}


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
