"""One run as a value: its resolved configuration, what was chosen by name, and what follows from both."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from gr_cli.config.arguments import check_value
from gr_cli.config.groups import (
    METHOD_GROUPS,
    NAME_GROUPS,
    PARENT_FOLDER_GROUPS,
    PROVIDED_ARGUMENTS,
    RESULT_NEUTRAL_GROUPS,
)
from gr_cli.config.instantiate import accepts_argument, check_node, split_generator
from gr_cli.config.schema import ALLOWED_VALUES, IRRELEVANT_TO_RESULT, RunConfig
from gr_cli.errors import ConfigError, suggestion


@dataclass(frozen=True)
class Settings:
    """`config`: plain nested dicts, all interpolations resolved. `choices`: option by group. `overrides`: as typed."""

    config: dict[str, Any]
    choices: dict[str, str]
    overrides: tuple[str, ...] = ()

    @classmethod
    def validated(
        cls, config: Mapping[str, Any], choices: Mapping[str, str | None], overrides: Sequence[str]
    ) -> Settings:
        """Settings with every value checked as far as it can be without data.

        Raises:
            ConfigError: names the field.
        """
        whole = dict(config)
        _check_names(whole, RunConfig)
        wanted = {
            group: choice
            for group, choice in choices.items()
            if choice is not None and group not in RESULT_NEUTRAL_GROUPS
        }
        for group in PROVIDED_ARGUMENTS:
            if group == "generator" and not accepts_argument(whole["strategy"], "strategy", "generator"):
                # A generator that nothing uses shall not make this another run.
                whole["generator"] = None
                wanted = {name: choice for name, choice in wanted.items() if name.partition("/")[0] != "generator"}
            elif group == "tracker" and whole.get(group) is None:
                whole["tracker"] = None
            elif not isinstance(whole.get(group), Mapping):
                raise ConfigError(group, whole.get(group), "must name an option of this group", f"try {group}=<option>")
        for field, allowed in ALLOWED_VALUES.items():
            check_value(_get_required(whole, field), allowed, field)
        if whole["generator"] is None or whole["evaluate"]["generated_samples"] == 0:
            # Nor shall what nobody dreams, or nobody looks at.
            whole["evaluate"] = {**whole["evaluate"], "generated_samples": None}
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", whole["device"]):
            raise ConfigError("device", whole["device"], "must be auto, cpu, cuda or cuda:<number>")
        if whole["precision"] == "auto":
            # Here, before anything is named after it: a run has one precision wherever it goes on.
            from gr_cli.system.devices import fastest_precision

            whole["precision"] = fastest_precision(whole["device"])
        _check_budget(whole["train"])
        _check_components(whole)
        whole |= {root: _absolute_path(root, whole[root]) for root in ("data_root", "cache_root")}
        return cls(whole, wanted, tuple(overrides))

    @property
    def seed(self) -> int:
        """Seed of all random streams."""
        return int(self.config["seed"])

    @property
    def identity(self) -> str:
        """Hash of all that decides what a run of this seed finds."""
        return short_hash(result_relevant(self.config))

    def differences(self, config: Mapping[str, Any]) -> str:
        """How another configuration differs in what decides what a run finds; empty if it does not."""
        mine, theirs = (
            flatten({k: v for k, v in c.items() if k not in IRRELEVANT_TO_RESULT}) for c in (self.config, config)
        )
        names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
        return ", ".join(
            f"{name} is {_format_value(theirs.get(name))} there, {_format_value(mine.get(name))} here" for name in names
        )

    @property
    def title(self) -> str:
        """The run in a few words."""
        words = [self.choices[group] for group in NAME_GROUPS if group in self.choices]
        return " · ".join([*words, f"{self.config['scenario']}-incremental", f"seed {self.seed}"])

    def as_yaml(self) -> str:
        """The resolved configuration as YAML, its choices in a comment-free block of their own."""
        import yaml

        return yaml.safe_dump({**self.config, "choices": self.choices}, sort_keys=False, allow_unicode=True)

    def folder(self, root: Path) -> Path:
        """Where this run lives below `root`; a folder of the same identity and seed is found under any name."""
        method = "-".join(self.choices[group] for group in METHOD_GROUPS if group in self.choices)
        parent = Path(root, *(self.choices.get(group, group) for group in PARENT_FOLDER_GROUPS), method)
        tail = f"seed{self.seed}-{self.identity}"
        varied = self._override_label()
        path = parent / (f"{varied}-{tail}" if varied else tail)
        known = sorted(parent.glob(f"*{tail}")) if not path.exists() and parent.is_dir() else []
        return known[0] if known else path

    def _override_label(self) -> str:
        """The overrides that tell this run from its siblings, as part of a folder name."""
        words, leaves = [], [name.rpartition(".")[2] for name in flatten(self.config)]
        for override in self.overrides:
            key, _, value = override.lstrip("+~").partition("=")
            top = key.split(".")[0].split("/")[0]
            if key in (*NAME_GROUPS, "seed") or top in (*IRRELEVANT_TO_RESULT, "hydra"):
                continue
            value = self.config["precision"] if key == "precision" else value
            leaf = re.split(r"[./]", key)[-1]
            # generator/optimizer is another group than optimizer, and so is generator/gradient_rule.
            alone = leaves.count(leaf) <= 1 and (leaf == key or leaf not in PROVIDED_ARGUMENTS)
            words.append(value if key == "preset" else f"{leaf if alone else key}={value}")
        plain = re.sub(r"[\[\]{}'\" ]", "", ",".join(words))
        return re.sub(r"[^\w.=,+-]+", "_", plain, flags=re.ASCII)[:100].strip("-")


def short_hash(value: Any) -> str:
    """A short name for a plain value: eight hexadecimal digits."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=4).hexdigest()


def result_relevant(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that decides what a run of its seed finds; equal runs have equal ones."""
    return {name: _comparable(value) for name, value in config.items() if name not in (*IRRELEVANT_TO_RESULT, "seed")}


def _comparable(value: Any) -> Any:
    """Numbers as floats throughout, so that a weight of 1 is one of 1.0."""
    if isinstance(value, Mapping):
        return {key: _comparable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_comparable(part) for part in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """All settings by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _format_value(value: Any) -> str:
    return "null" if value is None else str(value)


def _check_budget(train: Mapping[str, Any]) -> None:
    """Refuse a training that has no length, or two."""
    if (train["iterations"] is None) == (train["epochs"] is None):
        raise ConfigError(
            "train.iterations",
            train["iterations"],
            f"with train.epochs={train['epochs']}: exactly one must be set",
            "for epochs say train.iterations=null train.epochs=10",
        )


def _check_components(config: Mapping[str, Any]) -> None:
    """Check the nodes of all components against the signatures of what they describe."""
    for group, provided in PROVIDED_ARGUMENTS.items():
        node = config[group]
        if group == "generator" and node is not None:
            node, own = split_generator(node)
            for name, inner in own.items():
                check_node(inner, f"generator.{name}", ())
        if node is not None:
            check_node(node, group, provided)
    if (own := config["strategy"].get("generator")) is not None:
        raise ConfigError("strategy.generator", own, "has a group of its own", "try generator=vae")


def _absolute_path(root: str, path: str) -> str:
    """The absolute path of a folder that a setting names."""
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError as error:
        raise ConfigError(root, path, "begins with a home that is not there", "name a folder") from error


def _check_names(config: Mapping[str, Any], schema: type, prefix: str = "") -> None:
    """Refuse names that `schema` doesn't have, which `+name=value` would add."""
    hints = get_type_hints(schema)
    if not isinstance(config, Mapping):
        raise ConfigError(prefix.rstrip("."), config, f"has settings of its own; there are {', '.join(sorted(hints))}")
    for name, value in config.items():
        if name not in hints:
            listed = ", ".join(sorted(hints))
            raise ConfigError(f"{prefix}{name}", value, f"no such setting; there are {listed}", suggestion(name, hints))
        if is_dataclass(hints[name]) and isinstance(hints[name], type):
            _check_names(value, hints[name], f"{prefix}{name}.")


def _get_required(config: Mapping[str, Any], field: str) -> Any:
    value: Any = config
    for part in field.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ConfigError(field, None, "is missing; it can't be taken out of the configuration")
        value = value[part]
    return value
