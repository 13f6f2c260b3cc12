"""Fully connected VAE that is conditional on the class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gr_cli.generators.vae import FUSED_METHODS, VAE
from gr_cli.nn.fused import defines
from gr_cli.nn.fused_elbo import FusedTerms
from gr_cli.nn.losses import kl_standard_normal
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.types import FractionBelowOne, LayerSizes, PositiveInt, VariesPerReplica


class CVAE(VAE):
    """Conditional VAE: encoder and decoder also take the class as a one-hot code (Sohn et al. 2015).

    The loss is that of `VAE`, with q(z|x, y) and p(x|z, y). Samples are generated for given classes, so that a
    generated sample has a label and all learned classes are generated equally often.

    Args:
        num_classes: Number of classes; labels are 0 to `num_classes` - 1.
    """

    conditional = True

    def __init__(
        self,
        spec: SampleSpec | Sequence[PositiveInt] = (784,),
        num_classes: PositiveInt = 10,
        hidden_dims: LayerSizes = (256, 128),
        latent_dim: PositiveInt = 32,
        dropout: Annotated[FractionBelowOne, VariesPerReplica] = 0.1,
        initialisation: Literal["he", "torch"] = "he",
    ) -> None:
        self.num_classes = num_classes
        super().__init__(spec, hidden_dims, latent_dim, dropout, initialisation)
        self.register_buffer("learned_classes", torch.zeros(num_classes, dtype=torch.bool))

    def build_layers(self, hidden_dims: LayerSizes, initialisation: str, extra_inputs: int = 0) -> None:
        super().build_layers(hidden_dims, initialisation, extra_inputs + self.num_classes)

    def _with_one_hot_labels(self, values: Tensor, labels: Tensor | None) -> Tensor:
        """Append one-hot codes of `labels` (...) to `values` (..., D): (..., D + num_classes)."""
        if labels is None:
            raise ValueError("this VAE is conditional on classes: labels are needed")
        return torch.cat([values, F.one_hot(labels, self.num_classes).to(values.dtype)], -1)

    def fused_losses(
        self,
        objective: str,
        x: Tensor,
        noise: Mapping[str, Tensor],
        labels: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> FusedTerms | None:
        if labels is None or not defines(self, CVAE, "losses", *FUSED_METHODS):
            return None
        target = self.spec.to_unit_range(x).flatten(self.output.num_leading_axes)
        codes = F.one_hot(labels, self.num_classes).to(target.dtype)
        return self._negative_elbo(torch.cat([target, codes], -1), target, noise, weights, codes)

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        return super().decode({"z": self._with_one_hot_labels(latent["z"], labels)})

    def losses(
        self, objective: str, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        x = self.spec.to_unit_range(x)
        inputs = self._with_one_hot_labels(x.flatten(self.output.num_leading_axes), labels)
        mean, log_variance = (value.to(x.dtype) for value in self.encode(inputs, noise))
        z = mean + (0.5 * log_variance).exp() * noise["z"]
        out = self.reconstruct(self._with_one_hot_labels(z, labels))
        return self.negative_elbo_terms(x, out, kl_standard_normal(mean, log_variance))
