"""Validation of values against annotations: of settings in a configuration, and of arguments in Python calls."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, get_args, get_type_hints

from gr_cli.config.annotations import allowed_values
from gr_cli.config.plain_values import is_plainly_allowed
from gr_cli.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter

P = ParamSpec("P")
T = TypeVar("T")
_MAX_INT = 2**63 - 1  # the range of torch's integers
_STRICT: ConfigDict = {"strict": True, "allow_inf_nan": False}


def _checkable_types(types_: Sequence[type]) -> tuple[type, ...]:
    """The types that `isinstance` accepts: classes and runtime protocols."""
    return tuple(
        type_ for type_ in types_ if getattr(type_, "_is_runtime_protocol", not getattr(type_, "_is_protocol", 0))
    )


def check_value(
    value: Any, annotation: Any, field: str, default: Any = inspect.Parameter.empty, shown: str | None = None
) -> None:
    """Check a value against an annotation, without converting it.

    Args:
        value: The value.
        annotation: The annotation, with bounds.
        field: The dotted name of the setting, for the message.
        default: The default of the setting, for the message.
        shown: How the value appears in the message; by default as in YAML.

    Raises:
        ConfigError: The value is not allowed.
    """
    shown = _format_value(value) if shown is None else shown
    if any(
        isinstance(n, int) and not -_MAX_INT <= n <= _MAX_INT for n in (value if isinstance(value, list) else [value])
    ):
        raise ConfigError(field, shown, "is beyond all numbers that this program can count with (2^63)")
    if is_plainly_allowed(value, annotation):
        return
    from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

    try:
        TypeAdapter(annotation, config=_STRICT).validate_python(value)
    except PydanticSchemaGenerationError:
        # A component, which only a node with a `_target_` can make; other types are not checked here.
        alternatives = get_args(annotation) or (annotation,)
        components = [each for each in alternatives if inspect.isclass(each) and each.__module__.startswith("gr_cli.")]
        optional = types.NoneType in alternatives
        if components and not (value is None and optional) and not isinstance(value, _checkable_types(components)):
            raise ConfigError(field, shown, f"must be a {components[0].__name__}: settings with a _target_") from None
    except ValidationError:
        has_default = isinstance(default, (bool, int, float, str))
        hint = f"the default is {_format_value(default)}" if has_default else ""
        raise ConfigError(field, shown, f"must be {allowed_values(annotation)}", hint) from None


@functools.cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(annotation, config=None if is_dataclass(annotation) else _STRICT)


def matches(value: Any, annotation: Any) -> bool:
    """Whether a value read from a file is allowed by an annotation, without converting it."""
    from pydantic import ValidationError

    try:
        _adapter(annotation).validate_python(value)
    except ValidationError:
        return False
    return True


def dataclass_from_dict(dataclass_type: Callable[..., T], value: Any) -> T:
    """The dataclass with the fields of a mapping.

    Raises:
        ValueError: A field is missing, unknown or of another type.
    """
    from pydantic import ValidationError

    try:
        instance: T = _adapter(dataclass_type).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"has a wrong `{'.'.join(map(str, first['loc']))}` ({first['msg']})") from error
    return instance


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.replace(".", "", 1).lstrip("+-").isdigit():
        return f'"{value}"'  # text, though it reads as a number
    return "null" if value is None else str(value)


def validate_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator that checks the arguments of a call against the annotations, as those of a configuration are checked.

    Raises:
        ConfigError: An argument is not allowed.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        hints, signature = get_type_hints(function, include_extras=True), inspect.signature(function)
        try:
            call_arguments = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # raises the TypeError under the function's name
        for name, value in call_arguments.arguments.items():
            if hints.get(name, Any) is not Any:
                plain = value.item() if getattr(value, "ndim", None) == 0 else value  # a NumPy scalar
                check_value(plain, hints[name], name, signature.parameters[name].default)
                call_arguments.arguments[name] = plain
        return function(*call_arguments.args, **call_arguments.kwargs)

    return call
