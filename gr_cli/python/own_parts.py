"""Models, generators and data that are passed to a call as Python objects."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gr_cli.config.own_components import LivePart, LiveParts, live_parts
from gr_cli.errors import ConfigError
from gr_cli.python.overrides import overrides_of

_GROUPS = ("model", "generator", "benchmark")
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@contextmanager
def passed(parts: LiveParts) -> Iterator[None]:
    """Settings that are composed inside the block carry these objects."""
    token = live_parts.set(parts)
    try:
        yield
    finally:
        live_parts.reset(token)


def split_parts(settings: Mapping[str, Any]) -> tuple[list[str], LiveParts, dict[str, Any]]:
    """Objects among the settings of a call.

    Args:
        settings: Settings by name.

    Returns:
        Overrides that describe the objects; the objects that can't be named, by path; and the other settings.

    Raises:
        ConfigError: An object does not fit.
    """
    overrides, parts, rest = list[str](), dict[str, LivePart](), dict[str, Any]()
    for name, value in settings.items():
        if name not in _GROUPS or value is None or isinstance(value, (str, Mapping)) or _is_swept(value):
            rest[name] = value
        elif (named := _named(name, value)) is not None:
            overrides += named
        else:
            part = _data_part(value) if name == "benchmark" else _network_part(name, value)
            parts[part.path] = part
            overrides += ["benchmark=arrays", *part.overrides] if part.path == "benchmark.source" else part.overrides
    return overrides, parts, rest


def _is_swept(value: Any) -> bool:
    """Whether it is a list of names of options, for a sweep."""
    return isinstance(value, (list, tuple)) and all(isinstance(entry, str) for entry in value)


def _named(group: str, value: Any) -> list[str] | None:
    """Overrides for a class or function that can be imported, and the arguments given to it; None for other objects."""
    from gr_cli.python.content import importable_name

    function, arguments = value, dict[str, Any]()
    if isinstance(value, functools.partial):
        function, signature = value.func, inspect.signature(value.func)
        try:
            arguments = dict(signature.bind_partial(*value.args, **value.keywords).arguments)
        except TypeError as error:
            raise ConfigError(group, _display_name(value), f"can't be called with its arguments ({error})") from error
        if any(signature.parameters[name].kind in _VARIADIC for name in arguments):
            return None  # settings have the names of arguments
    if not inspect.isclass(function) and not inspect.isfunction(function):
        return None
    target = importable_name(function)
    try:
        plain = overrides_of((), arguments)
    except ConfigError:  # a tensor or another object
        return None
    if target is None:
        return None
    is_source = group == "benchmark" and inspect.isclass(function) and hasattr(function, "load")
    path, option = ("benchmark.source", ["benchmark=arrays"]) if is_source else (group, [])
    return [*option, f"{path}._target_={target}", *(f"++{path}.{override}" for override in plain)]


def _network_part(group: str, value: Any) -> LivePart:
    """A module, or a function that makes one.

    Raises:
        ConfigError: It is neither.
    """
    from torch import nn

    from gr_cli.python.content import hash_of_content

    if not isinstance(value, nn.Module) and not callable(value):
        allowed = "must be the name of an option, a torch.nn.Module, or a function that makes one"
        raise ConfigError(group, type(value).__name__, allowed)
    return LivePart(group, value, _display_name(value), hash_of_content(value))


def _display_name(value: Any) -> str:
    """A name for people, of letters, digits and `_`."""
    function = value.func if isinstance(value, functools.partial) else value
    name = getattr(function, "__name__", type(value).__name__)
    return name if name.isidentifier() else "function" if name == "<lambda>" else type(value).__name__


def _data_part(value: Any) -> LivePart:
    """A stream of tasks, a source, a data set, or samples and labels.

    Raises:
        ConfigError: It is none of these.
    """
    from gr_cli.benchmarks.base import Benchmark
    from gr_cli.benchmarks.dataset_hash import dataset_hash
    from gr_cli.benchmarks.live_data import DatasetSource, LiveSource, LoadedSource
    from gr_cli.benchmarks.sources.base import Dataset
    from gr_cli.benchmarks.sources.load import load_dataset
    from gr_cli.python.content import hash_of_content
    from gr_cli.python.datasets import arrays_of

    if isinstance(value, Benchmark):
        tasks = [(t.name, t.classes, t.repeated_task, t.origin_task, t.train.transform) for t in value.tasks]
        content = hash_of_content((dataset_hash(value), tasks, value.spec))
        return LivePart("benchmark", value, "Benchmark", content)
    if isinstance(value, Dataset) or callable(getattr(value, "load", None)):
        source = DatasetSource(value) if isinstance(value, Dataset) else value
        data = load_dataset(source)
        content = hash_of_content([data.train, data.test, data.classes, data.spec])
        return LivePart("benchmark.source", LoadedSource(source), type(value).__name__, content)
    arrays, name = arrays_of(value)
    return LivePart("benchmark.source", LiveSource(*arrays), name, hash_of_content(list(arrays)))
