"""A VAE per class, for generative classification and class-conditional replay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gr_cli.generators.base import UNLEARNED_LOG_LIKELIHOOD, Generator, Objective
from gr_cli.generators.vae import VAE, GaussianVAE
from gr_cli.nn.fused import defines
from gr_cli.nn.fused_elbo import FusedTerms, SumOfTerms
from gr_cli.nn.losses import gaussian_log_density
from gr_cli.nn.random_streams import NoiseSpec
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.types import LayerSizes, PositiveInt

# Latent vectors, and decoded values, per chunk of an estimate: larger chunks are slower to allocate.
_MAX_CHUNK_LATENTS, _MAX_CHUNK_VALUES = 1 << 12, 1 << 22


class ClassVAE(Generator):
    """One small VAE per class, trained on the samples of its class alone (van de Ven et al. 2021).

    Samples are generated for given classes. The likelihood of a sample given each class is estimated by importance
    sampling, which makes a classifier of it (strategy `generative_classifier`).

    Args:
        spec: Shape, value range and likelihood of a sample, or the shape alone for values in [0, 1]. Samples are
            flattened inside.
        num_classes: Number of classes, one VAE each; labels are 0 to `num_classes` - 1.
        hidden_dims: Width of each encoder layer of one VAE, first to last; the decoder has them in reverse. `null`:
            those of the solver.
        latent_dim: Number of latent variables of one VAE.
        initialisation: Initial weights. `he` keeps the scale of signals through ReLU layers (He et al. 2015) and learns
            in fewer steps; `torch` are the defaults of torch, used by most published results.
    """

    supports_leading_axes = True
    conditional = True
    class_likelihood = "estimated"

    def __init__(
        self,
        spec: SampleSpec | Sequence[PositiveInt] = (784,),
        num_classes: PositiveInt = 10,
        hidden_dims: LayerSizes = (85, 85),
        latent_dim: PositiveInt = 5,
        initialisation: Literal["he", "torch"] = "he",
    ) -> None:
        super().__init__()
        self.spec, self.latent_dim = SampleSpec.coerce(spec), latent_dim
        self._set_members([VAE(self.spec, hidden_dims, latent_dim, 0.0, initialisation) for _ in range(num_classes)])

    def _set_members(self, members: Sequence[GaussianVAE]) -> None:
        """Set the VAE of each class."""
        self.members = nn.ModuleList(members)
        self.register_buffer("learned_classes", torch.zeros(len(members), dtype=torch.bool))
        self._trained_classes = list(range(len(members)))

    def _vaes_of(self, classes: Sequence[int]) -> list[tuple[int, GaussianVAE]]:
        members = [self.members[label] for label in classes]
        return [(label, vae) for label, vae in zip(classes, members, strict=True) if isinstance(vae, GaussianVAE)]

    def to_members(self, x: Tensor) -> Tensor:
        """Samples as the VAEs model them; the base class changes nothing."""
        return x

    def from_members(self, x: Tensor) -> Tensor:
        """The inverse of `to_members`, for decoded samples."""
        return x

    def latent_noise(self, num_samples: int) -> dict[str, NoiseSpec]:
        return {"z": NoiseSpec("normal", (num_samples, self.latent_dim))}

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        if labels is None:
            raise ValueError("there is a VAE for each class: labels are needed")
        # Each VAE decodes the samples of its class only: of a thousand classes, few are among the labels.
        z, samples = latent["z"], None
        if torch._C._are_functorch_transforms_active():
            return self._decode_all(z, labels)
        for label, vae in self._vaes_of(labels.unique().tolist() or [0]):
            is_of_class = labels == label  # (..., N)
            columns = is_of_class.view(-1, labels.shape[-1]).any(0).nonzero().squeeze(1)
            x = vae.decode({"z": z[..., columns, :]})  # (..., n, *shape)
            if samples is None:
                samples = x.new_zeros(*labels.shape, *self.spec.shape)
            samples[is_of_class] = x[is_of_class[..., columns]]
        assert samples is not None
        return self.from_members(samples)

    def _decode_all(self, z: Tensor, labels: Tensor) -> Tensor:
        """As `decode`, by the VAEs of all classes: inside `vmap` labels are not known."""
        decoded = torch.stack([vae.decode({"z": z}) for _, vae in self._vaes_of(range(len(self.members)))])
        index = labels.view(1, -1, *[1] * len(self.spec.shape)).expand(1, *decoded.shape[1:])
        return self.from_members(decoded.gather(0, index).squeeze(0))

    def restrict_to(self, classes: Sequence[int]) -> None:
        """Train the VAEs of these classes only: batches contain no samples of others."""
        self._trained_classes = list(classes)

    def training_noise(self, batch_size: int) -> dict[str, NoiseSpec]:
        return self.latent_noise(batch_size)

    def objectives(self) -> dict[str, Objective]:
        return {"vae": Objective(tuple(self.parameters()))}

    def losses(
        self, objective: str, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        if labels is None:
            raise ValueError("there is a VAE for each class: labels are needed")
        terms: dict[str, Tensor] = {}
        x = self.to_members(x)
        for label, vae in self._vaes_of(self._trained_classes):
            is_of_class = (labels == label).to(x.dtype)
            for name, value in vae.losses(objective, x, noise).items():
                terms[name] = terms[name] + is_of_class * value if name in terms else is_of_class * value
        return terms

    def fused_losses(
        self,
        objective: str,
        x: Tensor,
        noise: Mapping[str, Tensor],
        labels: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> FusedTerms | None:
        if labels is None or not defines(self, ClassVAE, "losses"):
            return None
        parts = []
        for label, vae in self._vaes_of(self._trained_classes):
            is_of_class = (labels == label).to(x.dtype)
            class_weights = is_of_class / max(1, labels.shape[-1]) if weights is None else is_of_class * weights
            parts.append(vae.fused_losses(objective, x, noise, weights=class_weights))
        fused = [part for part in parts if part is not None]
        return SumOfTerms(fused) if fused and len(fused) == len(parts) else None

    def estimate_log_likelihoods(
        self, x: Tensor, stream: torch.Generator, num_draws: int, unit_variance: bool = False
    ) -> Tensor:
        """log p(x | class) of samples (B, ...), up to a constant of x: (B, C).

        By importance sampling with `num_draws` draws from q(z|x) (van de Ven et al. 2021, eq. 5). Classes that are not
        learned get a value below all others.
        """
        estimates = x.new_full((len(x), len(self.learned_classes)), UNLEARNED_LOG_LIKELIHOOD)
        for label, vae in self._vaes_of(self.learned_classes.nonzero().squeeze(1).tolist()):
            estimates[:, label] = self._importance_estimate(vae, x, stream, num_draws, unit_variance)
        return estimates

    def _importance_estimate(
        self, vae: GaussianVAE, x: Tensor, stream: torch.Generator, num_draws: int, unit_variance: bool
    ) -> Tensor:
        """The estimate (B,) of one VAE, in chunks of draws."""
        size, scaled = self.spec.size, vae.spec.to_unit_range(self.to_members(x))
        mean, log_variance = (value.to(x.dtype) for value in vae.encode(scaled))
        chunk_latents = min(_MAX_CHUNK_LATENTS, _MAX_CHUNK_VALUES // size)
        total, chunk_draws = x.new_full((len(x),), -torch.inf), max(1, chunk_latents // max(1, len(x)))
        for start in range(0, num_draws, chunk_draws):
            shape = (min(chunk_draws, num_draws - start), len(x), self.latent_dim)
            noise = torch.randn(shape, generator=stream, device=stream.device, dtype=torch.float32).to(x)
            z = mean + (0.5 * log_variance).exp() * noise
            nll = vae.negative_log_likelihoods(z, scaled, unit_variance).to(x.dtype)
            prior = gaussian_log_density(z, torch.zeros_like(z), torch.zeros_like(z))
            posterior = gaussian_log_density(z, mean, log_variance)
            log_weights = prior - posterior - nll
            total = torch.logaddexp(total, torch.logsumexp(log_weights, 0))
        return total - math.log(num_draws)
