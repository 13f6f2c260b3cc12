"""Types that say what a value may be. Signatures use them; `build` and a newcomer read them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Len, Lt

P = ParamSpec("P")
T = TypeVar("T")


class PerReplica:
    """Marks a setting in which runs may differ that are trained as one program: a number used in arithmetic only.

    The component keeps it as an attribute of the same name, which then may hold one number per replica, (R,).
    """


class InMemory:
    """Marks a setting that counts samples, all of which are held in memory at the same time."""


Count = Annotated[int, Ge(0)]
PositiveInt = Annotated[int, Ge(1)]
NonNegative = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0), Lt(1)]
Widths = Sequence[PositiveInt]
Betas = Annotated[Sequence[Share], Len(2, 2)]
DistillationScale = Literal["none", "temperature_squared"]
WeightRule = Literal["by_tasks", "by_old_tasks"]
ReplayWeight = Annotated[float, Ge(0)] | WeightRule


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """Check the arguments of a function that is called from Python as those in a configuration are.

    Raises:
        ConfigError: an argument is not what its annotation allows; it is named.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        from gr_cli.build import check  # which reads the marks above

        hints, signature = get_type_hints(function, include_extras=True), inspect.signature(function)
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # raises it by its own name
        for name, value in given.arguments.items():
            if hints.get(name, Any) is not Any:
                plain = value.item() if getattr(value, "ndim", None) == 0 else value  # a number of NumPy
                check(plain, hints[name], name, signature.parameters[name].default)
                given.arguments[name] = plain
        return function(*given.args, **given.kwargs)

    return call
