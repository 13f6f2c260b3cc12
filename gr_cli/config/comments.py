"""A composed configuration as YAML with the meaning of each setting in a comment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from gr_cli.config.docstrings import first_sentence
from gr_cli.config.options import as_yaml_meaning, shipped_component
from gr_cli.config.run_settings import RUN_SETTINGS, RUN_SETTINGS_BY_NAME, Section

_KEY = re.compile(r"^( *)([\w-]+):(?: (.*))?$")


def with_comments(text: str, package: str = "") -> str:
    """YAML of a composed configuration with comments; the text as it is where a comment would change its content.

    Args:
        text: The YAML.
        package: The dotted name of the node that it holds; empty for a whole configuration.
    """
    content = _load(text)
    if not isinstance(content, Mapping):
        return text
    meanings = dict(_meanings(content, f"{package}." if package else ""))
    stack: list[tuple[int, str]] = []
    lines = []
    for line in text.splitlines():
        if key := _KEY.match(line):
            while stack and stack[-1][0] >= len(key[1]):
                stack.pop()
            stack.append((len(key[1]), key[2]))
            meaning = meanings.get(".".join([*filter(None, [package]), *(name for _, name in stack)]))
            line = f"{line}  # {first_sentence(meaning)}" if meaning else line
        lines.append(line)
    commented = "\n".join(lines) + "\n"
    try:
        same = _load(commented) == content
    except yaml.YAMLError:
        same = False
    return commented if same else text


def _load(text: str) -> Any:
    """The content of YAML, by the parser in C where it is installed: each run of a sweep writes its configuration."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _meanings(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """The meanings of the settings in a node, by their full dotted names."""
    component = shipped_component(str(node.get("_target_", "")))
    for name, value in node.items():
        full = f"{prefix}{name}"
        section = RUN_SETTINGS.get(full)
        if isinstance(section, Section):
            yield full, section.meaning
        elif full in RUN_SETTINGS_BY_NAME:
            yield full, RUN_SETTINGS_BY_NAME[full].meaning
        elif component is not None and name in component.arguments and component.arguments[name].meaning:
            yield full, as_yaml_meaning(component.arguments[name].meaning)
        elif full == str(name) and isinstance(value, Mapping):
            target = shipped_component(str(value.get("_target_", "")))
            if target is not None and target.summary:
                yield full, target.summary
        if isinstance(value, Mapping):
            yield from _meanings(value, f"{full}.")
