"""Annotated types of settings: allowed ranges and special markers, read when a config is validated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt


class VariesPerReplica:
    """Marks a numeric setting that may differ between runs that are trained together.

    It may only be used in arithmetic. The component stores it as an attribute of the same name, which may hold one
    number per replica, (R,).
    """


class CountsSamplesInMemory:
    """Marks a setting that counts samples held in memory at the same time."""


NonNegativeInt = Annotated[int, Ge(0)]
PositiveInt = Annotated[int, Ge(1)]
NonNegative = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
UnitInterval = Annotated[float, Ge(0), Le(1)]  # [0, 1]: shares
FractionBelowOne = Annotated[float, Ge(0), Lt(1)]  # [0, 1): dropout, momentum
LayerSizes = Sequence[PositiveInt]  # units of each hidden layer, from the input
Betas = Annotated[Sequence[FractionBelowOne], Len(2, 2)]  # Adam's decay rates of the two moments
DistillationScale = Literal["none", "temperature_squared"]  # factor of the distillation loss: 1 or T^2
WeightRule = Literal["by_tasks", "by_old_tasks"]  # loss weights in task t: 1/t and 1 - 1/t, or 1 and t - 1
ReplayWeight = Annotated[float, Ge(0)] | WeightRule
