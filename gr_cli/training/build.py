"""Builds a learner from settings: solver, generator, strategy, optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gr_cli.benchmarks.base import Samples
from gr_cli.config.instantiate import accepts_argument, build_as, split_generator
from gr_cli.errors import ConfigError
from gr_cli.generators.base import Generator
from gr_cli.nn.augmentation import Augmentation
from gr_cli.nn.gradient_rules import GradientRule
from gr_cli.nn.layers import HasFeatures
from gr_cli.nn.random_streams import RandomStreams, StreamNames, seeded
from gr_cli.nn.replicas import Replicas
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.optimizers import Optimizer
from gr_cli.scenario import Scenario
from gr_cli.strategies.base import Strategy
from gr_cli.training.learner import Learner, Precision
from gr_cli.training.normalization import input_moments
from gr_cli.training.task_free import ConsolidationSchedule, check_task_boundaries

T = TypeVar("T")


def build_learner(
    config: dict[str, Any],
    spec: SampleSpec,
    task_units: Tensor,
    device: torch.device,
    consolidation_schedule: ConsolidationSchedule | None = None,
    first_task_samples: Samples | None = None,
) -> Learner:
    """The learner of a run; initial parameters follow from the seed.

    Args:
        config: All settings of the run.
        spec: Specification of the samples.
        task_units: bool (T, U), the output units of each task or consolidation interval.
        device: Device of parameters and samples.
        consolidation_schedule: For task-free streams.
        first_task_samples: Training samples of the first task, for input normalisation. None if a saved state will be
            loaded.

    Raises:
        ConfigError: Settings don't fit together.
    """
    seed, recurring = config["seed"], bool((task_units.sum(0) > 1).any())
    scenario = Scenario(config["scenario"], config["train"]["active_classes"], recurring)
    with seeded(seed, StreamNames.SOLVER_INIT):
        sizes = {"input_size": spec.size, "image_shape": spec.shape, "output_size": task_units.shape[1]}
        _check_derived_arguments(config["model"], "model", sizes)
        if config["normalise"] is not None and not accepts_argument(config["model"], "model", "moments"):
            raise ConfigError(
                "normalise", config["normalise"], "this model takes no moments to normalise by", "try normalise=null"
            )
        seen = input_moments(config["normalise"], spec, first_task_samples)
        solver = build_as(nn.Module, config["model"], "model", moments=seen, **sizes)
    augment = Augmentation(**config["augment"])
    augment.check(spec.shape)
    draws, precision = RandomStreams(seed, device), config["precision"]
    tasks = None if scenario.units_are_task_specific else len(task_units)
    boundaries_unknown = config["train"]["task_boundaries"] == "unknown"
    return assemble_learner(
        solver,
        config,
        spec,
        scenario,
        task_units,
        draws,
        precision,
        tasks,
        boundaries_unknown,
        augment,
        consolidation_schedule,
    )


def assemble_learner(
    solver: nn.Module,
    nodes: Mapping[str, Any],
    spec: SampleSpec,
    scenario: Scenario,
    task_units: Tensor,
    random_streams: RandomStreams,
    precision: Precision,
    num_tasks: int | None,
    boundaries_unknown: bool = False,
    augment: Augmentation | None = None,
    consolidation_schedule: ConsolidationSchedule | None = None,
    strategy_path: str = "strategy",
) -> Learner:
    """The learner of one replica around an existing solver, on the device of its random streams.

    Args:
        solver: The network to train.
        nodes: Settings of `strategy`, `generator`, `optimizer` and `gradient_rule`, by these names.
        spec: Specification of the samples.
        scenario: Maps tasks to output units.
        task_units: bool (T, U), the output units of each task or consolidation interval.
        random_streams: Random streams of the run.
        precision: Precision of parameters and matrix products.
        num_tasks: Number of tasks that share their classes; None if each has its own.
        boundaries_unknown: Whether the stream is task-free.
        augment: Augmentation of the solver's samples.
        consolidation_schedule: For task-free streams.
        strategy_path: Path of the strategy's settings, for error messages.

    Raises:
        ConfigError: Settings don't fit together.
    """
    provided = {}
    if accepts_argument(nodes["strategy"], strategy_path, "generator"):
        with seeded(random_streams.seed, StreamNames.GENERATOR_INIT):
            provided["generator"] = build_generator(nodes["generator"], spec, task_units.shape[1], solver, num_tasks)
    strategy = build_as(Strategy, nodes["strategy"], strategy_path, **provided)
    check_task_boundaries(boundaries_unknown, strategy, scenario)
    strategy.check(scenario, solver)
    optimizer = build_as(Optimizer, nodes["optimizer"], "optimizer")  # type: ignore[type-abstract]
    rule = build_as(GradientRule, nodes["gradient_rule"], "gradient_rule")
    own_optimizer = _generator_component("optimizer", Optimizer, nodes["generator"], strategy)  # type: ignore[type-abstract]
    own_rule = _generator_component("gradient_rule", GradientRule, nodes["generator"], strategy)
    _move_to_device(solver, strategy.generator, random_streams.device, precision == "float64")
    return Learner(
        Replicas([solver]),
        None if strategy.generator is None else Replicas([strategy.generator]),
        strategy,
        [optimizer],
        scenario,
        task_units,
        [random_streams],
        precision,
        augment,
        consolidation_schedule,
        None if own_optimizer is None else [own_optimizer],
        rule,
        own_rule,
    )


def _move_to_device(solver: nn.Module, generator: Generator | None, device: torch.device, double: bool) -> None:
    """Move both networks to `device`, in float64 if `double`. Integer buffers of a solver keep their dtype."""
    solver.to(device)
    if double:
        solver.double()
    if generator is not None:
        generator.to(device, torch.float64 if double else torch.float32)


def _generator_component(
    name: str, component_type: type[T], node: Mapping[str, Any] | None, strategy: Strategy
) -> T | None:
    """The generator's own optimizer or gradient rule; None if it uses the solver's."""
    generator = strategy.generator
    own = None if node is None or generator is None else split_generator(node)[1].get(name)
    if own is None or generator is None:
        return None
    if strategy.shares_loss_with_generator and name == "gradient_rule":
        shared = f"{type(generator).__name__} shares one loss with the solver, whose gradient rule it follows"
        raise ConfigError(f"generator.{name}", own["_target_"], shared, "leave it out")
    if not generator.objectives():
        fitted = f"{type(generator).__name__} is fitted in one go, and takes no steps"
        raise ConfigError(f"generator.{name}", own["_target_"], fitted, "leave it out")
    return build_as(component_type, own, f"generator.{name}")


def build_generator(
    node: dict[str, Any], spec: SampleSpec, num_classes: int, solver: nn.Module, num_tasks: int | None = None
) -> Generator:
    """The generator for samples of `spec`.

    Args:
        node: Settings of the generator.
        spec: Specification of the samples.
        num_classes: Number of output units.
        solver: The solver, whose feature size and layer sizes the generator may follow.
        num_tasks: Number of tasks that share their classes; None if each has its own.

    Raises:
        ConfigError: Settings don't fit the samples or the solver.
    """
    node, _ = split_generator(node)
    provided: dict[str, Any] = {"spec": spec, "num_classes": num_classes, "num_tasks": num_tasks}
    if accepts_argument(node, "generator", "feature_size"):
        if not isinstance(solver, HasFeatures):
            raise ConfigError(
                "model", type(solver).__name__, "has no features, which this generator reads", "try model=mlp"
            )
        provided["feature_size"] = solver.feature_size
    if node.get("hidden_dims", ()) is None:
        # The solver's own widths, where it is a plain stack of layers.
        provided["hidden_dims"] = getattr(solver, "hidden_sizes", None)
        if provided["hidden_dims"] is None:
            raise ConfigError(
                "generator.hidden_dims",
                None,
                f"{type(solver).__name__} has no hidden_sizes to be taken over",
                "name them: generator.hidden_dims=[256,128]",
            )
    sizes = {name: value for name, value in provided.items() if name in _DERIVED_ARGUMENTS}
    _check_derived_arguments(node, "generator", {"spec": "the benchmark's"} | sizes)
    return build_as(Generator, node, "generator", **provided)  # type: ignore[type-abstract]


# What a generator can't choose for itself, as it can't what samples are.
_DERIVED_ARGUMENTS = ("num_classes", "feature_size", "num_tasks")


def _check_derived_arguments(node: dict[str, Any], path: str, derived: Mapping[str, Any]) -> None:
    """Refuse settings that differ from the values derived from the benchmark."""
    for name, value in derived.items():
        said, follows = node.get(name), list(value) if isinstance(value, tuple) else value
        if said not in (None, follows):
            allowed = f"follows from the other choices, and is {follows} here"
            raise ConfigError(f"{path}.{name}", said, allowed, "leave it out")
