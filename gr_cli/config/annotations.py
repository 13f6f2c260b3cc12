"""Annotations of settings as text: what is allowed, and the values that can be completed."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Len, Lt

_TYPE_NAMES: dict[Any, str] = {
    int: "integer",
    float: "number",
    bool: "true | false",
    str: "text",
    types.NoneType: "null",
}


def allowed_values(annotation: Any) -> str:
    """What an annotation allows, in short: `hard | soft`, `integer >= 1 | null`, `number in [0, 1)`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _bounded(allowed_values(arguments[0]), arguments[1:])
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(map(allowed_values, arguments)))
    if origin in (dict,):
        return "mapping"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        inner = allowed_values(arguments[0]) if arguments else "values"
        return f"list of ({inner})" if " | " in inner else f"list of {inner}"
    return _TYPE_NAMES.get(annotation, getattr(annotation, "__name__", "") or str(annotation))


def _bounded(text: str, marks: Sequence[Any]) -> str:
    """A type with the bounds and the length that an `Annotated` adds to it."""
    low = next((m for m in marks if isinstance(m, (Ge, Gt))), None)
    high = next((m for m in marks if isinstance(m, (Le, Lt))), None)
    length = next((m for m in marks if isinstance(m, Len)), None)
    if length is not None and length.max_length == length.min_length:
        text = text.replace("list of", f"list of {length.min_length}:", 1)
    lower = low.ge if isinstance(low, Ge) else low.gt if isinstance(low, Gt) else None
    upper = high.le if isinstance(high, Le) else high.lt if isinstance(high, Lt) else None
    if low is not None and high is not None:
        return f"{text} in {'[' if isinstance(low, Ge) else '('}{lower}, {upper}{']' if isinstance(high, Le) else ')'}"
    if low is not None:
        return f"{text} {'>=' if isinstance(low, Ge) else '>'} {lower}"
    if high is not None:
        return f"{text} {'<=' if isinstance(high, Le) else '<'} {upper}"
    return text


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
