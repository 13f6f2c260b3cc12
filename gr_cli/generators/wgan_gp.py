from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.generators.base import Generator, Part
from gr_cli.nn.initialization import start_linear, start_relu
from gr_cli.nn.linear import Linear
from gr_cli.nn.random_streams import Noise
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.types import NonNegative, PositiveInt, Widths

_SLOPE = 0.2


class WGANGP(Generator):
    """A Wasserstein GAN with gradient penalty (Gulrajani et al. 2017), of fully connected layers.

    The critic D minimises D(G(z)) - D(x) + penalty * (|grad D(x')| - 1)^2, x' evenly between x and G(z) (their eq. 3);
    the generator G minimises -D(G(z)) at every `critic_steps`-th update.

    Args:
        spec: what a sample is, or its shape, for values in [0, 1]; flattened inside.
        hidden_dims: widths of the critic's layers, first to last; the generator has them reversed.
        latent_dim: number of latent variables.
        penalty: weight of the gradient penalty.
        critic_steps: steps of the critic for one of the generator.
    """

    takes_leading_axes = True

    def __init__(
        self,
        spec: SampleSpec | Sequence[PositiveInt] = (784,),
        hidden_dims: Widths = (256, 128),
        latent_dim: PositiveInt = 100,
        penalty: NonNegative = 10.0,
        critic_steps: PositiveInt = 5,
    ) -> None:
        super().__init__()
        self.spec, self.latent_dim = SampleSpec.of(spec), latent_dim
        self.penalty, self.critic_steps = penalty, critic_steps
        widths, back = [self.spec.size, *hidden_dims], [latent_dim, *reversed(hidden_dims)]
        self.critic = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))
        self.score = Linear(widths[-1], 1)
        self.decoder = nn.ModuleList(Linear(a, b) for a, b in pairwise(back))
        self.pixels = Linear(back[-1], self.spec.size)
        start_relu(*self.critic, *self.decoder)
        start_linear(self.score, self.pixels)

    def latent(self, num_samples: int) -> dict[str, Noise]:
        return {"z": Noise("normal", (num_samples, self.latent_dim))}

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        if labels is not None:
            raise ValueError("this GAN is not conditional on classes: labels must be None")
        return self.spec.decoded(self._out(latent["z"]))

    def _out(self, z: Tensor) -> Tensor:
        """z (B, latent_dim) to what `SampleSpec.mean` takes, (B, *spec.shape)."""
        h = z
        for layer in self.decoder:
            h = F.relu(layer(h))
        out: Tensor = self.pixels(h)
        return out.view(*out.shape[:-1], *self.spec.shape)

    def _fake(self, z: Tensor) -> Tensor:
        """The samples that the critic sees: categories are probabilities, through which gradients flow."""
        return self.spec.mean(self._out(z))

    def criticise(self, x: Tensor) -> Tensor:
        """How real samples (B, ...) look: (B,)."""
        h = x.flatten(self.score.leading)
        for layer in self.critic:
            h = F.leaky_relu(layer(h), _SLOPE)
        found: Tensor = self.score(h).squeeze(-1)
        return found

    def noise(self, batch_size: int) -> dict[str, Noise]:
        return {**self.latent(batch_size), "between": Noise("uniform", (batch_size, 1))}

    def parts(self) -> dict[str, Part]:
        critic = (*self.critic.parameters(), *self.score.parameters())
        generator = (*self.decoder.parameters(), *self.pixels.parameters())
        return {"critic": Part(critic), "generator": Part(generator, self.critic_steps)}

    def losses(
        self, part: str, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        if part == "generator":
            return {"generator": -self.criticise(self._fake(noise["z"])).to(x.dtype)}
        with torch.no_grad():
            fake = self._fake(noise["z"]).to(x.dtype)
        real, fake = x.flatten(self.score.leading), fake.flatten(self.score.leading)
        between = torch.lerp(real, fake, noise["between"]).requires_grad_()
        (slope,) = torch.autograd.grad(self.criticise(between).sum(), between, create_graph=True)
        distance = (self.criticise(fake) - self.criticise(real)).to(x.dtype)
        # The root has no slope at 0, where a critic may well begin.
        size = (slope.square().sum(-1) + 1e-12).sqrt()
        return {"critic": distance, "gradient_penalty": self.penalty * (size - 1.0).square()}
