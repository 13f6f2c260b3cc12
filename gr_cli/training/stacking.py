"""Stack the learners of several runs, so that they train as one program."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, TypeVar

import torch
from torch import Tensor

from gr_cli.config.instantiate import fields_marked, get_path, split_generator
from gr_cli.nn.replicas import Replicas
from gr_cli.training.experiment import Experiment
from gr_cli.training.learner import Learner
from gr_cli.types import VariesPerReplica

C = TypeVar("C")


def stack_learners(experiments: Sequence[Experiment]) -> Learner:
    """The learner whose replicas are the networks of all `experiments`; of a single one, its own learner."""
    learners = [experiment.learner for experiment in experiments]
    if len(learners) == 1:
        return learners[0]
    first, configs = learners[0], [experiment.settings.config for experiment in experiments]
    # Settings of each generator itself, and those of its own optimizer and gradient rule.
    split = [({}, {}) if config["generator"] is None else split_generator(config["generator"]) for config in configs]

    def varying(group: str, nodes: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Tensor]:
        return per_replica_values(
            [config[group] for config in configs] if nodes is None else nodes, group, first.device
        )

    strategy = copy.copy(first.strategy)
    strategy.regularizer = copy.copy(strategy.regularizer)
    _with_attributes(strategy, varying("strategy"))
    generator_rule = first.generator_gradient_rule
    if generator_rule is not None:
        # Without one of its own, a generator has the settings of the solver's rule.
        nodes = [
            inner.get("gradient_rule", config["gradient_rule"])
            for (_, inner), config in zip(split, configs, strict=True)
        ]
        values = varying("gradient_rule", nodes)
        generator_rule = _with_attributes(copy.copy(generator_rule), values)
    generators = [learner.generator for learner in learners if learner.generator is not None]
    return Learner(
        Replicas([learner.solver for learner in learners], varying("model")),
        Replicas(generators, varying("generator", [node for node, _ in split])) if generators else None,
        strategy,
        [optimizer for learner in learners for optimizer in learner.optimizers],
        first.scenario,
        first.task_units,
        [streams for learner in learners for streams in learner.random_streams],
        first.precision,
        first.augment,
        first.consolidation_schedule,
        [optimizer for learner in learners for optimizer in learner.generator_optimizers],
        _with_attributes(copy.copy(first.gradient_rule), varying("gradient_rule")),
        generator_rule,
    )


def _with_attributes(component: C, values: Mapping[str, Tensor]) -> C:
    """Set per-replica values on a component and its parts, by dotted names."""
    for name, value in values.items():
        *owners, leaf = name.split(".")
        setattr(reduce(getattr, owners, component), leaf, value)
    return component


def per_replica_values(nodes: Sequence[Mapping[str, Any]], group: str, device: torch.device) -> dict[str, Tensor]:
    """Settings in which the runs differ, as tensors (R,), by dotted name."""
    names = () if not nodes[0] else fields_marked(nodes[0], group, VariesPerReplica)
    values = {name: [get_path(node, name) for node in nodes] for name in names if get_path(nodes[0], name) is not None}
    return {
        name: torch.tensor(of_runs, dtype=torch.float64, device=device)
        for name, of_runs in values.items()
        if len(set(of_runs)) > 1
    }
