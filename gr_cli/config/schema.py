"""The run-level settings: their names and what each may be here, their defaults in `conf/config.yaml`.

Hydra refuses unknown names and wrong types at composition; `CHECKS` says which values make sense.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, make_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Optional, Union, get_args, get_origin

from annotated_types import Ge, Le, Len
from omegaconf import MISSING

from gr_cli.config.groups import PROVIDED_ARGUMENTS, RESULT_NEUTRAL_GROUPS
from gr_cli.types import NonNegative, NonNegativeInt, Positive, PositiveInt

SETTINGS: dict[str, Any] = {
    "seed": NonNegativeInt,
    "scenario": Literal["class", "domain", "task"],
    # Budget per task: either `iterations`, or `epochs` of a task of mean size.
    "train": {
        "iterations": PositiveInt | None,
        "epochs": PositiveInt | None,
        "batch_size": PositiveInt,
        "active_classes": Literal["seen", "all"],
        "task_boundaries": Literal["known", "unknown"],
    },
    # What is done at random to the samples that the solver learns: `gr_cli.nn.augmentation.Augmentation`.
    "augment": {
        "noise": NonNegative,
        "shift": NonNegativeInt,
        "flip": Annotated[float, Ge(0), Le(1)],
        "brightness": Annotated[float, Ge(0), Le(1)],
        "contrast": Annotated[float, Ge(0), Le(1)],
    },
    "normalise": Literal["first_task"] | Annotated[Sequence[Sequence[float]], Len(2, 2)] | None,
    "log": {"every": PositiveInt},  # iterations between two rows of history.csv
    "evaluate": {
        "every": PositiveInt | None,  # iterations between evaluations within a task; null: only after it
        "samples": PositiveInt | None,  # of each task; null: all
        "generated_samples": NonNegativeInt | None,  # of each task that are judged; null or 0: none
    },
    # Seconds between checkpoints within a task, which are stretched where writing them would take more than a fiftieth
    # of it; one is written after every task in any case.
    "checkpoint": {"every_seconds": Positive},
    "device": str,
    "threads": Annotated[int, Ge(1), Le(1024)] | None,
    "precision": Literal["float32", "float64", "bf16", "auto"],
    "data_root": str,
    "cache_root": str,
    "download": bool,
    "fresh": bool,
    "inspect": bool,
}


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, allowed in settings.items():
        found |= _dotted(allowed, f"{prefix}{name}.") if isinstance(allowed, Mapping) else {f"{prefix}{name}": allowed}
    return found


ALLOWED_VALUES = _dotted(SETTINGS)  # what is allowed, by dotted name


def _hydra_type(allowed: Any) -> Any:
    """What Hydra checks of an annotation: the kind of a value, without its bounds."""
    origin, arguments = get_origin(allowed), get_args(allowed)
    if origin in (Union, UnionType):
        kinds = [kind for kind in arguments if kind is not NoneType]
        return Optional[_hydra_type(kinds[0])] if len(kinds) == 1 else Any
    if origin is Literal:
        return str
    return arguments[0] if origin is Annotated else allowed


def _schema(name: str, settings: Mapping[str, Any]) -> Any:
    fields = []
    for key, allowed in settings.items():
        if isinstance(allowed, Mapping):
            part = _schema(key, allowed)
            fields.append((key, part, field(default_factory=part)))
        else:
            fields.append((key, _hydra_type(allowed), field(default=MISSING)))
    return make_dataclass(name, fields)


# Everything that one run is made from: a node for each group of components, and these settings.
RunConfig: Any = _schema("RunConfig", dict.fromkeys(PROVIDED_ARGUMENTS, Any) | SETTINGS)

# Settings that do not change what a run finds: where it looks, how often and to whom it reports.
IRRELEVANT_TO_RESULT = (
    "data_root",
    "cache_root",
    "download",
    "fresh",
    "inspect",
    "log",
    "checkpoint",
    *RESULT_NEUTRAL_GROUPS,
)
