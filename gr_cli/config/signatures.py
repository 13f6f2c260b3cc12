"""Signatures and docstrings of components, read from their source: no module of a component is imported.

The meaning of an argument is the docstring's; a class has the arguments that its base classes document, too. Only
`imported_component` imports: a component of another package.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

from gr_cli.config.docstrings import parse_docstring

_ROOT = Path(__file__).parents[1]
_PACKAGE = "gr_cli"
# Modules that annotations are made of, which are imported as they are.
_IMPORTED = ("gr_cli.types", "typing", "collections.abc", "annotated_types")


@dataclass(frozen=True)
class Argument:
    """An argument of a component.

    Attributes:
        annotation: What it may be; a class of this package stands for itself by its name.
        default: The source text of the default; None if there is none.
        meaning: The entry of the docstring; empty if there is none.
    """

    annotation: Any
    default: str | None
    meaning: str

    @property
    def default_value(self) -> Any:
        """The default, if its text is a literal; else `inspect.Parameter.empty`."""
        try:
            return inspect.Parameter.empty if self.default is None else ast.literal_eval(self.default)
        except (ValueError, SyntaxError):
            return inspect.Parameter.empty


@dataclass(frozen=True)
class Component:
    """What the source of a class or function says about its use."""

    summary: str
    arguments: dict[str, Argument]


@cache
def read_component(target: str) -> Component | None:
    """The component that a `_target_` of this package names; None for another package, or if there is none."""
    module, _, name = target.rpartition(".")
    if module.partition(".")[0] != _PACKAGE or not all(map(str.isidentifier, target.split("."))):
        return None
    definition = _Module.find(module, name)
    if definition is None:
        return None
    home, node = definition
    if isinstance(node, ast.FunctionDef):
        text = parse_docstring(ast.get_docstring(node))
        return Component(text.summary, _parameters(home, node, text.arguments))
    if isinstance(node, ast.ClassDef):
        return _class_component(home, node)
    return None


def imported_component(target: str) -> Component:
    """The component that any `_target_` names; its module is imported.

    Raises:
        ImportError, AttributeError: There is no such class or function.
    """
    module, _, name = target.rpartition(".")
    function: Any = getattr(importlib.import_module(module), name)
    bases = inspect.getmro(function) if inspect.isclass(function) else (function,)
    meanings: dict[str, str] = {}
    for base in reversed(bases):
        meanings |= parse_docstring(base.__doc__).arguments
    return Component(parse_docstring(function.__doc__).summary, imported_arguments(function, meanings))


def imported_arguments(function: Any, meanings: Mapping[str, str] = MappingProxyType({})) -> dict[str, Argument]:
    """The arguments of a class or function, by name, with their meanings."""
    try:
        initializer = function.__init__ if inspect.isclass(function) else function
        annotations = get_type_hints(initializer, include_extras=True)
    except (NameError, TypeError):
        annotations = {}
    return {
        name: Argument(
            annotations.get(name, Any),
            None if parameter.default is inspect.Parameter.empty else repr(parameter.default),
            meanings.get(name, ""),
        )
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


class _Module:
    """The definitions at the top of a module of this package, by name."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.definitions: dict[str, ast.AST] = {}
        self.imports: dict[str, tuple[str, str]] = {}
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                self.definitions[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.definitions[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                self.definitions[node.target.id] = node.value
            elif isinstance(node, ast.ImportFrom) and node.module:
                self.imports |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}

    @staticmethod
    @cache
    def read(name: str) -> _Module | None:
        """The module of this name; None if this package has none."""
        path = _ROOT.joinpath(*name.split(".")[1:])
        for file in (path.with_suffix(".py") if path != _ROOT else path, path / "__init__.py"):
            if file.is_file():
                return _Module(name, file)
        return None

    @staticmethod
    def find(module: str, name: str) -> tuple[_Module, ast.AST] | None:
        """The definition of a name, followed through imports, and the module that it stands in."""
        while module.partition(".")[0] == _PACKAGE:
            source = _Module.read(module)
            if source is None:
                return None
            if name in source.definitions:
                return source, source.definitions[name]
            if name not in source.imports:
                return None
            module, name = source.imports[name]
        return None

    def __getitem__(self, name: str) -> Any:
        """The value of a name in an annotation; classes of components by a class of the same name."""
        module, original = self.imports.get(name, (self.name, name))
        if module in _IMPORTED:
            return getattr(importlib.import_module(module), original)
        definition = _Module.find(module, original)
        if definition is not None and isinstance(definition[1], ast.expr):
            return definition[0].evaluate(definition[1])
        if definition is not None or name in self.imports:
            return type(original, (), {})
        raise KeyError(name)

    def evaluate(self, annotation: ast.expr) -> Any:
        """The value of an annotation; `Any` if it needs an import of another library."""
        try:
            return eval(compile(ast.Expression(annotation), self.name, "eval"), {}, self)  # type: ignore[arg-type]
        except Exception:  # a type of a library that is not imported here, such as torch.Tensor
            return Any

    def default_text(self, default: ast.expr) -> str:
        """The text of a default; of a constant of the module, that of its value."""
        value = self.definitions.get(default.id) if isinstance(default, ast.Name) else None
        return ast.unparse(value if isinstance(value, ast.expr) else default)


def _bases(module: _Module, node: ast.ClassDef) -> Iterator[tuple[_Module, ast.ClassDef]]:
    """A class and its base classes in this package, the class itself first."""
    yield module, node
    for base in node.bases:
        name = base.value if isinstance(base, ast.Subscript) else base
        definition = _Module.find(module.name, name.id) if isinstance(name, ast.Name) else None
        if definition is not None and isinstance(definition[1], ast.ClassDef):
            yield from _bases(definition[0], definition[1])


def _class_component(module: _Module, node: ast.ClassDef) -> Component:
    meanings: dict[str, str] = {}
    lineage = list(_bases(module, node))
    for _, ancestor in reversed(lineage):
        meanings |= parse_docstring(ast.get_docstring(ancestor)).arguments
    summary = parse_docstring(ast.get_docstring(node)).summary
    for number, (home, ancestor) in enumerate(lineage):
        initializer = next(
            (node for node in ancestor.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"), None
        )
        if initializer is not None:
            return Component(summary, _parameters(home, initializer, meanings))
        if _is_dataclass(ancestor):
            arguments: dict[str, Argument] = {}
            for home_of_fields, owner in reversed(lineage[number:]):
                arguments |= _fields(home_of_fields, owner, meanings) if _is_dataclass(owner) else {}
            return Component(summary, arguments)
    return Component(summary, {})


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any(ast.unparse(decorator).startswith("dataclass") for decorator in node.decorator_list)


def _fields(module: _Module, node: ast.ClassDef, meanings: dict[str, str]) -> dict[str, Argument]:
    """The fields of a dataclass as arguments."""
    return {
        field.target.id: Argument(
            module.evaluate(field.annotation),
            None if field.value is None else module.default_text(field.value),
            meanings.get(field.target.id, ""),
        )
        for field in node.body
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and "ClassVar" not in ast.unparse(field.annotation)
    }


def _parameters(module: _Module, node: ast.FunctionDef, meanings: dict[str, str]) -> dict[str, Argument]:
    """The parameters of a function, without `self`."""
    positional = [*node.args.posonlyargs, *node.args.args]
    defaults = [None] * (len(positional) - len(node.args.defaults)) + list(node.args.defaults)
    return {
        parameter.arg: Argument(
            module.evaluate(parameter.annotation) if parameter.annotation is not None else Any,
            None if default is None else module.default_text(default),
            meanings.get(parameter.arg, ""),
        )
        for parameter, default in zip(
            [*positional, *node.args.kwonlyargs], [*defaults, *node.args.kw_defaults], strict=True
        )
        if parameter.arg != "self"
    }
