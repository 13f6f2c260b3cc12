"""Annotations of settings as text: what is allowed, and the values that can be completed."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Len, Lt

_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
_SIGNS: dict[type, str] = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}


def allowed_values(annotation: Any) -> str:
    """What an annotation allows, as the end of a sentence: `a whole number ≥ 1 or null`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, marks = allowed_values(arguments[0]), arguments[1:]
        bounds = [f"{_SIGNS[type(m)]} {getattr(m, type(m).__name__.lower())}" for m in marks if type(m) in _SIGNS]
        lengths = [mark.min_length for mark in marks if isinstance(mark, Len)]
        text = re.sub("^a list( of)?", f"a list of {lengths[0]}", inner) if lengths else inner
        return " ".join([text, " and ".join(bounds)]).strip()
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments)) if len(arguments) > 1 else str(arguments[0])
    if origin in (Union, types.UnionType):
        # A list comes last, so that what its entries may be is not read as what the value may be.
        return " or ".join(dict.fromkeys(map(allowed_values, sorted(arguments, key=_is_list))))
    if origin is tuple:
        return "a list of " + ", ".join(map(allowed_values, arguments))
    if origin is dict:
        return "a mapping"
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return "a list, each " + allowed_values(arguments[0]) if arguments[0] is not float else "a list of numbers"
    return _TYPE_NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _is_list(annotation: Any) -> bool:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    origin = get_origin(annotation)
    return inspect.isclass(origin) and issubclass(origin, Sequence)


def literal_values(annotation: Any) -> tuple[str, ...]:
    """The values that an annotation lists one by one, as they are typed: those of `Literal`, booleans and null."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return literal_values(arguments[0])
    if origin is Literal:
        return tuple(map(str, arguments))
    if origin in (Union, types.UnionType):
        return tuple(value for argument in arguments for value in literal_values(argument))
    if annotation is bool:
        return ("true", "false")
    return ("null",) if annotation in (None, types.NoneType) else ()
