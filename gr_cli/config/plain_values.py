"""Recognition of allowed values without pydantic, whose import and schemas take longer than a short run's training."""

from __future__ import annotations

import inspect
import operator
import types
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Len, Lt

_BOUNDS: dict[type, tuple[str, Callable[[Any, Any], bool]]] = {
    Ge: ("ge", operator.ge),
    Gt: ("gt", operator.gt),
    Le: ("le", operator.le),
    Lt: ("lt", operator.lt),
}


def is_plainly_allowed(value: Any, annotation: Any) -> bool:
    """Whether a value is certainly allowed by an annotation; False if only pydantic can tell.

    Strict as pydantic's strict mode: `1` is no bool and `"1"` no number, but `1` is a float.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        marks = arguments[1:]
        return is_plainly_allowed(value, arguments[0]) and all(_is_within(value, mark) for mark in marks)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in arguments)
    if origin in (Union, types.UnionType):
        return any(is_plainly_allowed(value, each) for each in arguments)
    if origin is not None:
        is_sequence = inspect.isclass(origin) and issubclass(origin, Sequence) and origin is not tuple
        has_type = type(value) in (list, tuple) and (origin is not list or type(value) is list)
        return is_sequence and has_type and all(is_plainly_allowed(each, arguments[0]) for each in value)
    if annotation is float:
        return type(value) in (int, float) and isfinite(value)
    if annotation in (None, types.NoneType):
        return value is None
    if annotation in (int, bool, str):
        return type(value) is annotation
    return annotation is Any or (_is_component(annotation) and isinstance(value, annotation))


def _is_within(value: Any, mark: Any) -> bool:
    """Whether a value has a bound; marks of this program that are no bounds allow every value."""
    if type(mark) in _BOUNDS:
        name, compare = _BOUNDS[type(mark)]
        return compare(value, getattr(mark, name))
    if isinstance(mark, Len):
        return mark.min_length <= len(value) <= (mark.max_length or len(value))
    return inspect.isclass(mark) and mark.__module__.startswith("gr_cli.")


def _is_component(annotation: Any) -> bool:
    """Whether an annotation is a class of this program, or a protocol that `isinstance` accepts."""
    return (
        inspect.isclass(annotation)
        and annotation.__module__.startswith("gr_cli.")
        and getattr(annotation, "_is_runtime_protocol", not getattr(annotation, "_is_protocol", False))
    )
