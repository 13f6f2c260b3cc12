"""The settings of one run: its resolved configuration, the chosen options, and its identity, title and folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
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
from gr_cli.config.own_code import CODE_HASHES
from gr_cli.config.own_components import LiveParts, live_value, recorded_overrides
from gr_cli.config.schema import ALLOWED_VALUES, IRRELEVANT_TO_RESULT, RunConfig
from gr_cli.errors import ConfigError, suggestion


@dataclass(frozen=True)
class Settings:
    """The settings of one run.

    Attributes:
        config: The configuration as nested dicts of plain values, with all interpolations resolved.
        choices: The chosen option of each group that affects the result.
        overrides: The overrides as they were typed.
        live: Objects passed from Python, which the configuration describes by name and hash.
    """

    config: dict[str, Any]
    choices: dict[str, str]
    overrides: tuple[str, ...] = ()
    live: LiveParts = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def validated(
        cls, config: Mapping[str, Any], choices: Mapping[str, str | None], overrides: Sequence[str]
    ) -> Settings:
        """Settings whose values were checked, as far as that is possible without data.

        Args:
            config: The configuration, with all interpolations resolved.
            choices: The chosen option of each group; None where there is none.
            overrides: The overrides as they were typed.

        Raises:
            ConfigError: A value is not allowed.
        """
        resolved = {name: value for name, value in config.items() if name != CODE_HASHES}
        _check_names(resolved, RunConfig)
        relevant_choices = {
            group: choice
            for group, choice in choices.items()
            if choice is not None and group not in RESULT_NEUTRAL_GROUPS
        }
        _check_groups(resolved)
        if resolved["generator"] is None:
            relevant_choices = {
                name: choice for name, choice in relevant_choices.items() if name.partition("/")[0] != "generator"
            }
        for name, allowed in ALLOWED_VALUES.items():
            check_value(_get_required(resolved, name), allowed, name)
        if resolved["generator"] is None or resolved["evaluate"]["generated_samples"] == 0:
            # Two ways to generate no samples are the same run.
            resolved["evaluate"] = {**resolved["evaluate"], "generated_samples": None}
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", resolved["device"]):
            raise ConfigError("device", resolved["device"], "must be auto, cpu, cuda or cuda:<number>")
        if resolved["precision"] == "auto":
            # Resolved before identity and folder are computed: a run resumes with the same precision on any machine.
            from gr_cli.system.devices import fastest_precision

            resolved["precision"] = fastest_precision(resolved["device"])
        _check_budget(resolved["train"])
        _check_components(resolved)
        resolved |= {name: str(_expanded(name, resolved[name]).absolute()) for name in ("data_root", "cache_root")}
        resolved["output_root"] = str(_expanded("output_root", resolved["output_root"]))
        settings = cls(resolved, relevant_choices, tuple(overrides))
        return settings.with_code_hashes(config.get(CODE_HASHES, {}))

    def with_code_hashes(self, hashes: Mapping[str, str]) -> Settings:
        """These settings with the hashes of the own modules that they name, which are part of the identity."""
        return replace(self, config={**self.config, CODE_HASHES: dict(hashes)}) if hashes else self

    def live_value(self, path: str, name: str, content_hash: str) -> Any:
        """The object passed from Python that the configuration describes under the dotted name `path`.

        Raises:
            ConfigError: It was not passed, or is another one.
        """
        return live_value(self.live, path, name, content_hash)

    def option(self, group: str, component: object) -> str:
        """The chosen option of a group, for messages; the class of `component`, its instance, if there is none."""
        return self.choices.get(group, type(component).__name__)

    def naming_options(self, error: ConfigError) -> ConfigError:
        """An error whose message names the chosen options in place of the classes that they configure."""
        text = str(error)
        for group, option in self.choices.items():
            node: Any = self.config
            for name in group.split("/"):
                node = node.get(name) if isinstance(node, Mapping) else None
            if isinstance(node, Mapping) and "_target_" in node:
                class_name = str(node["_target_"]).rpartition(".")[2]
                text = re.sub(rf"\b{re.escape(class_name)}\b", option, text)
        return error if text == str(error) else error.reworded(text)

    @property
    def recorded_overrides(self) -> list[str]:
        """The overrides for readers: `model=MyNet` for an object passed from Python."""
        return recorded_overrides(self.overrides, self.live)

    @property
    def seed(self) -> int:
        """Seed of all random streams."""
        return int(self.config["seed"])

    @property
    def identity(self) -> str:
        """Hash of everything that affects the result of a run, apart from the seed."""
        return short_hash(result_relevant(self.config))

    def differences(self, config: Mapping[str, Any]) -> str:
        """The settings in which another configuration has a different result, as text; empty if there are none."""
        here, there = (
            flatten({k: v for k, v in c.items() if k not in IRRELEVANT_TO_RESULT}) for c in (self.config, config)
        )
        names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
        return ", ".join(
            f"{name} is {_format_value(there.get(name))} there, {_format_value(here.get(name))} here" for name in names
        )

    @property
    def title(self) -> str:
        """A title: options, scenario and seed."""
        options = [self.choices[group] for group in NAME_GROUPS if group in self.choices]
        return " · ".join([*options, f"{self.config['scenario']}-incremental", f"seed {self.seed}"])

    def as_yaml(self) -> str:
        """The resolved configuration as YAML, with the meaning of each setting in a comment, and the choices."""
        import yaml

        from gr_cli.config.comments import with_comments

        text = yaml.safe_dump({**self.config, "choices": self.choices}, sort_keys=False, allow_unicode=True)
        return with_comments(text)

    @property
    def output_root(self) -> Path:
        """Folder below which runs and sweeps are written."""
        return Path(self.config["output_root"])

    def names(self, path: Path) -> bool:
        """Whether a folder has the name that `folder` gives the run, or that of a fresh one beside it."""
        return re.search(rf"(^|-){self._suffix}(-\d+)?$", path.name) is not None

    @property
    def _suffix(self) -> str:
        return f"seed{self.seed}-{self.identity}"

    def folder(self, root: Path | None = None) -> Path:
        """The run's folder; an existing folder of the same identity and seed, whatever its overrides.

        Args:
            root: Where it lies; None: `output_root`.
        """
        method = "-".join(self.choices[group] for group in METHOD_GROUPS if group in self.choices)
        groups = [self.choices.get(group, group) for group in PARENT_FOLDER_GROUPS]
        parent, suffix = Path(self.output_root if root is None else root, *groups, method), self._suffix
        label = self._override_label()
        path = parent / (f"{label}-{suffix}" if label else suffix)
        existing = sorted(parent.glob(f"*{suffix}")) if not path.exists() and parent.is_dir() else []
        return existing[0] if existing else path

    def _override_label(self) -> str:
        """The overrides that affect the result, as part of a folder name."""
        parts, leaves = [], [name.rpartition(".")[2] for name in flatten(self.config)]
        for override in self.recorded_overrides:
            key, _, value = override.lstrip("+~").partition("=")
            top = key.split(".")[0].split("/")[0]
            if key in (*NAME_GROUPS, "seed") or top in (*IRRELEVANT_TO_RESULT, "hydra"):
                continue
            value = self.config["precision"] if key == "precision" else value
            leaf = re.split(r"[./]", key)[-1]
            if leaf == "_target_":
                if top in NAME_GROUPS:
                    continue  # the choice of its group
                key, value = key.removesuffix("._target_"), self.choices.get(top, value)
                leaf = re.split(r"[./]", key)[-1]
            # A leaf such as `optimizer` is also a group of its own: `generator/optimizer` keeps its full name.
            unambiguous = leaves.count(leaf) <= 1 and (leaf == key or leaf not in PROVIDED_ARGUMENTS)
            parts.append(value if key == "preset" else f"{leaf if unambiguous else key}={value}")
        plain = re.sub(r"[\[\]{}'\" ]", "", ",".join(parts))
        return re.sub(r"[^\w.=,+-]+", "_", plain, flags=re.ASCII)[:100].strip("-")


def short_hash(value: Any) -> str:
    """Hash of a plain value, as eight hexadecimal digits."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=4).hexdigest()


# Sections whose settings mean nothing while one of them is null: the run is the same as without them.
_SWITCHED_SECTIONS = {"privacy": "epsilon", "membership": "draw", "canaries": "count"}


def result_relevant(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that affects the result of a run, apart from the seed, in comparable form."""
    relevant = {
        name: _comparable(value) for name, value in config.items() if name not in (*IRRELEVANT_TO_RESULT, "seed")
    }
    if isinstance(train := relevant.get("train"), dict) and train.get("tasks", 0) is None:
        del train["tasks"]  # all tasks: the same run as without this setting
    for section, switch in _SWITCHED_SECTIONS.items():
        if isinstance(settings := relevant.get(section), dict) and settings.get(switch) is None:
            del relevant[section]
    return relevant


def _comparable(value: Any) -> Any:
    """A value with all numbers as floats, so that a weight of 1 equals one of 1.0."""
    if isinstance(value, Mapping):
        return {key: _comparable(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_comparable(entry) for entry in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """All settings by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _format_value(value: Any) -> str:
    return "null" if value is None else str(value)


def _check_groups(config: dict[str, Any]) -> None:
    """Check that each group has a component; a generator that the strategy doesn't use becomes null.

    So it does not change the run's identity.

    Raises:
        ConfigError: A group has none.
    """
    for group in PROVIDED_ARGUMENTS:
        if group == "generator" and not accepts_argument(config["strategy"], "strategy", "generator"):
            config["generator"] = None
        elif group == "tracker" and config.get(group) is None:
            config["tracker"] = None
        elif not isinstance(config.get(group), Mapping):
            raise ConfigError(group, config.get(group), "must name an option of this group", f"try {group}=<option>")


def _check_budget(train: Mapping[str, Any]) -> None:
    """Check that exactly one of iterations and epochs is set, and neither for a single-pass stream."""
    if train["online"]:
        for name in ("iterations", "epochs"):
            if train[name] is not None:
                length = "a single pass over the samples has no other length (train.online=true)"
                raise ConfigError(f"train.{name}", train[name], length, f"set train.{name}=null, or try preset=online")
        return
    if train["updates_per_batch"] != 1:
        raise ConfigError(
            "train.updates_per_batch",
            train["updates_per_batch"],
            "is for single-pass streams (train.online=true)",
            "try preset=online",
        )
    if (train["iterations"] is None) == (train["epochs"] is None):
        raise ConfigError(
            "train.iterations",
            train["iterations"],
            f"with train.epochs={train['epochs']}: exactly one must be set",
            "for epochs set train.iterations=null train.epochs=10",
        )


def _check_components(config: Mapping[str, Any]) -> None:
    """Check the nodes of all components against their signatures."""
    for group, provided in PROVIDED_ARGUMENTS.items():
        node = config[group]
        if group == "generator" and node is not None:
            node, training = split_generator(node)
            for name, inner in training.items():
                check_node(inner, f"generator.{name}", ())
        if node is not None:
            check_node(node, group, provided)
    if (generator := config["strategy"].get("generator")) is not None:
        raise ConfigError("strategy.generator", generator, "has a group of its own", "try generator=vae")


def _expanded(name: str, path: str) -> Path:
    """The path of a folder that a setting names, with `~` for the home folder."""
    if not path.strip() and name == "output_root":
        raise ConfigError(name, path, "must name a folder", "unset GR_OUTPUT_ROOT for outputs")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(name, path, "is in an unknown user's home folder", "name a folder") from error


def _check_names(config: Mapping[str, Any], schema: type, prefix: str = "") -> None:
    """Check that a configuration has no names besides those of the schema; `+name=value` could add some."""
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
    """The value of a setting that every configuration has."""
    value: Any = config
    for name in field.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise ConfigError(field, None, "is missing; it can't be removed from the configuration")
        value = value[name]
    return value
