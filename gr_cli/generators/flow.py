"""Class-conditional flow matching."""

from __future__ import annotations

import math
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

_TIME_FREQUENCIES = 8
# Step i of n ends at t = 1 - (1 - i / n)^p. With eight steps the standard deviation of Gaussians (0.1 to 1) is off by
# 2 %, with steps of equal length by 40 %.
_TIME_EXPONENT = 1.6


class FlowMatching(Generator):
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
    conditional = True

    def __init__(
        self,
        spec: SampleSpec | Sequence[PositiveInt] = (784,),
        num_classes: PositiveInt = 10,
        hidden_dims: LayerSizes = (256, 256),
        steps: PositiveInt = 8,
    ) -> None:
        super().__init__()
        self.spec, self.num_classes, self.steps = SampleSpec.coerce(spec), num_classes, steps
        widths = [self.spec.size + num_classes + 2 * _TIME_FREQUENCIES, *hidden_dims]
        self.hidden = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))
        self.output = Linear(widths[-1], self.spec.size)
        init_he_(*self.hidden)
        init_xavier_(self.output)
        self.register_buffer("learned_classes", torch.zeros(num_classes, dtype=torch.bool))

    def latent_noise(self, num_samples: int) -> dict[str, NoiseSpec]:
        return {"z": NoiseSpec("normal", (num_samples, self.spec.size))}

    def predict_sample(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """The predicted sample at t = 1 (B, D) for `x` (B, D) at `time` (B, 1) in [0, 1] and classes `labels` (B,)."""
        octaves = torch.arange(_TIME_FREQUENCIES, device=x.device, dtype=x.dtype)
        angles = time * math.pi * 2.0**octaves / 4
        one_hot = F.one_hot(labels, self.num_classes).to(x.dtype)
        h = torch.cat([x, one_hot, angles.sin(), angles.cos()], -1)
        for layer in self.hidden:
            h = F.silu(layer(h))
        predicted: Tensor = self.output(h)
        return predicted.to(x.dtype)

    def velocity(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """dx/dt (B, D) at `x` and `time` < 1, from the predicted sample."""
        return (self.predict_sample(x, time, labels) - x) / (1.0 - time)

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        if labels is None:
            raise ValueError("this flow is conditional on classes: labels are needed")
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
        if labels is None:
            raise ValueError("this flow is conditional on classes: labels are needed")
        target = self.spec.to_symmetric_range(x.flatten(self.output.num_leading_axes))
        predicted = self.predict_sample(torch.lerp(noise["z"], target, noise["time"]), noise["time"], labels)
        return {"flow": (predicted - target).square().mean(-1)}
