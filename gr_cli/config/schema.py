"""The run-level settings: their names and types here, their defaults in `conf/config.yaml`.

Hydra refuses unknown names and wrong types at composition; `CHECKS` says which values make sense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, Literal, Optional

from annotated_types import Ge, Le, Len
from omegaconf import MISSING

from gr_cli.config.groups import NOT_IDENTIFYING, PROVIDED
from gr_cli.types import Count, NonNegative, Positive, PositiveInt


@dataclass
class TrainConfig:
    """Budget per task: either `iterations`, or `epochs` of a task of mean size. `boundaries`: `told` or `hidden`."""

    iterations: Optional[int] = MISSING
    epochs: Optional[int] = MISSING
    batch_size: int = MISSING
    active_classes: str = MISSING
    boundaries: str = MISSING


@dataclass
class AugmentConfig:
    """What is done at random to the samples that the solver learns: `gr_cli.nn.augmentation.Augment`."""

    noise: float = MISSING
    shift: int = MISSING
    flip: float = MISSING
    brightness: float = MISSING
    contrast: float = MISSING


@dataclass
class LogConfig:
    """`every`: iterations between two rows of history.csv."""

    every: int = MISSING


@dataclass
class EvaluateConfig:
    """`every`: iterations between evaluations within a task; null: only after it. `samples` of each task; null: all.
    `dreams` of each task that are judged; null or 0: none."""

    every: Optional[int] = MISSING
    samples: Optional[int] = MISSING
    dreams: Optional[int] = MISSING


@dataclass
class CheckpointConfig:
    """`every_seconds`: time between checkpoints within a task, which is stretched where writing them would take more
    than a fiftieth of it; one is written after every task in any case."""

    every_seconds: float = MISSING


# A field for the node of each group.
_Components: Any = make_dataclass("_Components", [(name, Any, field(default=MISSING)) for name in PROVIDED])


@dataclass
class RunConfig(_Components):  # type: ignore[misc]
    """Everything that one run is made from: the components, and these settings."""

    seed: int = MISSING
    scenario: str = MISSING
    train: TrainConfig = field(default_factory=TrainConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    normalise: Any = MISSING
    log: LogConfig = field(default_factory=LogConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    device: str = MISSING
    threads: Optional[int] = MISSING
    precision: str = MISSING
    data_root: str = MISSING
    cache_root: str = MISSING
    download: bool = MISSING
    fresh: bool = MISSING
    inspect: bool = MISSING


CHECKS: dict[str, Any] = {
    "seed": Count,
    "scenario": Literal["class", "domain", "task"],
    "train.iterations": PositiveInt | None,
    "train.epochs": PositiveInt | None,
    "train.batch_size": PositiveInt,
    "train.active_classes": Literal["seen", "all"],
    "train.boundaries": Literal["told", "hidden"],
    "augment.noise": NonNegative,
    "augment.shift": Count,
    "augment.flip": Annotated[float, Ge(0), Le(1)],
    "augment.brightness": Annotated[float, Ge(0), Le(1)],
    "augment.contrast": Annotated[float, Ge(0), Le(1)],
    "normalise": Literal["first_task"] | Annotated[Sequence[Sequence[float]], Len(2, 2)] | None,
    "log.every": PositiveInt,
    "evaluate.every": PositiveInt | None,
    "evaluate.samples": PositiveInt | None,
    "evaluate.dreams": Count | None,
    "checkpoint.every_seconds": Positive,
    "device": str,
    "threads": Annotated[int, Ge(1), Le(1024)] | None,
    "precision": Literal["float32", "float64", "bf16", "auto"],
    "data_root": str,
    "cache_root": str,
    "download": bool,
    "fresh": bool,
    "inspect": bool,
}

# Settings that do not change what a run finds: where it looks, how often and to whom it reports.
NOT_IDENTITY = ("data_root", "cache_root", "download", "fresh", "inspect", "log", "checkpoint", *NOT_IDENTIFYING)
