"""The structured config that Hydra checks names and types of run settings against.

What each setting means and allows is in `run_settings`, the defaults are in `conf/config.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, make_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Optional, Union, get_args, get_origin

from omegaconf import MISSING

from gr_cli.config.groups import PROVIDED_ARGUMENTS, RESULT_NEUTRAL_GROUPS
from gr_cli.config.run_settings import RUN_SETTINGS, RUN_SETTINGS_BY_NAME, RunSetting, Section

# Annotations of the run settings, by dotted name.
ALLOWED_VALUES = {name: setting.allowed for name, setting in RUN_SETTINGS_BY_NAME.items()}


def _hydra_type(annotation: Any) -> Any:
    """The type that OmegaConf checks for an annotation: without bounds, `Any` for a union or a sequence."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        types = [argument for argument in arguments if argument is not NoneType]
        return Optional[_hydra_type(types[0])] if len(types) == 1 else Any
    if origin is Sequence:
        return Any
    if origin is Literal:
        return str
    return arguments[0] if origin is Annotated else annotation


def _structured_config(name: str, entries: Mapping[str, RunSetting | Section | Any]) -> Any:
    """A dataclass with a field for each entry; a section is a dataclass of its own."""
    fields = []
    for key, entry in entries.items():
        if isinstance(entry, Section):
            section = _structured_config(key, entry.settings)
            fields.append((key, section, field(default_factory=section)))
        else:
            annotation = _hydra_type(entry.allowed) if isinstance(entry, RunSetting) else entry
            fields.append((key, annotation, field(default=MISSING)))
    return make_dataclass(name, fields)


# The whole configuration of a run: a node for each config group with a component, and the run settings.
RunConfig: Any = _structured_config("RunConfig", dict.fromkeys(PROVIDED_ARGUMENTS, Any) | RUN_SETTINGS)

# Settings that do not change the result of a run: where data lies, how often it reports and saves.
IRRELEVANT_TO_RESULT = (
    "data_root",
    "cache_root",
    "output_root",
    "storage",
    "download",
    "fresh",
    "inspect",
    "objective",
    "prune_below",
    "log",
    "checkpoint",
    *RESULT_NEUTRAL_GROUPS,
)
