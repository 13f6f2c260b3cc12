"""Curves and matrices over seeds, without a drawing library."""

from __future__ import annotations

from dataclasses import dataclass

from gr_cli.results.statistics import Summary

ALL_TASKS_LINE = "all so far"  # name of the curve of all tasks together
MatrixCells = dict[tuple[int, int], Summary]  # accuracy by (after task, task), both from 0


@dataclass(frozen=True)
class Curve:
    """Statistics over seeds along x."""

    name: str
    """Label in the legend."""
    points: dict[float, Summary]
    """Statistics by x, in the order of x."""

    def scaled(self, factor: float) -> Curve:
        """The curve with its values times a factor."""
        return Curve(self.name, {x: summary.scaled(factor) for x, summary in self.points.items()})

    @property
    def upper_bound(self) -> float:
        """Highest drawn value: mean plus standard error, or value of a seed."""
        return max((max([p.mean + (p.sem or 0.0), *p.shown_values]) for p in self.points.values()), default=0.0)
