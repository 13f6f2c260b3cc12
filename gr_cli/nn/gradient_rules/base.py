"""What a gradient rule is given and what it answers. The base class is the rule `none`: plain autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gr_cli.nn.random_streams import NoiseSpec, ReplicaStreams


@dataclass(frozen=True)
class Loss:
    """The loss of one step of R replicas.

    total: (R,), which is minimised.
    per_sample: called, gives (R, B): the part of each of B training samples in `total`. What is left of it,
        `total - per_sample().sum(1)`, comes from no training sample of this step: from replay, for example.
        None where the parts can't be told apart.
    keep_graph: whether another gradient is asked for through the same graph.
    """

    total: Tensor
    per_sample: Callable[[], Tensor] | None = None
    keep_graph: bool = False


@dataclass(frozen=True)
class GradientStep:
    """Which step a gradient is for.

    name: of what is trained: `solver`, or `generator.<objective>`.
    task, iteration: where the step stands; of a generator, its own count of updates.
    streams: random streams of the replicas.
    """

    name: str
    task: int
    iteration: int
    streams: ReplicaStreams

    def noise(self, specs: Mapping[str, NoiseSpec]) -> dict[str, Tensor]:
        """Noise of this step, by name, (R, ...) each; the same numbers when a run is resumed."""
        return self.streams.noise_at(specs, f"gradient_rule.{self.name}", self.task, self.iteration)


class GradientRule:
    """How the gradient of a loss is made: by autograd, unless a rule overrides it.

    Solver and objectives of the generator have a rule each, a copy of what was chosen. A rule that halves gradients::

        class Halved(GradientRule):
            def gradients(self, loss, parameters, step):
                return [None if g is None else g / 2 for g in super().gradients(loss, parameters, step)]

    Settings marked `PerReplica` are attributes of their name, and may hold one number per replica, (R,).
    """

    def gradients(self, loss: Loss, parameters: Sequence[Tensor], step: GradientStep) -> list[Tensor | None]:
        """The gradients of `loss`, None for parameters it does not depend on.

        Parameters and gradients have a leading replica axis if R > 1, and none if R = 1. Nothing may synchronise.
        """
        # The replicas share no parameter, so the gradient of the sum holds each one's own.
        found = torch.autograd.grad(loss.total.sum(), parameters, allow_unused=True, retain_graph=loss.keep_graph)
        return list(found)

    def metrics(self) -> dict[str, Tensor]:
        """Values (R,) of the newest step: columns of history.csv, where they are means over the steps of a row."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What is needed to continue: tensors, with the replica axis also if R = 1, and numbers common to all."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
