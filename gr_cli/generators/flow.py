"""Class-conditional flow matching."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.generators.base import Generator, Objective
from gr_cli.nn.initialization import init_he_, init_xavier_
from gr_cli.nn.linear import Linear
from gr_cli.nn.random_streams import NoiseSpec
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.types import LayerSizes, PositiveInt

TIME_FEATURES = 16
# Step i of n ends at t = 1 - (1 - i / n)^p. With eight steps the standard deviation of Gaussians (0.1 to 1) is off by
# 2 %, with steps of equal length by 40 %.
_TIME_EXPONENT = 1.6


class StraightFlow(Generator):
    """Base class of flows along straight lines, conditional on the class (Lipman et al. 2023; Liu et al. 2023).

    x_t = (1 - t) z + t x connects z from N(0, I) at t = 0 with a sample x at t = 1. Sampling integrates the velocity
    from z to t = 1 by Heun's method in a few steps that become shorter towards t = 1; the last one is an Euler step.
    Values are flattened and scaled to [-1, 1].

    Attributes:
        num_classes: Number of classes.
        steps: Integration steps from noise to sample.
    """

    conditional = True
    density_objective = "flow"
    supports_distillation = True
    num_classes: int
    steps: int

    @abstractmethod
    def predict(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """The network's output (B, D) for `x` (B, D) at `time` (B, 1) in [0, 1] and classes `labels` (B,)."""

    @abstractmethod
    def regression_target(self, x: Tensor, z: Tensor) -> Tensor:
        """What `predict` estimates on the line from noise `z` to the sample `x`, (B, D) each."""

    @abstractmethod
    def velocity(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """dx/dt (B, D) at `x` and `time` < 1, from `predict`."""

    def latent_noise(self, num_samples: int) -> dict[str, NoiseSpec]:
        return {"z": NoiseSpec("normal", (num_samples, self.spec.size))}

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        labels = _required(labels)
        x, zero = latent["z"], torch.zeros_like(latent["z"][..., :1])
        times = [1.0 - (1.0 - i / self.steps) ** _TIME_EXPONENT for i in range(self.steps + 1)]
        for start, stop in pairwise(times):
            step, velocity = stop - start, self.velocity(x, zero + start, labels)
            if stop < 1.0:  # Heun's method: the mean of both ends
                velocity = 0.5 * (velocity + self.velocity(x + step * velocity, zero + stop, labels))
            x = x + step * velocity
        return self.spec.from_symmetric_range(x).view(*x.shape[:-1], *self.spec.shape)

    def training_noise(self, batch_size: int) -> dict[str, NoiseSpec]:
        return {**self.latent_noise(batch_size), "time": NoiseSpec("uniform", (batch_size, 1))}

    def objectives(self) -> dict[str, Objective]:
        return {"flow": Objective(tuple(self.parameters()))}

    def losses(
        self, objective: str, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        x, labels = self._scaled(x), _required(labels)
        predicted = self._predict_between(x, noise, labels)
        return {"flow": (predicted - self.regression_target(x, noise["z"])).square().mean(-1)}

    def distillation_targets(self, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        return self._predict_between(self._scaled(x), noise, _required(labels))

    def distillation_losses(
        self, target: Tensor, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        predicted = self.distillation_targets(x, noise, labels)
        return {"distillation": (predicted - target).square().mean(-1)}

    def _scaled(self, x: Tensor) -> Tensor:
        """Samples (B, *spec.shape) as values (B, D) in the range of the noise."""
        return self.spec.to_symmetric_range(x.flatten(-len(self.spec.shape)))

    def _predict_between(self, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """The network's output at random times on the lines from noise to `x` (B, D)."""
        return self.predict(torch.lerp(noise["z"], x, noise["time"]), noise["time"], labels)


def _required(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ValueError("this flow is conditional on classes: labels are needed")
    return labels


def time_features(time: Tensor) -> Tensor:
    """Sines and cosines of `time` (..., 1) at frequencies that double: (..., TIME_FEATURES)."""
    octaves = torch.arange(TIME_FEATURES // 2, device=time.device, dtype=time.dtype)
    angles = time * math.pi * 2.0**octaves / 4
    return torch.cat([angles.sin(), angles.cos()], -1)


class FlowMatching(StraightFlow):
    """Flow matching along straight lines, conditional on the class (Lipman et al. 2023; Liu et al. 2023).

    The network predicts the sample x from x_t = (1 - t) z + t x, with z from N(0, I), by least squares. The velocity
    follows from it: x - z = (x - x_t) / (1 - t). Predicting the velocity itself would mean predicting the noise, which
    layers narrower than the sample can't represent (Li & He 2025). Sampling integrates the velocity from z at t = 0 to
    t = 1 by Heun's method in a few steps that become shorter towards t = 1; the last one is an Euler step, which ends
    at the network's prediction.

    Args:
        spec: Shape and value range of a sample, or the shape alone for values in [0, 1]. Samples are flattened inside.
        num_classes: Number of classes; labels are 0 to `num_classes` - 1.
        hidden_dims: Width of each hidden layer, first to last. `null`: those of the solver.
        steps: Integration steps from noise to sample. Each but the last evaluates the network twice.
    """

    supports_leading_axes = True

    def __init__(
        self,
        spec: SampleSpec | Sequence[PositiveInt] = (784,),
        num_classes: PositiveInt = 10,
        hidden_dims: LayerSizes = (256, 256),
        steps: PositiveInt = 8,
    ) -> None:
        super().__init__()
        self.spec, self.num_classes, self.steps = SampleSpec.coerce(spec), num_classes, steps
        widths = [self.spec.size + num_classes + TIME_FEATURES, *hidden_dims]
        self.hidden = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))
        self.output = Linear(widths[-1], self.spec.size)
        init_he_(*self.hidden)
        init_xavier_(self.output)
        self.register_buffer("learned_classes", torch.zeros(num_classes, dtype=torch.bool))

    def predict_sample(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """The predicted sample at t = 1 (B, D) for `x` (B, D) at `time` (B, 1) in [0, 1] and classes `labels` (B,)."""
        one_hot = F.one_hot(labels, self.num_classes).to(x.dtype)
        h = torch.cat([x, one_hot, time_features(time)], -1)
        for layer in self.hidden:
            h = F.silu(layer(h))
        predicted: Tensor = self.output(h)
        return predicted.to(x.dtype)

    def predict(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        return self.predict_sample(x, time, labels)

    def regression_target(self, x: Tensor, z: Tensor) -> Tensor:
        return x

    def velocity(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        return (self.predict_sample(x, time, labels) - x) / (1.0 - time)
