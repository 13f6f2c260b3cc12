"""Composition of accesses to raw samples: what all of them together reveal of one sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gr_cli.privacy.access import Access
from gr_cli.privacy.analytic_gaussian import epsilon_of_gaussian
from gr_cli.privacy.settings import PrivacySettings


@dataclass(frozen=True)
class Spent:
    """What was spent on a sample.

    Attributes:
        epsilon: ε.
        delta: δ.
        composition: How it follows from single accesses.
        precision: Sum of 1 / noise_multiplier**2, if all accesses are Gaussian mechanisms that read all samples; their
            composition is one Gaussian mechanism with this sum (Dong et al. 2022). None: another mechanism is among
            them.
    """

    epsilon: float = 0.0
    delta: float = 0.0
    composition: str = "no access"
    precision: float | None = 0.0


def spent_by(access: Access) -> Spent:
    """What a single access spends."""
    is_gaussian = access.mechanism == "gaussian" and access.sampling_rate == 1
    precision = access.steps / access.noise_multiplier**2 if is_gaussian else None
    return Spent(access.epsilon, access.delta, "one access", precision)


def sequential(parts: Sequence[Spent], delta: float, over: str) -> Spent:
    """Accesses that may all read the same sample.

    Gaussian mechanisms are composed exactly, at the given δ; else both ε and δ add up. The smaller ε is reported.

    Args:
        parts: What each spends.
        delta: δ of the exact composition.
        over: What is composed, for readers.
    """
    if len(parts) <= 1:
        return parts[0] if parts else Spent()
    precisions = [part.precision for part in parts if part.precision is not None]
    precision = sum(precisions) if len(precisions) == len(parts) else None
    total = Spent(sum(part.epsilon for part in parts), sum(part.delta for part in parts), f"sum over {over}", precision)
    if precision is None or precision == 0:
        return total
    epsilon = epsilon_of_gaussian(delta, precision**-0.5)
    if within(total.delta, delta) and total.epsilon <= epsilon:
        return total
    return replace(total, epsilon=epsilon, delta=delta, composition=f"Gaussian composition over {over}")


def parallel(parts: Sequence[Spent], over: str) -> Spent:
    """Accesses of which no two read the same sample: the largest of what they spend.

    Args:
        parts: What each spends.
        over: What is composed, for readers.
    """
    if len(parts) <= 1:
        return parts[0] if parts else Spent()
    precisions = [part.precision for part in parts if part.precision is not None]
    precision = max(precisions) if len(precisions) == len(parts) else None
    largest = max(part.epsilon for part in parts), max(part.delta for part in parts)
    return Spent(*largest, f"parallel over {over}", precision)


def spent_on_class(accesses: Iterable[Access], task: int, unit: int, delta: float) -> Spent:
    """What is spent in a task on the samples of one output unit."""
    own = [spent_by(access) for access in accesses if access.task == task and unit in access.classes]
    return sequential(own, delta, "accesses")


def spent_on_task(accesses: Sequence[Access], task: int, delta: float) -> Spent:
    """What is spent in a task on one of its samples, which belongs to one class."""
    units = sorted({unit for access in accesses if access.task == task for unit in access.classes})
    return parallel([spent_on_class(accesses, task, unit, delta) for unit in units], "classes")


def spent_in_total(accesses: Sequence[Access], privacy: PrivacySettings) -> Spent:
    """What is spent on one sample in all tasks."""
    tasks = sorted({access.task for access in accesses})
    parts = [spent_on_task(accesses, task, privacy.delta) for task in tasks]
    if privacy.across == "tasks":
        return parallel(parts, "tasks")
    return sequential(parts, privacy.delta, "tasks")


def within(value: float, limit: float) -> bool:
    """Whether a value is at most a limit, up to rounding."""
    return value <= limit * (1 + 1e-9)
