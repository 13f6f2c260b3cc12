"""One learner for several runs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from gr_cli.config.instantiate import at, marked_fields
from gr_cli.nn.replicas import Replicas
from gr_cli.training.experiment import Experiment
from gr_cli.training.learner import Learner
from gr_cli.types import PerReplica


def side_by_side(experiments: Sequence[Experiment]) -> Learner:
    """One learner for all: that of the one, or one whose replicas are the networks of each."""
    learners = [experiment.learner for experiment in experiments]
    if len(learners) == 1:
        return learners[0]
    first, varying = learners[0], partial(_varying, [e.settings.config for e in experiments], device=learners[0].device)
    strategy = copy.copy(first.strategy)
    strategy.regularizer = copy.copy(strategy.regularizer)
    for name, values in varying("strategy").items():
        *owners, leaf = name.split(".")
        setattr(reduce(getattr, owners, strategy), leaf, values)
    generators = [learner.generator for learner in learners if learner.generator is not None]
    return Learner(
        Replicas([learner.solver for learner in learners], varying("model")),
        Replicas(generators, varying("generator")) if generators else None,
        strategy,
        [optimizer for learner in learners for optimizer in learner.optimizers],
        first.scenario,
        first.heads,
        [draws for learner in learners for draws in learner.draws],
        first.precision,
        first.augment,
        first.stretches,
        [optimizer for learner in learners for optimizer in learner.generator_optimizers],
    )


def _varying(configs: Sequence[dict[str, Any]], group: str, device: torch.device) -> dict[str, Tensor]:
    """The numbers of a group in which the configurations differ, (R,) each."""
    nodes = [config[group] for config in configs]
    names = () if nodes[0] is None else marked_fields(nodes[0], group, PerReplica)
    values = {name: [at(node, name) for node in nodes] for name in names if at(nodes[0], name) is not None}
    return {
        name: torch.tensor(found, dtype=torch.float64, device=device)
        for name, found in values.items()
        if len(set(found)) > 1
    }
