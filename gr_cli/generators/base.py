"""What every generator answers. The caller owns the loop, the optimisers and the randomness."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gr_cli.randomness import Noise


@dataclass(frozen=True)
class Part:
    """One objective of a generator and the parameters that follow it (a VAE has one, a GAN two).

    `every`: it takes a step on every so-many-th update of the generator.
    """

    parameters: tuple[nn.Parameter, ...]
    every: int = 1


class Generator(nn.Module, ABC):
    """A model of samples of `sample_shape` whose values lie in `value_range` (None: anywhere)."""

    sample_shape: tuple[int, ...]
    value_range: tuple[float, float] | None

    @abstractmethod
    def latent(self, num_samples: int) -> dict[str, Noise]:
        """The noise that `decode` turns into `num_samples` samples."""

    @abstractmethod
    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        """Noise to samples (N, *sample_shape). Pure: same parameters and noise, same samples."""

    @abstractmethod
    def noise(self, batch_size: int) -> dict[str, Noise]:
        """The noise of one training step on `batch_size` samples."""

    @abstractmethod
    def parts(self) -> dict[str, Part]:
        """The objectives by name, in the order in which they are stepped."""

    @abstractmethod
    def losses(self, part: str, x: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The terms of one objective, each (B,): their sum is minimised. Pure in parameters, `x` and `noise`."""

    def generate(
        self,
        num_samples: int,
        device: torch.device | str | None = None,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Dream `num_samples` samples: (num_samples, *sample_shape) on `device`, without gradient.

        Args:
            num_samples: how many; 0 gives an empty tensor.
            device: where the result shall lie; default: where the parameters are.
            labels: wanted classes, for generators that are conditional on them.
            generator: random stream; default: torch's global one.
        """
        if num_samples < 0:
            raise ValueError(f"num_samples={num_samples}: must be at least 0")
        like = next(self.parameters())
        home = like.device
        source = generator.device if generator is not None else home
        latent = {
            name: (torch.randn if noise.kind == "normal" else torch.rand)(
                noise.shape, generator=generator, device=source
            ).to(home, like.dtype)
            for name, noise in self.latent(num_samples).items()
        }
        with torch.no_grad():
            x = self.decode(latent, labels)
        return x if device is None else x.to(device)
