"""Types that say what a value may be. Signatures use them; `build` and a newcomer read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Len, Lt


class VariesPerReplica:
    """Marks a setting in which runs may differ that are trained as one program: a number used in arithmetic only.

    The component keeps it as an attribute of the same name, which then may hold one number per replica, (R,).
    """


class CountsSamplesInMemory:
    """Marks a setting that counts samples, all of which are held in memory at the same time."""


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
