from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.generators.vae import GaussianVAE
from gr_cli.nn.initialization import init_he_, init_xavier_
from gr_cli.nn.linear import Linear
from gr_cli.nn.losses import gaussian_log_density, kl_standard_normal
from gr_cli.nn.random_streams import NoiseSpec
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.types import FractionBelowOne, LayerSizes, PositiveInt


class Feedback(GaussianVAE):
    """Feedback connections that make the solver a VAE (van de Ven & Tolias 2018; van de Ven et al. 2020).

    The solver's hidden layers are the encoder; on its features sit the latent variables, and from these a decoder leads
    back to the sample. Solver and feedback have one loss. Two additions of brain-inspired replay make it conditional:
    a Gaussian of each class as prior, learnt with the rest, in place of the one standard normal; and gates, which
    silence a part of the decoder's hidden units, chosen at random and for good, for each class, or for each task where
    tasks share their classes (van de Ven et al. 2022); samples then pass the gates of a learnt task, at random.

    Args:
        spec: what a sample is, or its shape, for values in [0, 1]; flattened inside.
        feature_size: number of the solver's features.
        classes: number of classes; labels are below it.
        hidden_dims: widths of the decoder's layers, last to first: as the solver has them.
        latent_dim: number of latent variables.
        prior: one `standard` normal for all, or one Gaussian for each `class`.
        gating: part of each hidden layer of the decoder that is silent for a class, or task; 0: no gates.
        initialisation: of the weights, as for `VAE`.
        tasks: number of tasks, if they share their classes, for gates by task; None: gates are by class.
    """

    num_learned_tasks: Tensor  # (), of gates by task: the number of tasks that were learnt

    supports_leading_axes = True
    reads_features = True
    dropout = 0.0

    def __init__(
        self,
        spec: SampleSpec | Sequence[PositiveInt] = (784,),
        feature_size: PositiveInt = 128,
        num_classes: PositiveInt = 10,
        hidden_dims: LayerSizes = (256, 128),
        latent_dim: PositiveInt = 32,
        prior: Literal["standard", "class"] = "standard",
        gating: FractionBelowOne = 0.0,
        initialisation: Literal["he", "torch"] = "he",
        num_tasks: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.num_classes, self.latent_dim, self.gating = (
            SampleSpec.coerce(spec),
            num_classes,
            latent_dim,
            gating,
        )
        self.class_prior = prior == "class"
        self.num_tasks, self.gated_by_task = num_tasks or 0, gating > 0 and num_tasks is not None
        self.conditional = self.class_prior or (gating > 0 and not self.gated_by_task)
        back = [latent_dim, *reversed(hidden_dims)]
        self.posterior = Linear(feature_size, 2 * latent_dim)
        self.decoder = nn.ModuleList(Linear(a, b) for a, b in pairwise(back))
        self.output = Linear(back[-1], self.spec.size)
        if initialisation == "he":
            init_he_(*self.decoder)
            init_xavier_(self.posterior, self.output)
        if self.class_prior:
            self.prior_mean = nn.Parameter(torch.randn(num_classes, latent_dim))
            self.prior_log_variance = nn.Parameter(torch.randn(num_classes, latent_dim))
        if gating:
            for i, width in enumerate(back[1:]):
                order = torch.rand(num_tasks or num_classes, width).argsort(1)
                self.register_buffer(f"gate{i}", (order >= round(gating * width)).float())
        if self.conditional:
            self.register_buffer("learned_classes", torch.zeros(num_classes, dtype=torch.bool))
        if self.gated_by_task:
            self.register_buffer("num_learned_tasks", torch.zeros((), dtype=torch.long))

    def latent_noise(self, num_samples: int) -> dict[str, NoiseSpec]:
        task = {"task": NoiseSpec("uniform", (num_samples,))} if self.gated_by_task else {}
        return {**super().latent_noise(num_samples), **task}

    def mark_learned(self, classes: Tensor) -> None:
        """Take note of a task with these classes, bool (U,), that was learnt."""
        super().mark_learned(classes)
        if self.gated_by_task:
            self.num_learned_tasks += 1

    def gating_tasks(self, latent: Mapping[str, Tensor]) -> Tensor:
        learnt = self.num_learned_tasks.clamp(min=1).unsqueeze(-1)
        return torch.minimum((latent["task"] * learnt).long(), learnt - 1)

    def encode(self, x: Tensor, noise: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """The solver's features (B, F) to mean and log-variance of q(z|x)."""
        mean, log_variance = self.posterior(x).chunk(2, dim=-1)
        return mean, log_variance

    def reconstruct(self, z: Tensor, gates: Tensor | None = None) -> Tensor:
        """z (B, Z) to pixel logits or means, through the gates of classes or tasks: one-hot or probabilities that mix
        them, (B, C) or (B, T)."""
        h = z
        for i, layer in enumerate(self.decoder):
            h = F.relu(layer(h), inplace=True)
            if self.gating and gates is not None:
                h = h * (gates @ getattr(self, f"gate{i}")).to(h.dtype)
        out: Tensor = self.output(h)
        return out.view(*out.shape[:-1], *self.spec.shape)

    def _one_hot_labels(self, labels: Tensor | None, like: Tensor) -> Tensor | None:
        if not self.conditional:
            if labels is not None:
                raise ValueError("this feedback is not conditional on classes: labels must be None")
            return None
        if labels is None:
            raise ValueError("this feedback is conditional on classes: labels are needed")
        return F.one_hot(labels, self.num_classes).to(like.dtype)

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        z = latent["z"]
        asked = self._one_hot_labels(labels, z)
        if self.class_prior and asked is not None:
            z = asked @ self.prior_mean + (asked @ (0.5 * self.prior_log_variance).exp()) * z
        gates = self._one_hot_tasks(self.gating_tasks(latent), z) if self.gated_by_task else asked
        return self.spec.point_estimate(self.reconstruct(z.to(latent["z"].dtype), gates))

    def _one_hot_tasks(self, tasks: Tensor, like: Tensor) -> Tensor:
        return F.one_hot(tasks, self.num_tasks).to(like.dtype)

    def training_noise(self, batch_size: int) -> dict[str, NoiseSpec]:
        return super().latent_noise(batch_size)

    def losses(
        self,
        objective: str,
        x: Tensor,
        noise: Mapping[str, Tensor],
        labels: Tensor | None = None,
        features: Tensor | None = None,
        class_probabilities: Tensor | None = None,
        tasks: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """As of `VAE`, from the solver's `features` (B, F) of `x`. `beliefs` (B, C): the probability of each class,
        where a label is not certain; they mix the gates, the prior is the mixture that they weigh, and the divergence
        from it is estimated by the one z that is drawn. `tasks` (B,): those whose gates `x` passes, if gates are by
        task."""
        if features is None:
            raise ValueError("feedback sees samples through the solver's features, and there are none")
        x = self.spec.to_unit_range(x)
        mean, log_variance = (objective.to(x.dtype) for objective in self.encode(features))
        z = mean + (0.5 * log_variance).exp() * noise["z"]
        asked = self._one_hot_labels(labels, x)
        if asked is not None and class_probabilities is not None:
            asked = class_probabilities
        if self.class_prior and asked is not None:
            kl = gaussian_log_density(z, mean, log_variance) - self._log_prior(z, asked)
        else:
            kl = kl_standard_normal(mean, log_variance)
        if self.gated_by_task and tasks is None:
            raise ValueError("the gates of this feedback are by task: tasks are needed")
        gates = self._one_hot_tasks(tasks, x) if self.gated_by_task and tasks is not None else asked
        return self.negative_elbo_terms(x, self.reconstruct(z, gates), kl)

    def _log_prior(self, z: Tensor, class_probabilities: Tensor) -> Tensor:
        """log p(z) of the classes' Gaussians as a mixture of weights `belief` (B, C): (B,)."""
        means, log_variances = self.prior_mean.unsqueeze(-3), self.prior_log_variance.unsqueeze(-3)
        by_class = gaussian_log_density(z.unsqueeze(-2), means, log_variances)  # (B, C)
        # A class that is ruled out has no part in it, however near its Gaussian may be.
        weight = class_probabilities.clamp(min=torch.finfo(class_probabilities.dtype).tiny).log()
        return torch.logsumexp((by_class + weight).masked_fill(class_probabilities == 0, -torch.inf), -1)
