"""Forward pass of the solvers in a training step: augmentation, dropout noise, dtype of the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from gr_cli.nn.augmentation import Augmentation
from gr_cli.nn.fused import Value
from gr_cli.nn.fused_losses import mean_losses
from gr_cli.nn.losses import Targets
from gr_cli.nn.random_streams import ReplicaStreams, StreamNames
from gr_cli.nn.replicas import Replicas
from gr_cli.strategies.context import SolverForward, TrainingStep


@dataclass(frozen=True)
class TrainingForward(SolverForward):
    """Forward pass of the solvers in one training step, as strategies call it.

    Attributes:
        solvers: The networks, called on samples (R, B, ...).
        streams: Random streams of augmentation and dropout; their dtype is that of the logits.
        augment: Random augmentation of the samples.
        takes_noise: Whether the solvers take their noise as an argument instead of drawing it.
        step: The training step, which selects the values of the random streams.
        differentiable_twice: Whether second derivatives may be taken, which fused losses don't have.
    """

    solvers: Replicas[nn.Module]
    streams: ReplicaStreams
    augment: Augmentation
    takes_noise: bool
    step: TrainingStep
    differentiable_twice: bool = False

    def __call__(self, x: Tensor, /) -> Tensor:
        return self._call_on_samples("__call__", x)

    def features(self, x: Tensor, /) -> Tensor:
        return self._call_on_samples("features", x)

    def readout(self, features: Tensor, /) -> Tensor:
        return cast(Tensor, self.solvers.call("readout", features)).to(self.streams.dtype)

    def mean_losses(self, x: Tensor, targets: Sequence[Targets], /) -> Sequence[Value] | None:
        if self.differentiable_twice or not self.solvers.has_native("relu_stack"):
            return None
        stack = self.solvers.call("relu_stack", *self._arguments(x))
        return None if stack is None else mean_losses(stack, targets)

    def _call_on_samples(self, method: str, x: Tensor) -> Tensor:
        return cast(Tensor, self.solvers.call(method, *self._arguments(x))).to(self.streams.dtype)

    def _arguments(self, x: Tensor) -> list[Any]:
        """Augmented samples, and the noise of this step if the solvers take any."""
        task, iteration = self.step.task, self.step.iteration
        x = self.augment(x, self.streams, task, iteration)
        specs = self.solvers.noise_specs("training_noise", x.shape[1]) if self.takes_noise else {}
        noise = [self.streams.noise_at(specs, StreamNames.SOLVER_NOISE, task, iteration)] if specs else []
        return [x, *noise]
