"""All error messages of the package, read from its source: where each is raised, and its constant text."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gr_cli import errors

PACKAGE = Path(errors.__file__).parent
KINDS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.GrError)}
KINDS |= {"TrainingError.diverged", "error_type"}  # the second is an argument of `out_of_memory_as`
# Modules whose functions answer with what an error will say.
SPEAKERS = (
    "cli/hydra_errors.py",
    "benchmarks/sources/validation.py",
    "benchmarks/sources/idx.py",
    "benchmarks/sources/torchvision.py",
)


@dataclass(frozen=True)
class Message:
    """A message raised in `file`, at `line`.

    text: its constant text, with {} for the variable parts; the name of its function where all of it varies.
    kind: the class of the error; empty where the text is returned and another function raises it.
    """

    file: str
    line: int
    text: str
    kind: str

    def __str__(self) -> str:
        return f"gr_cli/{self.file}:{self.line}: {self.text}"

    @property
    def pattern(self) -> str:
        """A regular expression for the message, its remedy optional; matches anything if all of it varies."""
        parts = [re.escape(" ".join(part.split())) for part in self.text.removesuffix("; {}").split("{}")]
        return ".*".join(parts) if any(map(str.isalpha, self.text.replace("{}", ""))) and " " in self.text else ""


def messages() -> list[Message]:
    """All messages, in source order."""
    paths = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "errors.py")
    return [message for path in paths for message in _in(path)]


def _in(path: Path) -> Iterator[Message]:
    file = path.relative_to(PACKAGE).as_posix()
    for node, owners in _walked(ast.parse(path.read_text(encoding="utf-8")), ()):
        texts = _texts(node, owners, file in SPEAKERS)
        name = ".".join(owner.name for owner in owners)
        for text in dict.fromkeys(text if any(map(str.isalpha, text)) else name for text in texts):
            kind = ast.unparse(node.func).split(".")[0] if isinstance(node, ast.Call) else ""
            yield Message(file, node.lineno, text, kind)


def _walked(node: ast.AST, owners: tuple) -> Iterator[tuple[ast.AST, tuple]]:
    """All nodes in source order, each with its enclosing classes and functions."""
    for child in ast.iter_child_nodes(node):
        yield child, owners
        inside = (*owners, child) if isinstance(child, (ast.ClassDef, ast.FunctionDef)) else owners
        yield from _walked(child, inside)


def _texts(node: ast.AST, owners: tuple, speaks: bool) -> list[str]:
    """The message texts that a node raises."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) in KINDS:
        if ast.unparse(node.func) == "ConfigError":
            field, value, allowed, *remedy = node.args
            rest = "".join(f"; {_constant(part)}" for part in remedy)
            return [f"{_constant(field)}={_constant(value)}: {text}{rest}" for text in _branches(allowed, owners)]
        return [""] if ast.unparse(node.func) == "Interrupted" else _branches(node.args[0], owners)
    if speaks and isinstance(node, (ast.Return, ast.Yield)) and _is_text(node.value):
        return [text for text in _branches(node.value, owners) if text]
    return []


def _is_text(node: ast.expr | None) -> bool:
    """Whether a returned expression is a text with a constant part, or assembled from several."""
    if isinstance(node, ast.IfExp):
        return _is_text(node.body) or _is_text(node.orelse)
    if isinstance(node, ast.BinOp):
        return any(isinstance(part, ast.JoinedStr) for part in (node.left, node.right))
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _branches(node: ast.expr | None, owners: tuple) -> list[str]:
    """The constant parts of a text, one for each branch of a conditional. Variables are looked up."""
    if isinstance(node, ast.IfExp):
        return [text for branch in (node.body, node.orelse) for text in _branches(branch, owners)]
    if isinstance(node, ast.Name) and owners:
        steps = [step for step in ast.walk(owners[-1]) if isinstance(step, ast.Assign)]
        values = [step.value for step in steps if ast.unparse(step.targets[0]) == node.id]
        return [text for value in values for text in _branches(value, ())] or ["{}"]
    return [_constant(node)]


def _constant(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant):
        return "null" if node.value is None else str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    if isinstance(node, ast.BinOp):
        return f"{_constant(node.left)}{_constant(node.right)}"
    return "{}"
