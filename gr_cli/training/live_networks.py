"""Networks of one's own: passed from Python as objects, or named by `_target_`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from gr_cli.benchmarks.base import Samples
from gr_cli.config.own_components import LiveValue
from gr_cli.config.settings import Settings
from gr_cli.errors import ConfigError
from gr_cli.nn.random_streams import StreamNames, seeded
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.training.solver_checks import check_outputs, check_parameters


def live_model(
    live: LiveValue,
    live_name: str,
    live_hash: str,
    input_size: int = 1,
    input_shape: Sequence[int] = (1,),
    output_size: int = 1,
) -> nn.Module:
    """A model that was passed from Python: a module, which is copied, or a function that makes one.

    Args:
        live: Returns the object.
        live_name: Its name.
        live_hash: Hash of its content.
        input_size: Number of values of a sample.
        input_shape: Shape of a sample.
        output_size: Number of output units.

    Raises:
        ConfigError: It was not passed, or needs other arguments than these.
    """
    value = live("model", live_name, live_hash)
    sizes = {"input_size": input_size, "input_shape": tuple(input_shape), "output_size": output_size}
    network: nn.Module = _network(value, "model", live_name, sizes)
    return network


def live_generator(
    live: LiveValue,
    live_name: str,
    live_hash: str,
    spec: SampleSpec | None = None,
    num_classes: int = 1,
    num_tasks: int | None = None,
) -> Any:
    """A generator that was passed from Python: an object, which is copied, or a function that makes one.

    Args:
        live: Returns the object.
        live_name: Its name.
        live_hash: Hash of its content.
        spec: Specification of the samples.
        num_classes: Number of output units.
        num_tasks: Number of tasks that share their classes; None if each has its own.

    Raises:
        ConfigError: It was not passed, or needs other arguments than these.
    """
    value = live("generator", live_name, live_hash)
    return _network(value, "generator", live_name, {"spec": spec, "num_classes": num_classes, "num_tasks": num_tasks})


def _network(value: Any, group: str, name: str, sizes: dict[str, Any]) -> Any:
    if isinstance(value, nn.Module):
        try:
            return copy.deepcopy(value)
        except Exception as error:
            raise ConfigError(
                group, name, f"can't be copied ({type(error).__name__}: {error})", "pass a function that makes it"
            ) from error
    return _call_with_sizes(value, group, name, sizes)


def _call_with_sizes(function: Callable[..., Any], group: str, name: str, sizes: dict[str, Any]) -> Any:
    """Call a function with those sizes that it has arguments for."""
    parameters = inspect.signature(function).parameters.values()
    needed = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name not in sizes
    ]
    if needed:
        raise ConfigError(
            group,
            name,
            f"needs {', '.join(needed)}, and gets {', '.join(sizes)} by these names",
            "give other arguments by functools.partial",
        )
    names = [parameter.name for parameter in parameters]
    return function(**{size: value for size, value in sizes.items() if size in names})


def check_own_model(solver: nn.Module, samples: Samples, num_units: int, settings: Settings) -> None:
    """Check that a model of one's own takes samples of the benchmark and has an output for each unit.

    Raises:
        ConfigError: It does not return logits, or of another number.
        DataError: It can't process the samples.
    """
    name = settings.option("model", solver)
    check_parameters(solver, None)
    parameter = next(solver.parameters())
    x, _ = samples.batch(torch.arange(min(len(samples), 4), device=samples.y.device))
    with seeded(settings.seed, StreamNames.TRAINER_SHAPE), torch.no_grad():
        num_outputs, returns_tensor = check_outputs(solver, x.to(parameter.dtype), "benchmark")
    if not returns_tensor:
        raise ConfigError("model", name, "must return a tensor of logits (B, U)", "return its logits")
    if num_outputs != num_units:
        raise ConfigError(
            "model",
            name,
            f"has {num_outputs} outputs, and {num_units} are needed",
            "make as many as `output_size` says",
        )
