"""A report as one HTML file that needs no network: the table, charts with their numbers, dreams, and how to repeat it.

The charts are drawn here, by matplotlib, and not in the browser: the page is small, can be read without scripts, and
what is drawn can be printed. Scripts only sort, filter and fold what is there. What stands where is in page.html.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gr_cli._version import __version__
from gr_cli.errors import one_line
from gr_cli.report import charts, series
from gr_cli.report.groups import Grouping, last_sign, seeds_shown
from gr_cli.report.statistics import Summary, summarised
from gr_cli.report.tables import Row, Shown, Table, mean_and_sem, number, remarks, shown_table, title
from gr_cli.results.discovery import FoundRun
from gr_cli.results.folder import DREAMS_TABLE
from gr_cli.results.metrics import FRACTIONS, JUDGE
from gr_cli.system.reading import read_bytes, read_text

_SHARE = "average_accuracy"  # how accuracies are shown
_OPEN = 3  # so many groups are unfolded at first
_STATISTICS = ("mean", "standard error", "half of the 95 % interval", "n")
_KNOWN = f"dream_{JUDGE}"

# What the measures of dreams say, in the order in which they are drawn.
_MEASURES = {
    "agreement": "dreams that the judge takes for the class as which they are replayed",
    "share": "dreams that the judge takes for classes of that task; 100 %: as many as are due",
    "balance": "how evenly, over these classes (entropy of their shares; 100 %: all alike)",
    "precision": "dreams that lie where real samples lie: are they like real ones?",
    "recall": "real samples that lie where dreams lie: could they have been dreamt?",
    "density": "as precision, but counts how many real samples are near; about 1 for real ones",
    "coverage": "real samples that have a dream near by: how much of what is real is dreamt?",
    "Fréchet distance": "between real and dreamt features, whose variance is 1; 0: the same. Few samples enlarge it",
}


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
        "quality": _quality(table),
        "measures": _MEASURES,
        "groups": [_group(place, row) for place, row in enumerate(table.rows)],
        "newline": Markup("\n"),
    }
    # Last, when all else is made: the files that it had to leave out are among them.
    broken = [f"{run.path}: {why}; left out of the charts" for run in runs for why in run.broken.values()]
    return environment.get_template("page.html").render(shown, remarks=[*remarks(table), *broken])


def _on_one_line(value: object) -> object:
    """Any value as text of the page: without control characters, which HTML can't hold."""
    return value if isinstance(value, Markup) else one_line(value)


# --- charts


@dataclass(frozen=True)
class Chart:
    """A drawing with a caption, with words for who can't see it (`alt`), and with its numbers."""

    kind: str
    name: str
    drawing: Markup
    caption: str
    alt: str
    numbers: Shown


def _chart(kind: str, name: str, figure: charts.Figure, caption: str, alt: str, numbers: Shown) -> Chart:
    return Chart(kind, name, Markup(charts.svg(figure, name)), caption, alt, numbers)


def _comparison(table: Table) -> list[Chart]:
    made = []
    for metric in table.metrics:
        named = {
            f"{i + 1} · {row.label}": summary for i, row in enumerate(table.rows) if (summary := row.metrics[metric])
        }
        if named:
            figure = charts.comparison(named, title(metric), _scale(metric), page=True)
            caption = f"{title(metric)} with 95 % confidence intervals"
            best = max(named, key=lambda name: named[name].mean)
            alt = f"{caption}; highest: {best} with {number(named[best].mean, metric)}"
            rows = [[name, *_numbers(summary, metric)] for name, summary in named.items()]
            numbers = Shown(["configuration", *_STATISTICS], rows, 1)
            made.append(_chart("comparison", f"compare-{metric}", figure, caption, alt, numbers))
    return made


def _sweeps(table: Table) -> list[Chart]:
    metric, made = table.metrics[0], []
    for sweep in series.sweeps(table):
        name = f"sweep-{re.sub(r'[^a-z0-9]+', '-', sweep.column.name.lower())}"
        figure = charts.sweep(sweep.lines, sweep.column.label, title(metric), _scale(metric), page=True)
        caption = f"{title(metric)} by {sweep.column.label}, with 95 % confidence intervals"
        alt, numbers = _told(caption, sweep.lines, metric), _line_numbers(sweep.lines, sweep.column.label, metric)
        made.append(_chart("sweep", name, figure, caption, alt, numbers))
    return made


def _quality(table: Table) -> list[Chart]:
    """What became of the dreams of each task, group by group."""
    made, found = [], [series.dreams(row.group) for row in table.rows]
    tops = series.tops(found)
    for place, (row, drawn) in enumerate(zip(table.rows, found, strict=True)):
        if drawn:
            caption = f"{place + 1} · {row.label}: dreams of each task as training goes on; mean over "
            seeds = _seeds_with(row, DREAMS_TABLE)
            caption += f"{seeds_shown(seeds)} (n = {len(seeds)})"
            caption += "; bands: standard error" if len(seeds) > 1 else ""
            if judge := summarised(list(row.group.metric(_KNOWN).values())):
                caption += f"; of real samples the judge knows {number(judge.mean, _KNOWN, 1)} %"
            told = "; ".join(_told(title(metric), [lines[0], lines[-1]], metric) for metric, lines in drawn.items())
            numbers = [
                [title(metric).removeprefix("dream "), *cells]
                for metric, lines in drawn.items()
                for cells in _line_numbers(lines, "", metric).rows
            ]
            shown = Shown(["measure", "line", "tasks learnt", *_STATISTICS], numbers, 2)
            figure = charts.dreams(drawn, tops, page=True)
            made.append(_chart("quality", f"quality-{place}", figure, caption, f"{caption}. {told}", shown))
    return made


def _scale(metric: str) -> float:
    return 100.0 if metric in FRACTIONS else 1.0


def _numbers(summary: Summary, metric: str) -> list[str]:
    """The statistics of a summary as cells, in the unit of the metric."""
    parts = [summary.mean, summary.sem, summary.half]
    return [*("–" if part is None else number(part, metric, 3) for part in parts), str(summary.n)]


def _line_numbers(lines: Iterable[series.Line], x: str, metric: str) -> Shown:
    rows = [[line.name, f"{at:g}", *_numbers(point, metric)] for line in lines for at, point in line.points.items()]
    return Shown(["line", x, *_STATISTICS], rows, 1)


def _told(caption: str, lines: Sequence[series.Line], metric: str) -> str:
    """A chart of lines in words: where each begins and ends."""
    ends = []
    for line in (line for line in lines if line.points):
        (first, begin), (last, end) = next(iter(line.points.items())), list(line.points.items())[-1]
        ends.append(
            f"{line.name} from {number(begin.mean, metric)} at {first:g} to {number(end.mean, metric)} at {last:g}"
        )
    return f"{caption}: {'; '.join(ends)}"


# --- one group


def _group(place: int, row: Row) -> dict[str, Any]:
    """What the page says of a group, by the names that page.html has for it."""
    group, name, metric = row.group, f"group-{place}", next(iter(row.metrics))
    seeds = f"{row.n} of {len(group.seeds)} {'seeds' if len(group.seeds) != 1 else 'seed'}"
    pictured, pictures = _pictures(list(group.finished.values()))
    return {
        "name": name,
        "label": f"{place + 1} · {row.label}",
        "open": place < _OPEN,
        "result": f"{title(metric)} {mean_and_sem(row.metrics[metric], metric, row.n)} · {seeds}",
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
    caption = f"{caption} over {seeds_shown(_seeds_with(row, 'accuracy_matrix.csv'))}"
    many = len(tasks) > charts.FEW
    return {
        "kind": "matrix",
        "name": name,
        "drawing": Markup(charts.svg(charts.heat_map(cells, page=True), name)) if many else None,
        "caption": caption,
        "alt": caption,
        "tasks": tasks,
        "rows": [(i, [_cell(cells.get((i, j))) for j in tasks]) for i in after],
        "forgotten": [_cell(lost.get(j)) for j in tasks] if lost else [],
    }


def _cell(summary: Summary | None) -> dict[str, str] | None:
    """A mean in percent with its standard error, and colours for it."""
    if summary is None:
        return None
    error = "" if summary.sem is None else number(summary.sem, _SHARE, 1)
    back, front = charts.colour_of(summary.mean), charts.readable_on(summary.mean)
    return {"mean": number(summary.mean, _SHARE, 1), "error": error, "back": back, "front": front}


def _seeds_with(row: Row, table: str) -> list[int]:
    """The seeds of a row whose table could be read."""
    return [seed for seed, run in row.group.finished.items() if table not in run.broken]


def _curves(row: Row, name: str) -> list[Chart]:
    if not (lines := series.curves(row.group)):
        return []
    caption = "Test accuracy (%) of each task as training goes on; bands: standard error"
    told, numbers = _told(caption, lines, _SHARE), _line_numbers(lines, "tasks learnt", _SHARE)
    return [_chart("curves", name, charts.curves(lines, page=True), caption, told, numbers)]


def _losses(row: Row, name: str) -> list[Chart]:
    if not (lines := series.losses(row.group)):
        return []
    caption = "Losses by iteration through all tasks; bands: standard error"
    told, numbers = _told(caption, lines, "loss"), _line_numbers(lines, "iteration", "loss")
    return [_chart("losses", name, charts.losses(lines, page=True), caption, told, numbers)]


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
    average = (run.metrics or {}).get(_SHARE)
    return {
        "seed": run.seed,
        "state": run.state,
        "accuracy": "–" if average is None else number(average, _SHARE),
        "command": run.status.get("command", ""),
        "folder": run.path,
    }


def _config(run: FoundRun) -> list[str]:
    """The lines of its configuration."""
    with run.leaving_out("config.yaml"):
        return read_text(run.path / "config.yaml").split("\n")
    return []
