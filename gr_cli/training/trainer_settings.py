"""Settings of a `ContinualTrainer`, validated at construction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from annotated_types import Len

from gr_cli.config.arguments import check_value
from gr_cli.config.groups import PROVIDED_ARGUMENTS
from gr_cli.config.instantiate import check_node, import_target, split_generator
from gr_cli.config.shipped_options import (
    STRATEGY_KEY,
    generator_from_dict,
    option_from_dict,
    plain_dict,
    strategy_from_dict,
)
from gr_cli.errors import ConfigError, suggestion
from gr_cli.scenario import Scenario, ScenarioName
from gr_cli.types import NonNegativeInt, PositiveInt

# Default and type of each setting that is not a component.
_PLAIN_SETTINGS: dict[str, tuple[Any, Any]] = {
    "scenario": ("class", ScenarioName),
    "active_classes": ("seen", Literal["seen", "all", "task"]),
    "seed": (0, NonNegativeInt),
    "log_every": (50, PositiveInt),
    "value_range": ("auto", Annotated[list[float], Len(2, 2)] | Literal["auto"] | None),
}
_SETTINGS = ("optimizer", "gradient_rule", STRATEGY_KEY, "generator", *_PLAIN_SETTINGS)


@dataclass(frozen=True)
class TrainerSettings:
    """The settings of a trainer.

    Attributes:
        config: Everything the caller passed, as plain values.
        nodes: Settings of `strategy`, `generator`, `optimizer` and `gradient_rule`, by these names.
        strategy_path: Path of the strategy's settings in `config`.
        scenario: Which output units compete.
        seed: Seed of all random streams.
        log_every: Iterations between rows of the training history.
        value_range: [low, high] of all samples, None if unbounded, `auto` to infer it from the first batch.
    """

    config: dict[str, Any]
    nodes: dict[str, dict[str, Any]]
    strategy_path: str
    scenario: Scenario
    seed: int
    log_every: int
    value_range: list[float] | Literal["auto"] | None

    @classmethod
    def from_config(cls, given: Mapping[str, Any] | None) -> Self:
        """Validate the `config` that a caller passed.

        Raises:
            ConfigError: A value does not fit; names its path.
        """
        config = plain_dict({} if given is None else given, "config")
        for name in config:
            if name not in _SETTINGS:
                settings = f"no such setting; there are {', '.join(_SETTINGS)}"
                raise ConfigError(f"config.{name}", config[name], settings, suggestion(name, _SETTINGS))
        path, nodes = _component_nodes(config)
        values = {name: config.get(name, default) for name, (default, _) in _PLAIN_SETTINGS.items()}
        for name, (default, kind) in _PLAIN_SETTINGS.items():
            check_value(values[name], kind, f"config.{name}", default)
        value_range = values["value_range"]
        if isinstance(value_range, list) and not value_range[0] < value_range[1]:
            raise ConfigError("config.value_range", value_range, "must be [low, high], the lower first")
        scenario = Scenario(values["scenario"], values["active_classes"])
        return cls(config, nodes, path, scenario, values["seed"], values["log_every"], value_range)


def _component_nodes(config: dict[str, Any]) -> tuple[str, dict[str, dict[str, Any]]]:
    """The path of the strategy's settings, and the settings of all components by name."""
    name, strategy, inner_generator, default = strategy_from_dict(config.get(STRATEGY_KEY))
    outer_generator, path = config.get("generator"), f"{STRATEGY_KEY}.{name}"
    inner_path = f"{STRATEGY_KEY}.generator"
    if outer_generator is not None and inner_generator is not None:
        raise ConfigError(inner_path, inner_generator, "is set in config.generator, too", "leave out one of them")
    generator_path = "generator" if inner_generator is None else inner_path
    generator_node = outer_generator if inner_generator is None else inner_generator
    generator = generator_from_dict(generator_node, default, generator_path)
    nodes = {
        "strategy": strategy,
        "generator": generator,
        "optimizer": option_from_dict("optimizer", config.get("optimizer"), "adam", "optimizer"),
        "gradient_rule": option_from_dict("gradient_rule", config.get("gradient_rule"), "none", "gradient_rule"),
    }
    check_node(strategy, path, PROVIDED_ARGUMENTS["strategy"])
    generator_arguments, generator_components = split_generator(generator)
    check_node(generator_arguments, generator_path, PROVIDED_ARGUMENTS["generator"])
    for group, node in generator_components.items():
        check_node(node, f"{generator_path}.{group}", ())
    for group in ("optimizer", "gradient_rule"):
        check_node(nodes[group], group, PROVIDED_ARGUMENTS[group])
    if import_target(strategy["_target_"], path).training_data != "current":  # type: ignore[attr-defined]
        raise ConfigError(
            STRATEGY_KEY,
            name,
            "trains on several tasks at once, and a trainer gets them one after the other",
            f"try gr-run strategy={name}",
        )
    return path, nodes
