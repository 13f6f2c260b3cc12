"""The metrics and costs of the page: names, units, and statistics over seeds as people see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gr_cli.report.groups import Group
from gr_cli.report.page_curves import shown, shown_bounds, shown_statistics
from gr_cli.report.scaling import with_prefixes
from gr_cli.report.tables import ReportTable
from gr_cli.results.audits import MEMBERSHIP
from gr_cli.results.cells import with_cells_as_metrics
from gr_cli.results.metrics import fraction_metrics, metric_bounds, metric_directions
from gr_cli.results.statistics import Bounds, summarize
from gr_cli.results.tables import FRACTION, Direction, TableFormat, display_factor, name_with_unit, prefixed_unit

_PARAMETERS = "parameters_"  # prefix of metrics that are costs
# Prefixes of metrics of privacy, which is a cost, too.
_MEMBERSHIP, _BUDGETS = f"{MEMBERSHIP}_", ("privacy_epsilon", "simulated_epsilon")
_COST_UNITS = ("FLOP", "bytes", "s", "J")  # units of other metrics that are costs


@dataclass(frozen=True)
class PageMetric:
    """A metric as the page shows it."""

    name: str
    """Name in metrics.csv, or address of a cell."""
    unit: str
    """Unit in which it is shown: `fraction`, `GFLOP`, ...; empty for a number without a unit."""
    size: float
    """By how much values are divided for this unit."""
    bounds: Bounds
    """Range of possible values, before the division."""
    better: Direction
    """Which values are better."""

    @property
    def label(self) -> str:
        """Name with unit."""
        return name_with_unit(self.name, self.unit)

    def values(self, group: Group) -> dict[int, float]:
        """Values of a group by seed in the unit."""
        return {seed: value / self.size for seed, value in group.metric(self.name).items()}

    def as_dict(self) -> dict[str, Any]:
        """Texts and range of the metric."""
        names = {"name": self.name, "label": self.label, "unit": self.unit, "better": self.better}
        return {**names, **shown_bounds(self.bounds.divided(self.size), self.unit)}


def page_metrics(table: ReportTable, table_formats: Sequence[TableFormat]) -> list[PageMetric]:
    """All metrics but costs: those of the table first."""
    formats = with_cells_as_metrics(table_formats, table.metrics)
    names = {name for row in table.rows for run in row.group.finished.values() for name in run.metrics or ()}
    costs = _cost_units(formats)
    others = sorted(name for name in names if not name.startswith(_PARAMETERS) and name not in costs)
    scaled, sizes = with_prefixes(table)
    fractions, directions = fraction_metrics(formats), metric_directions(formats, [])
    units = {name: FRACTION if name in fractions else "" for name in others} | scaled.units
    return [
        PageMetric(name, units[name], sizes.get(name, 1.0), metric_bounds(name, formats), directions.get(name, "none"))
        for name in dict.fromkeys([*table.metrics, *others])
    ]


def statistics(values: Mapping[int, float], unit: str, bounds: Bounds) -> dict[str, Any] | None:
    """Mean, interval and values by seed; None without values."""
    summary = shown_statistics(summarize(list(values.values()), bounds), unit)
    if summary is None:
        return None
    return {"statistics": summary, "seeds": {seed: shown(value, unit) for seed, value in values.items()}}


def metrics_of(group: Group, metrics: Sequence[PageMetric]) -> dict[str, Any]:
    """Statistics of a group by metric."""
    return {
        metric.name: statistics(metric.values(group), metric.unit, metric.bounds.divided(metric.size))
        for metric in metrics
    }


# --- costs


def _cost_units(formats: Sequence[TableFormat]) -> dict[str, str]:
    """Units of the metrics of evaluations that are costs."""
    columns = {name: column.unit for fmt in formats for name, column in fmt.metric_columns.items()}
    return {name: unit for name, unit in columns.items() if unit in _COST_UNITS}


def cost_units(table: ReportTable, formats: Sequence[TableFormat]) -> dict[str, tuple[str, float]]:
    """Units in which the largest costs have few digits, and by how much costs are divided, by name."""
    return {
        name: prefixed_unit(
            unit, max((value for row in table.rows for value in row.group.metric(name).values()), default=0)
        )
        for name, unit in _cost_units(formats).items()
    }


def costs_of(group: Group, units: Mapping[str, tuple[str, float]]) -> dict[str, Any]:
    """What a configuration costs, by name with unit: mean, interval, and values by seed."""
    finished = group.finished
    costs: dict[str, dict[int, float]] = {
        "seconds": {seed: run.cost.seconds for seed, run in finished.items() if run.cost},
        "peak memory (MiB)": {seed: run.cost.peak_memory_mib for seed, run in finished.items() if run.cost},
    }
    names = dict.fromkeys(name for run in finished.values() for name in run.metrics or ())
    costs |= {
        name_with_unit(name, unit): {seed: value / size for seed, value in group.metric(name).items()}
        for name, (unit, size) in units.items()
        if name in names
    }
    for name in (name for name in names if name.startswith((_MEMBERSHIP, *_BUDGETS))):
        unit = FRACTION if name.startswith(_MEMBERSHIP) else ""
        values = {seed: value * display_factor(unit) for seed, value in group.metric(name).items()}
        costs[name_with_unit(name, unit)] = values
    costs |= {
        f"parameters of the {name.removeprefix(_PARAMETERS)}": group.metric(name)
        for name in names
        if name.startswith(_PARAMETERS)
    }
    by_name = {name: statistics(values, "", Bounds(0.0)) for name, values in costs.items()}
    return {name: value for name, value in by_name.items() if value}
