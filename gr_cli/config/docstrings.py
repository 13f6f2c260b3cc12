"""Google-style docstrings: the first line and the `Args:` section."""

from __future__ import annotations

import re
from dataclasses import dataclass
from inspect import cleandoc

_SECTION = re.compile(r"(Args|Attributes):\s*")
_ENTRY = re.compile(r"\*{0,2}(\w+)(?: \([^)]*\))?:\s*(.*)")
_SENTENCE_END = re.compile(r"(?<!\bal)(?<!e\.g)(?<!i\.e)(?<!\bcf)(?<!\b[Ee]q)\.\s+(?=[A-Z\d`])")


@dataclass(frozen=True)
class Docstring:
    """What is read from the docstring of a component."""

    summary: str  # the first line, or the first paragraph as one line
    arguments: dict[str, str]  # the meaning of each argument, as one line


def parse_docstring(text: str | None) -> Docstring:
    """Read the summary and the `Args:` (or `Attributes:`) section of a docstring."""
    lines = cleandoc(text or "").splitlines()
    end = next((number for number, line in enumerate(lines) if not line.strip()), len(lines))
    arguments: dict[str, list[str]] = {}
    name, in_section = "", False
    for line in lines:
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        if not stripped:
            continue
        if indent == 0:
            in_section = _SECTION.fullmatch(stripped) is not None
        elif in_section and indent <= 4 and (entry := _ENTRY.fullmatch(stripped)):
            name = entry[1]
            arguments[name] = [entry[2]]
        elif in_section and name:
            arguments[name].append(stripped)
    meanings = {name: " ".join(filter(None, text)) for name, text in arguments.items()}
    return Docstring(" ".join(line.strip() for line in lines[:end]), meanings)


def first_sentence(text: str) -> str:
    """The first sentence, without its full stop."""
    return _SENTENCE_END.split(text, maxsplit=1)[0].rstrip(".")
