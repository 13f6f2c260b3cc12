"""A hash of the content of an object: of tensors by value, of code by name, or by byte code where it has none.

Code that a module of a file defines is identified by its dotted name and, outside of installed packages, by the hash of
its source files, as `_target_` is. Code of a notebook or script,
and functions within functions, have no name that another process could import: what they compute is part of the hash.
"""

from __future__ import annotations

import copyreg
import dis
import functools
import importlib
import inspect
import warnings
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gr_cli.config.own_code import own_code_hash
from gr_cli.system.cache import content_hash

_PLAIN = (str, bytes, int, float, complex, bool, type(None), type(...))
_END = object()  # ends the parts of an object, so that [[1], 2] and [[1, 2]] differ
_CODE_ATTRIBUTES = (
    *("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_consts", "co_exceptiontable"),
    *("co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_flags"),
)
_GLOBAL_LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
# Attributes that torch keeps in every module; hooks count by function, as their keys are numbers of the process.
_MODULE_INTERNALS = frozenset(vars(nn.Module())) - {"_parameters", "_buffers", "_modules"}
_HOOKS = sorted(name for name in _MODULE_INTERNALS if name.endswith("_hooks"))


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
    return content_hash(*_content(value))[:16]


def _content(value: Any) -> Iterator[object]:
    """What an object consists of, as tensors and values with a `repr` that does not depend on the process."""
    seen: dict[int, tuple[int, Any]] = {}
    pending = [value]
    while pending:
        part = pending.pop()
        if part is _END:
            yield ()
        elif isinstance(part, _PLAIN):
            yield part
        elif isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
            yield part.detach()
        elif id(part) in seen:
            yield ("seen", seen[id(part)][0])
        else:
            seen[id(part)] = len(seen), part  # the object is kept, so that its id is not used again
            yield (type(part).__name__,)
            pending += [_END, *reversed(list(_parts(part)))]


def _parts(value: Any) -> Iterator[Any]:
    """The parts of an object that is not plain."""
    if isinstance(value, nn.Parameter):
        yield from (value.requires_grad, value.detach())
    elif isinstance(value, (np.ndarray, np.generic)):
        yield from _array_parts(np.asarray(value))
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from (key, entry)
    elif isinstance(value, (list, tuple)):
        yield from value
    elif isinstance(value, (set, frozenset)):
        yield from sorted(map(repr, value))
    elif isinstance(value, ModuleType):
        yield value.__name__
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, CodeType):
        yield from (getattr(value, name) for name in _CODE_ATTRIBUTES)
    elif isinstance(value, FunctionType) or inspect.isclass(value) or inspect.isbuiltin(value):
        yield from _code_parts(value)
    elif isinstance(value, (classmethod, staticmethod)):
        yield value.__func__
    elif isinstance(value, property):
        yield from (value.fget, value.fset)
    elif isinstance(value, nn.Module):
        yield from _module_parts(value)
    else:
        yield from _stored_parts(value)


def _array_parts(array: np.ndarray[Any, Any]) -> Iterator[Any]:
    yield from (array.dtype.str, str(array.dtype.descr), array.shape)
    if array.dtype.hasobject:
        yield array.tolist()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, for arrays that are read-only
            yield torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _module_parts(module: nn.Module) -> Iterator[Any]:
    yield type(module)
    yield {name: value for name, value in vars(module).items() if name not in _MODULE_INTERNALS}
    yield [list(vars(module).get(name, {}).values()) for name in _HOOKS]


def _stored_parts(value: Any) -> Iterator[Any]:
    """What pickle stores of any other object; its attributes if it can't be pickled."""
    try:
        reduce = copyreg.dispatch_table.get(type(value))
        stored = value.__reduce_ex__(2) if reduce is None else reduce(value)
    except Exception:  # any error of the object's own code
        yield from (type(value), getattr(value, "__dict__", {}))
        return
    parts = [stored] if isinstance(stored, str) else stored
    yield from (list(part) if isinstance(part, Iterator) else part for part in parts)


def _code_parts(value: Any) -> Iterator[Any]:
    if (name := importable_name(value)) is not None:
        yield from (name, own_code_hash(name.partition(".")[0]))
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
    own = [step.argval for step in dis.get_instructions(code) if step.opname in _GLOBAL_LOADS]
    inner = [name for const in code.co_consts if isinstance(const, CodeType) for name in _names(const)]
    return list(dict.fromkeys([*own, *inner]))


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
