"""Notes of a report on runs with a budget of privacy."""

from __future__ import annotations

from collections.abc import Iterable

from gr_cli.report.groups import Group
from gr_cli.results.not_covered import NOT_COVERED
from gr_cli.results.shared_budget import shared_budgets


def privacy_notes(groups: Iterable[Group]) -> list[str]:
    """What runs with budgets of privacy may spend together, and that a report on them is not covered by their claims.

    Args:
        groups: The groups of the report.
    """
    budgets = shared_budgets((run.settings, run.choices) for group in groups for run in group.runs)
    if not budgets:
        return []
    listed = ", ".join(NOT_COVERED)
    return [
        *(budget.line for budget in budgets),
        f"privacy: not covered are this report and {listed} of these runs; gr-run release=<run> writes what is covered",
    ]
