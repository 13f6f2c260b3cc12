"""The figures of an audit as CSV, JSON and Markdown, as a table for the terminal, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gr_cli.audit.attacks import ATTACKS, FALSE_POSITIVE_RATES, AttackRow
from gr_cli.errors import FolderError
from gr_cli.report.formats import csv_file, json_file, markdown
from gr_cli.report.tables import TextTable
from gr_cli.results.tables import ALL_TASKS
from gr_cli.system.reading import naming_file, parse_finite_float, read_table
from gr_cli.terminal.fitted_table import FittedColumn, FittedTable

if TYPE_CHECKING:
    from gr_cli.results.charts import Figure

_SHOWN = ATTACKS[0].name  # the attack of the terminal's table and of the picture
_METRICS = {"auc": "AUC"} | {
    f"tpr_at_fpr_{rate:g}": f"TPR at {100 * rate:g} % FPR" for rate in reversed(FALSE_POSITIVE_RATES)
}
_Cell = tuple[str, str]  # part and metric

Runs = Mapping[str, Sequence[AttackRow]]
"""The figures of each audited run, by its name."""


def notes(shadows: int, overrides: Sequence[str]) -> list[str]:
    """What the figures of the shown attack mean, in a few lines."""
    lines = [
        f"likelihood-ratio attack on {shadows} shadow runs, each in turn the target; in brackets intervals of 95 % by "
        "bootstrap over targets and candidates; an AUC of 0.5 is guessing",
        "a rate of true positives is empty where fewer than 10 false positives are expected",
    ]
    if overrides:
        lines.append(f"the shadows differ from the run: {' '.join(overrides)}")
    return lines


def csv_text(runs: Runs) -> str:
    """All figures as CSV; with a column for the run if there are several."""
    several = len(runs) > 1
    rows = [[*([name] if several else []), *row] for name, of_run in runs.items() for row in of_run]
    return csv_file([*(["run"] if several else []), *AttackRow._fields], rows)


def read_rows(path: Path) -> list[AttackRow]:
    """The figures of one run from their CSV file.

    Raises:
        FolderError: The file can't be read, or holds something else.
    """
    try:
        table = read_table(path)
        with naming_file(path):
            return [_row(cells) for cells in table]
    except (OSError, ValueError) as error:
        raise FolderError(f"{path}: can't be read ({error}); remove it, and repeat the command") from error


def _row(cells: Mapping[str, str]) -> AttackRow:
    task = cells["task"]
    value, low, high = (parse_finite_float(cells[name]) if cells[name] else None for name in ("value", "low", "high"))
    return AttackRow(
        int(cells["after_task"]),
        task if task == ALL_TASKS else int(task),
        cells["part"],
        cells["attack"],
        cells["metric"],
        value,
        low,
        high,
        int(cells["n"]),
    )


def json_text(runs: Runs) -> str:
    """All figures as JSON."""
    rows = [{"run": name, **row._asdict()} for name, of_run in runs.items() for row in of_run]
    return json_file({"attacks": {attack.name: attack.description for attack in ATTACKS}, "rows": rows})


def markdown_text(rows: Sequence[AttackRow], lines: Sequence[str]) -> str:
    """The figures of the likelihood-ratio attack as Markdown."""
    columns = _columns(rows)
    headers = ["after task", "task", *(f"{part} {_METRICS[metric]}" for part, metric in columns)]
    table = [[*map(str, key), *(cells.get(column, "") for column in columns)] for key, cells in _lines(rows).items()]
    return markdown(TextTable(headers, table, 2), lines)


def fitted_table(rows: Sequence[AttackRow], heading: Sequence[str], below: Sequence[str]) -> FittedTable:
    """The figures of the likelihood-ratio attack for the terminal."""
    lines, columns = _lines(rows), _columns(rows)
    names = [
        FittedColumn("after task", tuple(str(after) for after, _ in lines), is_text=True),
        FittedColumn("task", tuple(str(task) for _, task in lines), is_text=True),
    ]
    values = [
        FittedColumn(f"{part} {_METRICS[metric]}", tuple(cells.get((part, metric), "") for cells in lines.values()))
        for part, metric in columns
    ]
    return FittedTable(list(heading), [names], values, [], list(below))


def _lines(rows: Sequence[AttackRow]) -> dict[tuple[int, int | str], dict[_Cell, str]]:
    """The cells of each line, by task trained last and attacked task."""
    lines: dict[tuple[int, int | str], dict[_Cell, str]] = {}
    for row in rows:
        if row.attack == _SHOWN:
            lines.setdefault((row.after_task, row.task), {})[row.part, row.metric] = _cell(row)
    return lines


def _columns(rows: Sequence[AttackRow]) -> list[_Cell]:
    """Parts and metrics that have a value; the areas under the curves come first."""
    shown = [row for row in rows if row.attack == _SHOWN and row.value is not None]
    parts = dict.fromkeys(row.part for row in shown)
    present = {(row.part, row.metric) for row in shown}
    return [(part, metric) for metric in _METRICS for part in parts if (part, metric) in present]


def _cell(row: AttackRow) -> str:
    """A value with its interval: `0.62 (0.59, 0.65)`; rates in percent."""
    if row.value is None:
        return ""
    is_rate = row.metric != "auc"
    ends = [row.value] if row.low is None or row.high is None else [row.value, row.low, row.high]
    value, *interval = (f"{100 * end:.1f}" if is_rate else f"{end:.3f}" for end in ends)
    return f"{value} ({', '.join(interval)})" if interval else value


# --- picture


def audit_figure(rows: Sequence[AttackRow]) -> Figure | None:
    """The area under the curve on the samples of each task, after each task; one panel for each part."""
    from gr_cli.results.charts import measure_panels
    from gr_cli.results.curves import ALL_TASKS_LINE, Curve
    from gr_cli.results.statistics import Summary
    from gr_cli.results.tables import Column

    shown = [row for row in rows if row.attack == _SHOWN and row.metric == "auc" and row.value is not None]
    tasks = dict.fromkeys(row.task for row in shown if row.task != ALL_TASKS)
    panels: dict[Column, list[Curve]] = {}
    for part in dict.fromkeys(row.part for row in shown):
        curves = []
        for task in [*tasks, ALL_TASKS]:
            points = {
                float(row.after_task + 1): Summary(row.value, None, None, row.n)
                for row in shown
                if row.part == part and row.task == task and row.value is not None
            }
            curves.append(Curve(ALL_TASKS_LINE if task == ALL_TASKS else f"task {task}", points))
        panels[Column(part, f"area under the curve of the {part}", "")] = curves
    if not panels:
        return None
    figure = measure_panels(panels, dict.fromkeys(panels, 1.0))
    _show_guessing(figure, [row.value for row in shown if row.value is not None])
    return figure


def _show_guessing(figure: Figure, areas: Sequence[float]) -> None:
    """Give all panels the same range, which the values fill, with the area of guessing as a line."""
    low, high = min(0.5, *areas), max(0.5, *areas)
    margin = max(0.1 * (high - low), 0.02)
    for i, axes in enumerate(figure.axes):
        box = axes.get_position()
        axes.set_position((0.14 + 0.49 * (i % 2), box.y0, 0.35, box.height))
        axes.set_ylim(low - margin, high + margin)
        start, end = axes.get_xlim()
        axes.set_xticks([tick for tick in axes.get_xticks() if start <= tick <= end])
        axes.set_xlim(start, end + 0.4 * (end - start))  # room for the name of the line
        axes.axhline(0.5, color="black", linewidth=0.5, linestyle=":", zorder=0)
        axes.annotate(
            "guessing",
            (1.0, 0.5),
            xycoords=("axes fraction", "data"),
            xytext=(0, 1),
            textcoords="offset points",
            ha="right",
            fontsize=5.5,
        )
        if i % 2 == 0:
            axes.set_ylabel("area under the curve", fontsize=6.5)


def save_figure(rows: Sequence[AttackRow], path: Path) -> None:
    """Write the picture as SVG and PDF; `path` has no suffix. Without a value there is none."""
    from gr_cli.results.charts import save_for_paper

    if (figure := audit_figure(rows)) is not None:
        save_for_paper(figure, path)
