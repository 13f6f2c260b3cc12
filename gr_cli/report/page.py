"""A report as one HTML file that needs no network: the table, charts with their numbers, dreams, and how to repeat it.

The charts are drawn here, by matplotlib, and not in the browser: the page is small, can be read without scripts, and
what is drawn can be printed. Scripts only sort, filter and fold what is there.
"""

from __future__ import annotations

import base64
import html as markup
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

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


def html(grouping: Grouping, table: Table) -> str:
    """The whole page."""
    runs = [run for group in grouping.groups for run in group.runs]
    finished = sum(run.finished for run in runs)
    counted = f"{finished} finished of {len(runs)} runs in {len(table.rows)} configurations"
    sections = [
        _section("comparison", "Side by side", _comparison(table)),
        _section("sweeps", "What the settings do", _sweeps(table)),
        _section("dreams", "How good the dreams are", _quality(table)),
        _section("groups", "One by one", "".join(_group(i, row) for i, row in enumerate(table.rows))),
    ]
    # Comes first, but is made last: it says what the others had to leave out.
    sections.insert(0, _section("table", "All runs", _main_table(table, runs)))
    here = [section for section in sections if section]
    links = "".join(
        f'<a href="#{name}">{text}</a>' for name, text in re.findall(r'id="([\w-]+)"><h2>(.*?)</h2>', "".join(here))
    )
    ours = files("gr_cli.report")
    style, script = (ours.joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    newest = max(runs, key=last_sign).status.get("updated", "") if runs else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>gr-report: {counted}</title><style>{style}</style></head>\n<body>"
        f'<a class="skip" href="#table">to the table</a><header><h1>Continual learning: {len(table.rows)} '
        f"{'configurations' if len(table.rows) != 1 else 'configuration'} compared</h1>"
        f"<p>{counted}; the newest of {_text(newest)}; gr {_text(__version__)}</p><nav>{links}</nav></header>"
        f"<main>{''.join(here)}</main><script>{script}</script></body></html>\n"
    )


def _text(text: str) -> str:
    """Any text as text of the page."""
    return markup.escape(one_line(text))


def _section(name: str, heading: str, content: str) -> str:
    return f'<section id="{name}"><h2>{heading}</h2>{content}</section>\n' if content else ""


# --- tables


def _html_table(shown: Shown, kind: str, caption: str, sortable: bool = False, ids: Sequence[str] = ()) -> str:
    """A table that scrolls by itself where it is too wide, by keyboard too."""
    sides = ["" if i < shown.words else ' class="n"' for i in range(len(shown.headers))]
    heads = [f'<button type="button">{_text(text)}</button>' if sortable else _text(text) for text in shown.headers]
    sort = ' aria-sort="none"' if sortable else ""
    head = "".join(f'<th scope="col"{side}{sort}>{text}</th>' for side, text in zip(sides, heads, strict=True))
    body = []
    for place, row in enumerate(shown.rows):
        cells = [f"<td{side}>{_text(cell)}</td>" for side, cell in zip(sides, row, strict=True)]
        if ids:
            cells[0] = f'<td><a href="#{ids[place]}">{_text(row[0])}</a></td>'
        body.append(f"<tr>{''.join(cells)}</tr>")
    table = f"<caption>{_text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    return _scrolling(f'<table class="{kind}">{table}</table>', caption)


def _scrolling(content: str, label: str) -> str:
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(label)}">{content}</div>'


def _main_table(table: Table, runs: Iterable[FoundRun]) -> str:
    shown = shown_table(table)
    ids = [f"group-{i}" for i in range(len(table.rows))]
    caption = "A row for each configuration; press a heading to sort by it"
    filter_ = (
        '<p class="controls"><label>Show rows with <input type="search" id="filter" autocomplete="off"></label> '
        '<output id="matches" for="filter"></output></p>'
    )
    broken = [f"{run.path}: {why}; left out of the charts" for run in runs for why in run.broken.values()]
    told = "".join(f"<li>{_text(line)}</li>" for line in [*remarks(table), *broken])
    return filter_ + _html_table(shown, "all", caption, sortable=True, ids=ids) + f'<ul class="remarks">{told}</ul>'


# --- charts


def _figure(kind: str, name: str, drawing: str, caption: str, alt: str, numbers: Shown) -> str:
    """A chart with words for who can't see it, and with its numbers."""
    return _drawn(kind, name, drawing, caption, alt, _html_table(numbers, kind, f"Numbers of: {caption}"))


def _drawn(kind: str, name: str, drawing: str, caption: str, alt: str, numbers: str) -> str:
    return (
        f'<figure class="{kind}"><div role="img" aria-label="{_text(alt)}" id="{name}">{drawing}</div>'
        f"<figcaption>{_text(caption)}</figcaption><details><summary>The numbers</summary>{numbers}</details></figure>"
    )


def _comparison(table: Table) -> str:
    made = []
    for metric in table.metrics:
        named = {
            f"{i + 1} · {row.label}": summary for i, row in enumerate(table.rows) if (summary := row.metrics[metric])
        }
        if named:
            scale = 100.0 if metric in FRACTIONS else 1.0
            drawing = charts.svg(charts.comparison(named, title(metric), scale, page=True), f"compare-{metric}")
            caption = f"{title(metric)} with 95 % confidence intervals"
            best = max(named, key=lambda name: named[name].mean)
            alt = f"{caption}; highest: {best} with {number(named[best].mean, metric)}"
            rows = [[name, *_numbers(summary, metric)] for name, summary in named.items()]
            numbers = Shown(["configuration", *_STATISTICS], rows, 1)
            made.append(_figure("comparison", f"compare-{metric}", drawing, caption, alt, numbers))
    return f'<div class="charts">{"".join(made)}</div>' if made else ""


def _sweeps(table: Table) -> str:
    metric, made = table.metrics[0], []
    for sweep in series.sweeps(table):
        name = f"sweep-{re.sub(r'[^a-z0-9]+', '-', sweep.column.name.lower())}"
        scale = 100.0 if metric in FRACTIONS else 1.0
        drawing = charts.svg(charts.sweep(sweep.lines, sweep.column.label, title(metric), scale, page=True), name)
        caption = f"{title(metric)} by {sweep.column.label}, with 95 % confidence intervals"
        made.append(
            _figure(
                "sweep",
                name,
                drawing,
                caption,
                _told(caption, sweep.lines, metric),
                _line_numbers(sweep.lines, sweep.column.label, metric),
            )
        )
    return f'<div class="charts">{"".join(made)}</div>' if made else ""


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


def _quality(table: Table) -> str:
    """What became of the dreams of each task, group by group."""
    made, found = [], [series.dreams(row.group) for row in table.rows]
    tops = series.tops(found)
    for place, (row, drawn) in enumerate(zip(table.rows, found, strict=True)):
        if drawn:
            name = f"quality-{place}"
            caption = f"{place + 1} · {row.label}: dreams of each task as training goes on; mean over "
            seeds = _seeds_with(row, DREAMS_TABLE)
            caption += f"{seeds_shown(seeds)} (n = {len(seeds)})"
            caption += "; bands: standard error" if len(seeds) > 1 else ""
            if judge := summarised(list(row.group.metric(_KNOWN).values())):
                caption += f"; of real samples the judge knows {number(judge.mean, _KNOWN, 1)} %"
            drawing = charts.svg(charts.dreams(drawn, tops, page=True), name)
            told = "; ".join(_told(title(metric), [lines[0], lines[-1]], metric) for metric, lines in drawn.items())
            numbers = [
                [title(metric).removeprefix("dream "), *cells]
                for metric, lines in drawn.items()
                for cells in _line_numbers(lines, "", metric).rows
            ]
            shown = Shown(["measure", "line", "tasks learnt", *_STATISTICS], numbers, 2)
            made.append(_figure("quality", name, drawing, caption, f"{caption}. {told}", shown))
    meanings = "".join(f"<li><b>{_text(name)}</b>: {_text(said)}</li>" for name, said in _MEASURES.items())
    told = f'<ul class="remarks">{meanings}</ul>'
    return f'<p>{_ABOUT_THE_JUDGE}</p><div class="charts">{told}{"".join(made)}</div>' if made else ""


_KNOWN = f"dream_{JUDGE}"
_ABOUT_THE_JUDGE = (
    "A small network that learnt the whole benchmark at once judges dreams of each task, after every task, beside real "
    "test samples."
)
_STATISTICS = ("mean", "standard error", "half of the 95 % interval", "n")


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


def _group(place: int, row: Row) -> str:
    group, name, metric = row.group, f"group-{place}", next(iter(row.metrics))
    seeds = f"{row.n} of {len(group.seeds)} {'seeds' if len(group.seeds) != 1 else 'seed'}"
    found = f"{title(metric)} {mean_and_sem(row.metrics[metric], metric, row.n)} · {seeds}"
    drawn = "".join((_heat_map(row, name), _curves(row, name), _losses(row, name)))
    told = "".join(f"<li>{_text(note)}</li>" for note in row.notes)
    parts = [
        f'<details class="group" id="{name}"{" open" if place < _OPEN else ""}>',
        f"<summary><h3>{place + 1} · {_text(row.label)}</h3> <span>{_text(found)}</span></summary>",
        f'<ul class="remarks">{told}</ul>' if told else "",
        f'<div class="charts">{drawn}</div>' if drawn else "",
        _dreams(list(group.finished.values())),
        _runs(group.runs),
        _config(group.runs[0]),
        "</details>\n",
    ]
    return "".join(parts)


def _heat_map(row: Row, name: str) -> str:
    """As a table whose cells are coloured: its numbers can be read, copied and heard; of many tasks, drawn above it."""
    cells, lost = series.matrix(row.group), series.forgotten(row.group)
    if not cells:
        return ""
    after, tasks = sorted({i for i, _ in cells}), sorted({j for _, j in cells})
    head = "".join(f'<th scope="col">{task}</th>' for task in tasks)
    lines = [f'<th scope="row">after {i}</th>{"".join(_hot(cells.get((i, j))) for j in tasks)}' for i in after]
    foot = "".join(f'<td class="n">{_two_lines(lost.get(j))}</td>' for j in tasks)
    caption = "Test accuracy (%) on each task (across) after each (down); mean ± standard error"
    caption = f"{caption} over {seeds_shown(_seeds_with(row, 'accuracy_matrix.csv'))}"
    table = (
        f'<table class="heat"><thead><tr><td>task</td>{head}</tr></thead>'
        f"<tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody>"
        + (f'<tfoot><tr><th scope="row">forgotten</th>{foot}</tr></tfoot>' if lost else "")
        + "</table>"
    )
    shown = _scrolling(table, "Accuracy matrix")
    if len(tasks) > charts.FEW:
        drawing = charts.svg(charts.heat_map(cells, page=True), f"{name}-matrix")
        return _drawn("matrix", f"{name}-matrix", drawing, caption, caption, shown)
    return f'<figure class="heat">{shown}<figcaption>{caption}</figcaption></figure>'


def _seeds_with(row: Row, table: str) -> list[int]:
    """The seeds of a row whose table could be read."""
    return [seed for seed, run in row.group.finished.items() if table not in run.broken]


def _hot(summary: Summary | None) -> str:
    if summary is None:
        return "<td>–</td>"
    back, front = charts.colour_of(summary.mean), charts.readable_on(summary.mean)
    return f'<td class="n" style="background:{back};color:{front}">{_two_lines(summary)}</td>'


def _two_lines(summary: Summary | None) -> str:
    """A mean in percent, and below it its standard error."""
    if summary is None:
        return "–"
    error = "" if summary.sem is None else f"<small>± {number(summary.sem, 'average_accuracy', 1)}</small>"
    return f"{number(summary.mean, 'average_accuracy', 1)} {error}"


def _curves(row: Row, name: str) -> str:
    lines = series.curves(row.group)
    if not lines:
        return ""
    caption = "Test accuracy (%) of each task as training goes on; bands: standard error"
    drawing = charts.svg(charts.curves(lines, page=True), f"{name}-curves")
    told, numbers = _told(caption, lines, _SHARE), _line_numbers(lines, "tasks learnt", _SHARE)
    return _figure("curves", f"{name}-curves", drawing, caption, told, numbers)


def _losses(row: Row, name: str) -> str:
    lines = series.losses(row.group)
    if not lines:
        return ""
    caption = "Losses by iteration through all tasks; bands: standard error"
    drawing = charts.svg(charts.losses(lines, page=True), f"{name}-losses")
    told, numbers = _told(caption, lines, "loss"), _line_numbers(lines, "iteration", "loss")
    return _figure("losses", f"{name}-losses", drawing, caption, told, numbers)


def _dreams(runs: Sequence[FoundRun]) -> str:
    """What the generator of the first seed that has pictures dreams after each task."""
    for run in runs:
        pictures = [_picture(path, task, run) for task, path in sorted(_grids(run).items())]
        if any(pictures):
            shown = f'<div class="dreams">{"".join(pictures)}</div>'
            return f"<h4>What the generator dreams after each task, seed {run.seed}</h4>{_scrolling(shown, 'Dreams')}"
    return ""


def _grids(run: FoundRun) -> dict[int, Path]:
    """Pictures of samples by task."""
    figures = run.folder.figures
    if figures.is_symlink():
        return {}
    named = (
        (re.fullmatch(r"samples_task_(\d{1,6})\.png", path.name, re.ASCII), path) for path in figures.glob("*.png")
    )
    return {int(found[1]): path for found, path in named if found}


def _picture(path: Path, task: int, run: FoundRun) -> str:
    """Empty if it is broken, of which the run takes note."""
    data, seed = "", run.seed
    with run.leaving_out(path.name):
        data = base64.b64encode(charts.thumbnail(read_bytes(path), path.name)).decode()
    if not data:
        return ""
    alt = f"Grid of samples that the generator dreams after task {task}, seed {seed}"
    image = f'<img src="data:image/jpeg;base64,{data}" alt="{alt}" loading="lazy">'
    return f"<figure>{image}<figcaption>after task {task}</figcaption></figure>"


def _runs(runs: Iterable[FoundRun]) -> str:
    """Where each run lies, what became of it, and how to repeat it."""
    names = ("seed", "state", "average accuracy (%)", "command that repeats it", "folder")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = []
    for run in sorted(runs, key=lambda run: (run.seed, str(run.path))):
        average = (run.metrics or {}).get(_SHARE)
        accuracy, state = "–" if average is None else number(average, _SHARE), _text(run.state)
        command = f"<code>{_text(str(run.status.get('command', '')))}</code>"
        cells = [
            f'<td class="n">{run.seed}</td><td class="state {state}">{state}</td><td class="n">{accuracy}</td>',
            f'<td>{command} <button type="button" class="copy">copy</button></td>',
            f"<td><code>{_text(str(run.path))}</code></td>",
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    table = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return _scrolling(f'<table class="runs"><caption>The runs</caption>{table}</table>', "Runs")


def _config(run: FoundRun) -> str:
    text = ""
    with run.leaving_out("config.yaml"):
        text = "\n".join(map(_text, read_text(run.path / "config.yaml").split("\n")))
    return f'<details><summary>Configuration (of seed {run.seed})</summary><pre tabindex="0">{text}</pre></details>'
