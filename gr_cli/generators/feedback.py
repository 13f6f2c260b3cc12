from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.generators.vae import GaussianVAE
from gr_cli.nn.initialization import start_linear, start_relu
from gr_cli.nn.linear import Linear
from gr_cli.nn.losses import kl_standard_normal, log_normal
from gr_cli.nn.random_streams import Noise
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.types import PositiveInt, Share, Widths


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

    tasks_learnt: Tensor  # (), of gates by task: the number of tasks that were learnt

    takes_leading_axes = True
    reads_features = True
    dropout = 0.0

    def __init__(
        self,
        spec: SampleSpec | Sequence[PositiveInt] = (784,),
        feature_size: PositiveInt = 128,
        classes: PositiveInt = 10,
        hidden_dims: Widths = (256, 128),
        latent_dim: PositiveInt = 32,
        prior: Literal["standard", "class"] = "standard",
        gating: Share = 0.0,
        initialisation: Literal["he", "torch"] = "he",
        tasks: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.classes, self.latent_dim, self.gating = SampleSpec.of(spec), classes, latent_dim, gating
        self.class_prior = prior == "class"
        self.tasks, self.gated_by_task = tasks or 0, gating > 0 and tasks is not None
        self.conditional = self.class_prior or (gating > 0 and not self.gated_by_task)
        back = [latent_dim, *reversed(hidden_dims)]
        self.posterior = Linear(feature_size, 2 * latent_dim)
        self.decoder = nn.ModuleList(Linear(a, b) for a, b in pairwise(back))
        self.pixels = Linear(back[-1], self.spec.size)
        if initialisation == "he":
            start_relu(*self.decoder)
            start_linear(self.posterior, self.pixels)
        if self.class_prior:
            self.prior_mean = nn.Parameter(torch.randn(classes, latent_dim))
            self.prior_log_variance = nn.Parameter(torch.randn(classes, latent_dim))
        if gating:
            for i, width in enumerate(back[1:]):
                order = torch.rand(tasks or classes, width).argsort(1)
                self.register_buffer(f"gate{i}", (order >= round(gating * width)).float())
        if self.conditional:
            self.register_buffer("known", torch.zeros(classes, dtype=torch.bool))
        if self.gated_by_task:
            self.register_buffer("tasks_learnt", torch.zeros((), dtype=torch.long))

    def latent(self, num_samples: int) -> dict[str, Noise]:
        task = {"task": Noise("uniform", (num_samples,))} if self.gated_by_task else {}
        return {**super().latent(num_samples), **task}

    def meet(self, classes: Tensor) -> None:
        """Take note of a task with these classes, bool (U,), that was learnt."""
        super().meet(classes)
        if self.gated_by_task:
            self.tasks_learnt += 1

    def tasks_of(self, latent: Mapping[str, Tensor]) -> Tensor:
        learnt = self.tasks_learnt.clamp(min=1).unsqueeze(-1)
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
        out: Tensor = self.pixels(h)
        return out.view(*out.shape[:-1], *self.spec.shape)

    def _asked(self, labels: Tensor | None, like: Tensor) -> Tensor | None:
        if not self.conditional:
            if labels is not None:
                raise ValueError("this feedback is not conditional on classes: labels must be None")
            return None
        if labels is None:
            raise ValueError("this feedback is conditional on classes: labels are needed")
        return F.one_hot(labels, self.classes).to(like.dtype)

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        z = latent["z"]
        asked = self._asked(labels, z)
        if self.class_prior and asked is not None:
            z = asked @ self.prior_mean + (asked @ (0.5 * self.prior_log_variance).exp()) * z
        gates = self._of_tasks(self.tasks_of(latent), z) if self.gated_by_task else asked
        return self.spec.decoded(self.reconstruct(z.to(latent["z"].dtype), gates))

    def _of_tasks(self, tasks: Tensor, like: Tensor) -> Tensor:
        return F.one_hot(tasks, self.tasks).to(like.dtype)

    def noise(self, batch_size: int) -> dict[str, Noise]:
        return super().latent(batch_size)

    def losses(
        self,
        part: str,
        x: Tensor,
        noise: Mapping[str, Tensor],
        labels: Tensor | None = None,
        features: Tensor | None = None,
        beliefs: Tensor | None = None,
        tasks: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """As of `VAE`, from the solver's `features` (B, F) of `x`. `beliefs` (B, C): the probability of each class,
        where a label is not certain; they mix the gates, the prior is the mixture that they weigh, and the divergence
        from it is estimated by the one z that is drawn. `tasks` (B,): those whose gates `x` passes, if gates are by
        task."""
        if features is None:
            raise ValueError("feedback sees samples through the solver's features, and there are none")
        x = self.spec.scaled(x)
        mean, log_variance = (part.to(x.dtype) for part in self.encode(features))
        z = mean + (0.5 * log_variance).exp() * noise["z"]
        asked = self._asked(labels, x)
        if asked is not None and beliefs is not None:
            asked = beliefs
        if self.class_prior and asked is not None:
            kl = log_normal(z, mean, log_variance) - self._log_prior(z, asked)
        else:
            kl = kl_standard_normal(mean, log_variance)
        if self.gated_by_task and tasks is None:
            raise ValueError("the gates of this feedback are by task: tasks are needed")
        gates = self._of_tasks(tasks, x) if self.gated_by_task and tasks is not None else asked
        return self.elbo(x, self.reconstruct(z, gates), kl)

    def _log_prior(self, z: Tensor, belief: Tensor) -> Tensor:
        """log p(z) of the classes' Gaussians as a mixture of weights `belief` (B, C): (B,)."""
        means, log_variances = self.prior_mean.unsqueeze(-3), self.prior_log_variance.unsqueeze(-3)
        by_class = log_normal(z.unsqueeze(-2), means, log_variances)  # (B, C)
        # A class that is ruled out has no part in it, however near its Gaussian may be.
        weight = belief.clamp(min=torch.finfo(belief.dtype).tiny).log()
        return torch.logsumexp((by_class + weight).masked_fill(belief == 0, -torch.inf), -1)
