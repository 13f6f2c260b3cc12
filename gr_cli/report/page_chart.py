"""A chart of the page: its drawing, with the words and numbers that go with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gr_cli.report import charts
from gr_cli.report.series import Line
from gr_cli.report.statistics import Summary
from gr_cli.report.tables import Shown, number

STATISTICS = ("mean", "standard error", "half of the 95 % interval", "n")


@dataclass(frozen=True)
class Chart:
    """A drawing with a caption, with words for who can't see it (`alt`), and with its numbers."""

    kind: str
    name: str
    drawing: Markup
    caption: str
    alt: str
    numbers: Shown


def chart_of(kind: str, name: str, figure: charts.Figure, caption: str, alt: str, numbers: Shown) -> Chart:
    """The chart of a figure."""
    return Chart(kind, name, Markup(charts.svg(figure, name)), caption, alt, numbers)


def numbers_of(summary: Summary, unit: str) -> list[str]:
    """The statistics of a summary as cells, in its unit."""
    parts = [summary.mean, summary.sem, summary.half]
    return [*("–" if part is None else number(part, unit, 3) for part in parts), str(summary.n)]


def line_numbers(lines: Iterable[Line], x: str, unit: str) -> Shown:
    """The points of lines as a table."""
    rows = [[line.name, f"{at:g}", *numbers_of(point, unit)] for line in lines for at, point in line.points.items()]
    return Shown(["line", x, *STATISTICS], rows, 1)


def alt_text(caption: str, lines: Sequence[Line], unit: str) -> str:
    """A chart of lines in words: where each begins and ends."""
    ends = []
    for line in (line for line in lines if line.points):
        (first, begin), (last, end) = next(iter(line.points.items())), list(line.points.items())[-1]
        ends.append(f"{line.name} from {number(begin.mean, unit)} at {first:g} to {number(end.mean, unit)} at {last:g}")
    return f"{caption}: {'; '.join(ends)}"
