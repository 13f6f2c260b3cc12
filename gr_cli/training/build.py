"""Builds a learner from settings: solver, generator, strategy, optimizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gr_cli.benchmarks.base import Samples
from gr_cli.config.instantiate import accepts_argument, build_as, split_generator
from gr_cli.config.own_components import LiveValue
from gr_cli.errors import ConfigError
from gr_cli.generators.base import Generator
from gr_cli.nn.augmentation import Augmentation
from gr_cli.nn.gradient_rules import GradientRule
from gr_cli.nn.layers import HasFeatures
from gr_cli.nn.random_streams import RandomStreams, StreamNames, derive_seed, seeded
from gr_cli.nn.replicas import Replicas
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.optimizers import Optimizer
from gr_cli.privacy.settings import PrivacySettings
from gr_cli.scenario import Scenario
from gr_cli.strategies.base import Strategy
from gr_cli.training.learner import Learner, Precision
from gr_cli.training.normalization import input_moments
from gr_cli.training.private_training import num_private_parts
from gr_cli.training.task_free import ConsolidationSchedule, check_task_boundaries

T = TypeVar("T")


def build_learner(
    config: dict[str, Any],
    spec: SampleSpec,
    task_units: Tensor,
    device: torch.device,
    consolidation_schedule: ConsolidationSchedule | None = None,
    first_task_samples: Samples | None = None,
    class_size: int | None = None,
    live: LiveValue | None = None,
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
        class_size: Largest number of training samples of a class in a task; None: unknown.
        live: Returns objects that were passed from Python.

    Raises:
        ConfigError: Settings don't fit together.
    """
    seed, classes_recur = training_seed(config), bool((task_units.sum(0) > 1).any())
    scenario = Scenario(config["scenario"], config["train"]["active_classes"], classes_recur)
    with seeded(seed, StreamNames.SOLVER_INIT):
        solver = _build_solver(config, spec, task_units.shape[1], first_task_samples, live)
    augment = Augmentation(**config["augment"])
    augment.check(spec.shape)
    num_tasks = None if scenario.units_are_task_specific else len(task_units)
    privacy = PrivacySettings.from_config(config["privacy"], len(task_units))
    boundaries_unknown = config["train"]["task_boundaries"] == "unknown"
    return assemble_learner(
        solver,
        config,
        spec,
        scenario,
        task_units,
        RandomStreams(seed, device),
        config["precision"],
        num_tasks,
        boundaries_unknown,
        augment,
        consolidation_schedule,
        class_size=class_size if privacy is None else None,  # the number of samples is not public
        live=live,
        privacy=privacy,
        iterations=config["train"]["iterations"],
        batch_size=config["train"]["batch_size"],
    )


def training_seed(config: Mapping[str, Any]) -> int:
    """Seed of the random numbers of training: that of the run; with a membership draw another one for each draw."""
    seed, draw = int(config["seed"]), config["membership"]["draw"]
    return seed if draw is None else derive_seed(seed, StreamNames.MEMBERSHIP_TRAINING, draw)


def _build_solver(
    config: Mapping[str, Any],
    spec: SampleSpec,
    num_units: int,
    first_task_samples: Samples | None,
    live: LiveValue | None,
) -> nn.Module:
    """The solver, with the normalisation of its input; arguments as for `build_learner`."""
    sizes = {"input_size": spec.size, "input_shape": spec.shape, "output_size": num_units}
    _check_derived_arguments(config["model"], "model", sizes)
    if config["normalise"] is not None and not accepts_argument(config["model"], "model", "moments"):
        raise ConfigError(
            "normalise", config["normalise"], "this model has no argument `moments`", "try normalise=null"
        )
    moments = input_moments(config["normalise"], spec, first_task_samples)
    return build_as(nn.Module, config["model"], "model", moments=moments, live=live, **sizes)


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
    class_size: int | None = None,
    live: LiveValue | None = None,
    privacy: PrivacySettings | None = None,
    iterations: int | None = None,
    batch_size: int | None = None,
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
        class_size: Largest number of training samples of a class in a task; None: unknown.
        live: Returns objects that were passed from Python.
        privacy: Budget of the run; None: the run claims no privacy.
        iterations: Training iterations per task; None: not known in advance.
        batch_size: Samples of the current task per iteration; None: not known in advance.

    Raises:
        ConfigError: Settings don't fit together.
    """
    sizes = (spec, task_units.shape[1], solver, num_tasks, class_size)
    make_generator = partial(build_generator, nodes["generator"], *sizes, live, privacy)
    strategy = _build_strategy(nodes["strategy"], strategy_path, random_streams.seed, make_generator)
    check_task_boundaries(boundaries_unknown, strategy, scenario)
    strategy.check(scenario, solver)
    optimizer = build_as(Optimizer, nodes["optimizer"], "optimizer")  # type: ignore[type-abstract]
    updates = None if iterations is None else strategy.num_generator_updates(iterations)
    privacy = None if privacy is None else privacy.share(num_private_parts(strategy))
    provided = {"privacy": privacy, "batch_size": batch_size}
    own_optimizers, own_rule = _generator_training(nodes, strategy, provided | {"steps": updates})
    _move_to_device(solver, strategy.generator, random_streams.device, precision == "float64")
    return Learner(
        Replicas([solver]), None if strategy.generator is None else Replicas([strategy.generator]), strategy,
        [optimizer], scenario, task_units, [random_streams], precision, augment, consolidation_schedule,
        own_optimizers,
        build_as(GradientRule, nodes["gradient_rule"], "gradient_rule", steps=iterations, **provided),
        own_rule,
    )  # fmt: skip


def _build_strategy(node: Mapping[str, Any], path: str, seed: int, make_generator: Callable[[], Generator]) -> Strategy:
    """The strategy, with a generator if it takes one; the generator's initial parameters follow from the seed."""
    if not accepts_argument(node, path, "generator"):
        return build_as(Strategy, node, path)
    with seeded(seed, StreamNames.GENERATOR_INIT):
        generator = make_generator()
    return build_as(Strategy, node, path, generator=generator)


def _move_to_device(solver: nn.Module, generator: Generator | None, device: torch.device, double: bool) -> None:
    """Move both networks to `device`, in float64 if `double`. Integer buffers of a solver keep their dtype."""
    solver.to(device)
    if double:
        solver.double()
    if generator is not None:
        generator.to(device, torch.float64 if double else torch.float32)


def _generator_training(
    nodes: Mapping[str, Any], strategy: Strategy, provided: Mapping[str, Any]
) -> tuple[list[Optimizer] | None, GradientRule | None]:
    """The generator's own optimizer, as that of one replica, and gradient rule; None where it uses the solver's."""
    node = nodes["generator"]
    optimizer = _generator_component("optimizer", Optimizer, node, strategy)  # type: ignore[type-abstract]
    rule = _generator_component("gradient_rule", GradientRule, node, strategy, **provided)
    if rule is None and provided["privacy"] is not None and provided["steps"]:
        # A private rule is calibrated to the number of its steps, which is not that of the solver's.
        rule = build_as(GradientRule, nodes["gradient_rule"], "gradient_rule", **provided)
    return None if optimizer is None else [optimizer], rule


def _generator_component(
    name: str, component_type: type[T], node: Mapping[str, Any] | None, strategy: Strategy, **provided: Any
) -> T | None:
    """The generator's own optimizer or gradient rule; None if it uses the solver's."""
    generator = strategy.generator
    component = None if node is None or generator is None else split_generator(node)[1].get(name)
    if component is None or generator is None:
        return None
    if strategy.shares_loss_with_generator and name == "gradient_rule":
        shared = f"{type(generator).__name__} shares the solver's loss and gradient rule"
        raise ConfigError(f"generator.{name}", component["_target_"], shared, "leave it out")
    if not generator.objectives():
        closed_form = f"{type(generator).__name__} is fitted in closed form, without gradient steps"
        raise ConfigError(f"generator.{name}", component["_target_"], closed_form, "leave it out")
    return build_as(component_type, component, f"generator.{name}", **provided)


def build_generator(
    node: dict[str, Any],
    spec: SampleSpec,
    num_classes: int,
    solver: nn.Module,
    num_tasks: int | None = None,
    class_size: int | None = None,
    live: LiveValue | None = None,
    privacy: PrivacySettings | None = None,
) -> Generator:
    """The generator for samples of `spec`.

    Args:
        node: Settings of the generator.
        spec: Specification of the samples.
        num_classes: Number of output units.
        solver: The solver, whose feature size and layer sizes the generator may follow.
        num_tasks: Number of tasks that share their classes; None if each has its own.
        class_size: Largest number of training samples of a class in a task; None: unknown.
        live: Returns objects that were passed from Python.
        privacy: Budget of the generator; None: the run claims no privacy.

    Raises:
        ConfigError: Settings don't fit the samples or the solver.
    """
    node, _ = split_generator(node)
    provided: dict[str, Any] = {"spec": spec, "num_classes": num_classes, "num_tasks": num_tasks}
    provided |= {"class_size": class_size, "privacy": privacy, "live": live}
    if accepts_argument(node, "generator", "feature_size"):
        if not isinstance(solver, HasFeatures):
            raise ConfigError(
                "model", type(solver).__name__, "has no features, and this generator needs them", "try model=mlp"
            )
        provided["feature_size"] = solver.feature_size
    if node.get("hidden_dims", ()) is None:
        # Those of the solver, if it is a stack of fully connected layers.
        provided["hidden_dims"] = getattr(solver, "hidden_sizes", None)
        if provided["hidden_dims"] is None:
            raise ConfigError(
                "generator.hidden_dims",
                None,
                f"null means those of the solver, and {type(solver).__name__} has no hidden_sizes",
                "try generator.hidden_dims=[256,128]",
            )
    derived = {name: value for name, value in provided.items() if name in _DERIVED_ARGUMENTS}
    _check_derived_arguments(node, "generator", {"spec": "the benchmark's"} | derived)
    return build_as(Generator, node, "generator", **provided)  # type: ignore[type-abstract]


# Arguments of a generator that follow from benchmark, model and scenario; so does `spec`.
_DERIVED_ARGUMENTS = ("num_classes", "class_size", "feature_size", "num_tasks")


def _check_derived_arguments(node: Mapping[str, Any], path: str, derived: Mapping[str, Any]) -> None:
    """Refuse settings that differ from the values derived from the benchmark."""
    for name, value in derived.items():
        setting, expected = node.get(name), list(value) if isinstance(value, tuple) else value
        if setting not in (None, expected):
            allowed = f"follows from the other settings, and is {expected} here"
            raise ConfigError(f"{path}.{name}", setting, allowed, "leave it out")
