"""Feedback connections of the solver as generator: RtF and brain-inspired replay."""

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
from gr_cli.nn.losses import gaussian_log_densities, gaussian_log_density, kl_standard_normal
from gr_cli.nn.random_streams import NoiseSpec
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.types import FractionBelowOne, LayerSizes, NonNegative, PositiveInt


class Feedback(GaussianVAE):
    """Generative feedback connections that make the solver a VAE (van de Ven & Tolias 2018).

    The solver's hidden layers are the encoder. The latent variables are computed from its features, and a decoder leads
    from them back to the sample. Solver and decoder are trained with one loss. Brain-inspired replay (van de Ven et al.
    2020) adds two parts that make it conditional on the class: a learned Gaussian prior for each class in place of the
    one standard normal, and gates that zero a fixed random part of the decoder's hidden units for each class. Where
    tasks share their classes the gates belong to tasks (van de Ven et al. 2022), and a generated sample passes the
    gates of a random learned task.

    Args:
        spec: Shape, value range and likelihood of a sample, or the shape alone for values in [0, 1]. Samples are
            flattened inside.
        feature_size: Number of features of the solver (F), its last hidden layer.
        num_classes: Number of classes; labels are 0 to `num_classes` - 1.
        hidden_dims: Width of each hidden layer of the decoder, in the order of the solver's layers: the decoder has
            them in reverse. `null`: those of the solver.
        latent_dim: Number of latent variables.
        prior: Prior of the latent variables: one `standard` normal for all, or a learned Gaussian for each `class`.
        gating: Fraction of each hidden layer of the decoder that is zeroed for a class, or for a task. 0: no gates.
        initialisation: Initial weights. `he` keeps the scale of signals through ReLU layers (He et al. 2015) and learns
            in fewer steps; `torch` are the defaults of torch, used by most published results.
        num_tasks: Number of tasks with gates of their own, if tasks share their classes. `null`: gates by class.
        kl_weight: Weight of the KL divergence (beta-VAE, Higgins et al. 2017). 1: the loss is the negative ELBO.
    """

    num_learned_tasks: Tensor  # (); with gates by task

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
        kl_weight: NonNegative = 1.0,
    ) -> None:
        super().__init__()
        self.spec, self.num_classes = SampleSpec.coerce(spec), num_classes
        self.latent_dim, self.gating, self.kl_weight = latent_dim, gating, kl_weight
        self.class_prior = prior == "class"
        self.num_tasks, self.gated_by_task = num_tasks or 0, gating > 0 and num_tasks is not None
        self.conditional = self.class_prior or (gating > 0 and not self.gated_by_task)
        decoder_sizes = [latent_dim, *reversed(hidden_dims)]
        self.posterior = Linear(feature_size, 2 * latent_dim)
        self.decoder = nn.ModuleList(Linear(a, b) for a, b in pairwise(decoder_sizes))
        self.output = Linear(decoder_sizes[-1], self.spec.size)
        if initialisation == "he":
            init_he_(*self.decoder)
            init_xavier_(self.posterior, self.output)
        if self.class_prior:
            self.prior_mean = nn.Parameter(torch.randn(num_classes, latent_dim))
            self.prior_log_variance = nn.Parameter(torch.randn(num_classes, latent_dim))
        if gating:
            for i, width in enumerate(decoder_sizes[1:]):
                ranks = torch.rand(num_tasks or num_classes, width).argsort(1)
                self.register_buffer(f"gate{i}", (ranks >= round(gating * width)).float())
        if self.conditional:
            self.register_buffer("learned_classes", torch.zeros(num_classes, dtype=torch.bool))
        if self.gated_by_task:
            self.register_buffer("num_learned_tasks", torch.zeros((), dtype=torch.long))

    def latent_noise(self, num_samples: int) -> dict[str, NoiseSpec]:
        task = {"task": NoiseSpec("uniform", (num_samples,))} if self.gated_by_task else {}
        return {**super().latent_noise(num_samples), **task}

    def mark_learned(self, classes: Tensor) -> None:
        """Add `classes`, bool (U,), to the learned classes and count the task."""
        super().mark_learned(classes)
        if self.gated_by_task:
            self.num_learned_tasks += 1

    def gating_tasks(self, latent: Mapping[str, Tensor]) -> Tensor:
        num_tasks = self.num_learned_tasks.clamp(min=1).unsqueeze(-1)
        return torch.minimum((latent["task"] * num_tasks).long(), num_tasks - 1)

    def encode(self, x: Tensor, noise: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """The solver's features (B, F) to mean and log-variance of q(z|x), (B, latent_dim) each."""
        mean, log_variance = self.posterior(x).chunk(2, dim=-1)
        return mean, log_variance

    def reconstruct(self, z: Tensor, gates: Tensor | None = None) -> Tensor:
        """z (B, latent_dim) to the parameters of the likelihood (B, *spec.shape).

        Args:
            z: Latent variables.
            gates: One-hot classes (B, C) or tasks (B, T) whose gates apply, or probabilities that mix gates linearly.
                None: no gates.
        """
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
        classes = self._one_hot_labels(labels, z)
        if self.class_prior and classes is not None:
            z = classes @ self.prior_mean + (classes @ (0.5 * self.prior_log_variance).exp()) * z
        gates = self._one_hot_tasks(self.gating_tasks(latent), z) if self.gated_by_task else classes
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
        """The terms of `VAE.losses`, with the solver's features as encoder.

        Args:
            objective: `vae`.
            x: Samples (B, *spec.shape).
            noise: As `training_noise` asks for.
            labels: Classes (B,), if the generator is conditional.
            features: The solver's features (B, F) of `x`; needed.
            class_probabilities: Soft labels (B, C) in place of `labels`. They mix the gates and weigh the class priors;
                the divergence from this mixture is estimated with the one z that is drawn.
            tasks: Tasks (B,) whose gates apply; needed if gates are by task.

        Raises:
            ValueError: `features`, `labels` or `tasks` are missing.
        """
        if features is None:
            raise ValueError("feedback encodes the solver's features: features are needed")
        x = self.spec.to_unit_range(x)
        mean, log_variance = (value.to(x.dtype) for value in self.encode(features))
        z = mean + (0.5 * log_variance).exp() * noise["z"]
        classes = self._one_hot_labels(labels, x)
        if classes is not None and class_probabilities is not None:
            classes = class_probabilities
        if self.class_prior and classes is not None:
            kl = gaussian_log_density(z, mean, log_variance) - self._log_prior(z, classes)
        else:
            kl = kl_standard_normal(mean, log_variance)
        if self.gated_by_task and tasks is None:
            raise ValueError("the gates of this feedback are by task: tasks are needed")
        gates = self._one_hot_tasks(tasks, x) if self.gated_by_task and tasks is not None else classes
        return self.negative_elbo_terms(x, self.reconstruct(z, gates), self.kl_weight * kl)

    def _log_prior(self, z: Tensor, class_probabilities: Tensor) -> Tensor:
        """log p(z) under the mixture of class priors with weights `class_probabilities` (B, C): (B,)."""
        by_class = gaussian_log_densities(z, self.prior_mean, self.prior_log_variance)  # (B, C)
        # A class with probability 0 is left out, however near its Gaussian may be.
        log_weights = class_probabilities.clamp(min=torch.finfo(class_probabilities.dtype).tiny).log()
        return torch.logsumexp((by_class + log_weights).masked_fill(class_probabilities == 0, -torch.inf), -1)
