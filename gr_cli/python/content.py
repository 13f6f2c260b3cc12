"""A hash of the content of an object: of tensors by value, of code by name, or by byte code where it has none.

Code that a module of a file defines is identified by its dotted name, as `_target_` does. Code of a notebook or script,
and functions within functions, have no name that another process could import: what they compute is part of the hash.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gr_cli.system.cache import content_hash

_PLAIN = (str, bytes, int, float, complex, bool, type(None), type(...))
_MAX_DEPTH = 30


def importable_name(value: Any) -> str | None:
    """The dotted name under which any process can import a class or function; None if there is none."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if not isinstance(module, str) or module == "__main__" or not name.isidentifier():
        return None
    try:
        imported = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    return f"{module}.{name}" if imported is value else None


def hash_of_content(value: Any) -> str:
    """Hash of an object as 16 hexadecimal digits; equal for equal content, in every process of one Python version."""
    return content_hash(*_content(value, {}, 0))[:16]


def _content(value: Any, seen: dict[int, Any], depth: int) -> Iterator[object]:
    """What an object consists of, as tensors and values with a `repr` that does not depend on the process."""
    if isinstance(value, _PLAIN):
        yield value
        return
    if isinstance(value, Tensor):
        yield value.detach()
        return
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        yield array.tolist() if array.dtype.kind in "OUSMm" else torch.from_numpy(np.ascontiguousarray(array))
        return
    if id(value) in seen or depth > _MAX_DEPTH:
        yield "seen before"
        return
    seen[id(value)] = value  # kept, so that its id is not used again
    yield type(value).__name__
    for part in _parts(value):
        yield from _content(part, seen, depth + 1)


def _parts(value: Any) -> Iterator[Any]:
    """The parts of an object that is not plain."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from (key, entry)
    elif isinstance(value, (list, tuple)):
        yield from value
    elif isinstance(value, (set, frozenset)):
        yield sorted(map(repr, value))
    elif isinstance(value, ModuleType):
        yield value.__name__
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, CodeType):
        yield from (value.co_code, value.co_names, value.co_varnames, value.co_freevars, value.co_consts)
    elif isinstance(value, FunctionType) or inspect.isclass(value) or inspect.isbuiltin(value):
        yield from _code_parts(value)
    elif isinstance(value, (classmethod, staticmethod)):
        yield value.__func__
    elif isinstance(value, property):
        yield from (value.fget, value.fset)
    elif isinstance(value, nn.Module):
        yield from (type(value), value.state_dict(), _own_attributes(value), dict(value.named_children()))
    else:
        yield from (type(value), _state(value))


def _code_parts(value: Any) -> Iterator[Any]:
    if (name := importable_name(value)) is not None:
        yield name
    elif inspect.isclass(value):
        yield value.__qualname__
        yield value.__bases__
        yield {name: attribute for name, attribute in vars(value).items() if _is_defined(name)}
    elif isinstance(value, FunctionType):
        yield from (value.__code__, value.__defaults__, value.__kwdefaults__)
        yield [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        yield {name: value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__}
    else:
        yield getattr(value, "__qualname__", repr(type(value)))


def _names(code: CodeType) -> list[str]:
    """The global names that code and the functions inside it use."""
    inner = [name for const in code.co_consts if isinstance(const, CodeType) for name in _names(const)]
    return list(dict.fromkeys([*code.co_names, *inner]))


def _is_defined(name: str) -> bool:
    """Whether an attribute of a class is part of what it computes."""
    hidden = ("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__firstlineno__", "__annotations__")
    return name not in hidden and not name.startswith(("__annot", "__static_attr", "_abc_"))


def _is_filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _own_attributes(module: nn.Module) -> dict[str, Any]:
    """Attributes of a module besides its parameters, buffers and modules: sizes, rates, functions."""
    return {name: value for name, value in vars(module).items() if not name.startswith("_") and name != "training"}


def _state(value: Any) -> Any:
    """The attributes of any other object; those that can't be read are left out."""
    slots = [name for base in type(value).__mro__ for name in getattr(base, "__slots__", ())]
    return dict(getattr(value, "__dict__", {})) | {name: getattr(value, name, None) for name in slots}
