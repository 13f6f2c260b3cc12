"""Wasserstein GAN with gradient penalty."""

from __future__ import annotations

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
from gr_cli.types import LayerSizes, NonNegative, PositiveInt

_SLOPE = 0.2


class WGANGP(Generator):
    """Fully connected Wasserstein GAN with gradient penalty (Gulrajani et al. 2017).

    The critic D minimises D(G(z)) - D(x) + weight * (|grad D(x')| - 1)^2 with x' uniform on the line from x to G(z)
    (eq. 3 of the paper). The generator G minimises -D(G(z)) on every `critic_steps`-th update.

    Args:
        spec: Shape, value range and likelihood of a sample, or the shape alone for values in [0, 1]. Samples are
            flattened inside.
        hidden_dims: Width of each layer of the critic, first to last; the generator has them in reverse. `null`: those
            of the solver.
        latent_dim: Number of latent variables.
        gradient_penalty_weight: Weight of the gradient penalty in the critic's loss.
        critic_steps: Steps of the critic for each step of the generator.
    """

    supports_leading_axes = True
    has_sample_gradients = False

    def __init__(
        self,
        spec: SampleSpec | Sequence[PositiveInt] = (784,),
        hidden_dims: LayerSizes = (256, 128),
        latent_dim: PositiveInt = 100,
        gradient_penalty_weight: NonNegative = 10.0,
        critic_steps: PositiveInt = 5,
    ) -> None:
        super().__init__()
        self.spec, self.latent_dim = SampleSpec.coerce(spec), latent_dim
        self.gradient_penalty_weight, self.critic_steps = gradient_penalty_weight, critic_steps
        critic_sizes, decoder_sizes = [self.spec.size, *hidden_dims], [latent_dim, *reversed(hidden_dims)]
        self.critic = nn.ModuleList(Linear(a, b) for a, b in pairwise(critic_sizes))
        self.critic_output = Linear(critic_sizes[-1], 1)
        self.decoder = nn.ModuleList(Linear(a, b) for a, b in pairwise(decoder_sizes))
        self.output = Linear(decoder_sizes[-1], self.spec.size)
        init_he_(*self.critic, *self.decoder)
        init_xavier_(self.critic_output, self.output)

    def latent_noise(self, num_samples: int) -> dict[str, NoiseSpec]:
        return {"z": NoiseSpec("normal", (num_samples, self.latent_dim))}

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        if labels is not None:
            raise ValueError("this GAN is not conditional on classes: labels must be None")
        return self.spec.point_estimate(self._generator_output(latent["z"]))

    def _generator_output(self, z: Tensor) -> Tensor:
        """z (B, latent_dim) to the parameters of the likelihood (B, *spec.shape)."""
        h = z
        for layer in self.decoder:
            h = F.relu(layer(h))
        out: Tensor = self.output(h)
        return out.view(*out.shape[:-1], *self.spec.shape)

    def _generated(self, z: Tensor) -> Tensor:
        """Differentiable samples for the critic: categorical values stay probabilities."""
        return self.spec.expected_sample(self._generator_output(z))

    def critic_value(self, x: Tensor) -> Tensor:
        """The critic's value (B,) of samples (B, ...): high for real ones."""
        h = x.flatten(self.critic_output.num_leading_axes)
        for layer in self.critic:
            h = F.leaky_relu(layer(h), _SLOPE)
        values: Tensor = self.critic_output(h).squeeze(-1)
        return values

    def training_noise(self, batch_size: int) -> dict[str, NoiseSpec]:
        return {**self.latent_noise(batch_size), "between": NoiseSpec("uniform", (batch_size, 1))}

    def objectives(self) -> dict[str, Objective]:
        critic = (*self.critic.parameters(), *self.critic_output.parameters())
        generator = (*self.decoder.parameters(), *self.output.parameters())
        return {"critic": Objective(critic), "generator": Objective(generator, self.critic_steps)}

    def losses(
        self, objective: str, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        if objective == "generator":
            return {"generator": -self.critic_value(self._generated(noise["z"])).to(x.dtype)}
        with torch.no_grad():
            fake = self._generated(noise["z"]).to(x.dtype)
        real, fake = x.flatten(self.critic_output.num_leading_axes), fake.flatten(self.critic_output.num_leading_axes)
        interpolated = torch.lerp(real, fake, noise["between"]).requires_grad_()
        (gradient,) = torch.autograd.grad(self.critic_value(interpolated).sum(), interpolated, create_graph=True)
        distance = (self.critic_value(fake) - self.critic_value(real)).to(x.dtype)
        # The square root has no derivative at 0, the gradient of a critic that is constant.
        norm = (gradient.square().sum(-1) + 1e-12).sqrt()
        return {"critic": distance, "gradient_penalty": self.gradient_penalty_weight * (norm - 1.0).square()}
