"""Settings given as Python values, as overrides of the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any

from gr_cli.config.override_text import override_of
from gr_cli.errors import ConfigError, one_line


def overrides_of(words: Sequence[object], settings: Mapping[str, Any], sweep: bool = False) -> list[str]:
    """The overrides that a call from Python gives.

    Args:
        words: Overrides as on the command line, `"seed=1"`.
        settings: Settings by name. A mapping holds settings of a group: `train={"iterations": 100}`.
        sweep: Whether a list, tuple or range gives the values of a sweep.

    Raises:
        ConfigError: A word is not an override, or a value can't be written as one.
    """
    for word in words:
        if not isinstance(word, str) or "=" not in word or word.startswith("-"):
            raise ConfigError("overrides", repr(word), "must be texts such as 'seed=1'")
    return [*map(str, words), *(word for name, value in settings.items() for word in _overrides(name, value, sweep))]


def _overrides(name: str, value: Any, sweep: bool) -> Iterable[str]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _overrides(f"{name}.{key}", entry, sweep)
    elif sweep and isinstance(value, (list, tuple, range)):
        yield f"{name}={','.join(_text(name, entry) for entry in value)}"
    else:
        yield f"{name}={_text(name, value)}"


def _text(name: str, value: Any) -> str:
    """A value in Hydra's grammar.

    Raises:
        ConfigError: It is not a plain value.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):
        return repr(float(value))
    if isinstance(value, (str, PurePath)):
        return _quoted(str(value))
    if isinstance(value, (list, tuple, range)):
        return f"[{','.join(_text(name, entry) for entry in value)}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(name, entry)}" for key, entry in value.items()) + "}"
    raise ConfigError(
        name,
        one_line(repr(value))[:60],
        "must be a number, a text, a list or a mapping",
        "objects are passed as model, generator or benchmark",
    )


def _quoted(text: str) -> str:
    """A text; names stay unquoted, so that `strategy="dgr"` is the override that one would type."""
    if text.isidentifier() and text.isascii() and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return text
    quoted = override_of("", text).removeprefix("=")
    return quoted if quoted.startswith('"') else f'"{quoted}"'
