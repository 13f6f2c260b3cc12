"""Whether a value is what the annotation of an argument allows: in a configuration, and in a call from Python."""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from gr_cli.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")
_MAX_INT = 2**63 - 1  # torch's whole numbers
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def _checkable_types(types_: Sequence[type]) -> tuple[type, ...]:
    """Those of `kinds` that can be asked for instances: classes, and protocols that say so."""
    return tuple(kind for kind in types_ if getattr(kind, "_is_runtime_protocol", not getattr(kind, "_is_protocol", 0)))


def check_value(
    value: Any, annotation: Any, field: str, default: Any = inspect.Parameter.empty, shown: str | None = None
) -> None:
    """Raise a `ConfigError` for `field` unless `value`, to the user `shown`, is what `annotation` allows. Nothing is
    converted."""
    shown = _format_value(value) if shown is None else shown
    if any(
        isinstance(n, int) and not -_MAX_INT <= n <= _MAX_INT for n in (value if isinstance(value, list) else [value])
    ):
        raise ConfigError(field, shown, "is beyond all numbers that this program can count with (2^63)")
    try:
        TypeAdapter(annotation, config=_STRICT).validate_python(value)
    except PydanticSchemaGenerationError as error:
        # A kind of component, which only a node with a `_target_` can give; of other types nothing is known here.
        kinds = [kind for kind in (get_args(annotation) or (annotation,)) if kind is not types.NoneType]
        ours = [kind for kind in kinds if inspect.isclass(kind) and kind.__module__.startswith("gr_cli.")]
        optional = types.NoneType in get_args(annotation)
        if ours and not (value is None and optional) and not isinstance(value, _checkable_types(ours)):
            raise ConfigError(field, shown, f"must be a {ours[0].__name__}: settings with a _target_") from error
    except ValidationError as error:
        plain = isinstance(default, (bool, int, float, str))
        usual = f"the default is {_format_value(default)}" if plain else ""
        raise ConfigError(field, shown, f"must be {describe(annotation)}", usual) from error


@functools.cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=None if is_dataclass(annotation) else _STRICT)


def matches(value: Any, annotation: Any) -> bool:
    """Whether a value that was read from a file is of a `kind`, an annotation. Nothing is converted."""
    try:
        _adapter(annotation).validate_python(value)
    except ValidationError:
        return False
    return True


def dataclass_from_dict(dataclass_type: Callable[..., T], value: Any) -> T:
    """The dataclass that was written as the mapping `value`.

    Raises:
        ValueError: its fields are others.
    """
    try:
        made: T = _adapter(dataclass_type).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"has a wrong `{'.'.join(map(str, first['loc']))}` ({first['msg']})") from error
    return made


_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


_SIGNS: dict[type, str] = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}


def describe(annotation: Any) -> str:
    """What an annotation allows, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, marks = describe(arguments[0]), arguments[1:]
        bounds = [f"{_SIGNS[type(m)]} {getattr(m, type(m).__name__.lower())}" for m in marks if type(m) in _SIGNS]
        lengths = [mark.min_length for mark in marks if isinstance(mark, Len)]
        listed = re.sub("^a list( of)?", f"a list of {lengths[0]}", inner) if lengths else inner
        return " ".join([listed, " and ".join(bounds)]).strip()
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments)) if len(arguments) > 1 else str(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(map(describe, arguments))
    if origin is tuple:
        return "a list of " + ", ".join(map(describe, arguments))
    if origin is dict:
        return "a mapping"
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return "a list, each " + describe(arguments[0]) if arguments[0] is not float else "a list of numbers"
    return _TYPE_NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.replace(".", "", 1).lstrip("+-").isdigit():
        return f'"{value}"'  # text, though it reads as a number
    return "null" if value is None else str(value)


def validate_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """Check the arguments of a function that is called from Python as those in a configuration are.

    Raises:
        ConfigError: an argument is not what its annotation allows; it is named.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        hints, signature = get_type_hints(function, include_extras=True), inspect.signature(function)
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # raises it by its own name
        for name, value in given.arguments.items():
            if hints.get(name, Any) is not Any:
                plain = value.item() if getattr(value, "ndim", None) == 0 else value  # a number of NumPy
                check_value(plain, hints[name], name, signature.parameters[name].default)
                given.arguments[name] = plain
        return function(*given.args, **given.kwargs)

    return call
