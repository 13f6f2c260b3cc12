from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gr_cli.generators.vae import VAE
from gr_cli.nn.losses import kl_standard_normal
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.types import FractionBelowOne, LayerSizes, PositiveInt, VariesPerReplica


class CVAE(VAE):
    """A VAE of fully connected layers in which encoder and decoder are told the class (Sohn et al. 2015).

    Minimised as by `VAE`, with q(z|x, y) and p(x|z, y). It dreams the classes that it is asked for, so that a dream
    brings its label, and all classes come up equally often.

    Args:
        spec: what a sample is, or its shape, for values in [0, 1]; flattened inside.
        classes: number of classes; labels are below it.
        hidden_dims: widths of the encoder's layers, first to last; the decoder has them reversed.
        latent_dim: number of latent variables.
        dropout: probability that a hidden unit of the encoder is left out while training.
        initialisation: of the weights, as for `VAE`.
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
        """Values (..., D) and beside them the classes `labels` (...) as one-hot codes: (..., D + classes)."""
        if labels is None:
            raise ValueError("this VAE is conditional on classes: labels are needed")
        return torch.cat([values, F.one_hot(labels, self.num_classes).to(values.dtype)], -1)

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        return super().decode({"z": self._with_one_hot_labels(latent["z"], labels)})

    def losses(
        self, objective: str, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        x = self.spec.to_unit_range(x)
        told = self._with_one_hot_labels(x.flatten(self.output.num_leading_axes), labels)
        mean, log_variance = (objective.to(x.dtype) for objective in self.encode(told, noise))
        z = mean + (0.5 * log_variance).exp() * noise["z"]
        return self.negative_elbo_terms(
            x, self.reconstruct(self._with_one_hot_labels(z, labels)), kl_standard_normal(mean, log_variance)
        )
