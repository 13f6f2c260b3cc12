"""Annotated types of settings: allowed ranges and special markers, read when a config is validated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Len, Lt


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
FractionBelowOne = Annotated[float, Ge(0), Lt(1)]
LayerSizes = Sequence[PositiveInt]
Betas = Annotated[Sequence[FractionBelowOne], Len(2, 2)]
DistillationScale = Literal["none", "temperature_squared"]
WeightRule = Literal["by_tasks", "by_old_tasks"]
ReplayWeight = Annotated[float, Ge(0)] | WeightRule
