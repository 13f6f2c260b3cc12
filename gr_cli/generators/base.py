"""Base class of generators: noise, losses and sampling. The caller owns loop, optimizers and random streams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import index
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from gr_cli.nn.fused_elbo import FusedTerms
from gr_cli.nn.random_streams import NoiseSpec
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.nn.shared_fit import SharedFit

UNLEARNED_LOG_LIKELIHOOD = -1e9  # of classes that are not learned yet: below all others


@dataclass(frozen=True)
class Objective:
    """One loss of a generator and the parameters it trains: a VAE has one, a GAN two.

    Attributes:
        parameters: The parameters that its steps change.
        update_every: Updates of the generator per step of this objective.
    """

    parameters: tuple[nn.Parameter, ...]
    update_every: int = 1


class Generator(nn.Module, ABC):
    """A generative model of samples, trained by gradient steps or fitted in closed form.

    A generator that is trained by gradient steps names its losses and parameters in `objectives` and computes the loss
    of each sample in `losses`. All randomness comes in as noise, so that both `losses` and `decode` are pure functions
    of parameters and inputs, and can be vectorized over replicas. A generator in closed form has no objectives and
    overrides `fit_class`.

    >>> class Gaussian(Generator):
    ...     def __init__(self, spec=(2,)):
    ...         super().__init__()
    ...         self.spec = SampleSpec(tuple(spec), None)  # values without bounds
    ...         self.mean = nn.Parameter(torch.zeros(*spec))
    ...     def latent_noise(self, num_samples):
    ...         return {"z": NoiseSpec("normal", (num_samples, *self.spec.shape))}
    ...     def decode(self, latent, labels=None):
    ...         return self.mean + latent["z"]
    ...     def training_noise(self, batch_size):
    ...         return {}
    ...     def objectives(self):
    ...         return {"gaussian": Objective((self.mean,))}
    ...     def losses(self, objective, x, noise, labels=None):
    ...         return {"nll": 0.5 * (x - self.mean).square().sum(-1)}
    >>> Gaussian().generate(3).shape
    torch.Size([3, 2])

    Attributes:
        spec: Shape, value range and likelihood of a sample.
        conditional: Whether samples are modelled given their class; `losses` and `decode` then need `labels`.
        reads_features: Whether it encodes samples by the solver's features and shares the solver's loss.
        gated_by_task: Whether the decoder has gates for each task; `gating_tasks` returns the task of each sample.
        class_likelihood: How p(x | class) can be computed: not at all, by sampling (`estimate_log_likelihoods`), or in
            closed form (`log_likelihoods`).
        density_objective: Name of the objective whose loss of a sample is low where the density of samples is high, as
            -log p(x) and its bounds; None: there is none, as in a GAN.
        supports_distillation: Whether a frozen generator can teach another one its outputs on noised samples, by
            `distillation_targets` and `distillation_losses`.
        supports_vmap: Whether `torch.func.vmap` can call its methods; replicas of others are called one by one.
        classes_are_independent: Whether a class that is fitted leaves the likelihoods of all others as they were.
        fits_classes_without_samples: Whether `fit_class` is also called for classes of a task that have no samples.
        has_sample_gradients: Whether the gradient of a sample's loss follows from the calls of layers; not if the loss
            itself contains gradients.
        learned_classes: bool (U,), the classes learned so far; conditional generators register it as a buffer.
    """

    spec: SampleSpec
    conditional: bool = False
    reads_features: ClassVar[bool] = False
    gated_by_task: bool = False
    class_likelihood: ClassVar[Literal["none", "estimated", "exact"]] = "none"
    density_objective: ClassVar[str | None] = None
    supports_distillation: ClassVar[bool] = False
    supports_vmap: ClassVar[bool] = True
    classes_are_independent: ClassVar[bool] = True
    fits_classes_without_samples: ClassVar[bool] = False
    has_sample_gradients: ClassVar[bool] = True
    learned_classes: Tensor

    @abstractmethod
    def latent_noise(self, num_samples: int) -> dict[str, NoiseSpec]:
        """The noise that `decode` needs for `num_samples` samples, by name."""

    @abstractmethod
    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        """Generate samples (N, *spec.shape) from latent noise; deterministic.

        Args:
            latent: The noise that `latent_noise` asks for, (N, ...) each.
            labels: Classes (N,) of the samples, for conditional generators.

        Raises:
            ValueError: `labels` are missing, or the generator is not conditional.
        """

    @abstractmethod
    def training_noise(self, batch_size: int) -> dict[str, NoiseSpec]:
        """The noise that `losses` needs for a batch of `batch_size` samples, by name."""

    def scoring_noise(self, batch_size: int) -> dict[str, NoiseSpec]:
        """The noise that `losses` needs outside training: that of training, without dropout if there is any."""
        return self.training_noise(batch_size)

    @abstractmethod
    def objectives(self) -> dict[str, Objective]:
        """The objectives by name, in the order of their steps. The names are part of random streams."""

    @abstractmethod
    def losses(
        self, objective: str, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The terms of one objective by name, (B,) each; their sum is minimised. Pure in parameters, `x` and `noise`.

        Args:
            objective: Name of the objective.
            x: Samples (B, *spec.shape).
            noise: The noise that `training_noise` asks for, (B, ...) each.
            labels: Classes (B,) of the samples, for conditional generators.
        """

    def fused_losses(
        self,
        objective: str,
        x: Tensor,
        noise: Mapping[str, Tensor],
        labels: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> FusedTerms | None:
        """The means of `losses` over samples with a hand-derived gradient, or None: the base class has none.

        Args:
            objective: Name of the objective.
            x: Samples (B, *spec.shape).
            noise: The noise that `training_noise` asks for, (B, ...) each.
            labels: Classes (B,) of the samples, for conditional generators.
            weights: Weights (B,) of the samples; None: their mean.

        Returns:
            The terms of `losses` by name; None where they can't be fused, because a subclass or a caller changed
            something, or inside autocast and `torch.func`.
        """
        return None

    def distillation_targets(self, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        """What a frozen generator teaches: its outputs (B, ...) on samples noised as in `losses`."""
        raise TypeError(f"{type(self).__name__} does not support distillation")

    def distillation_losses(
        self, target: Tensor, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The terms by name, (B,) each, that compare the outputs on noised samples with a teacher's.

        Args:
            target: What the teacher's `distillation_targets` returned for the other arguments.
            x: Samples (B, *spec.shape).
            noise: The noise that `training_noise` asks for, (B, ...) each.
            labels: Classes (B,) of the samples, for conditional generators.
        """
        raise TypeError(f"{type(self).__name__} does not support distillation")

    def balanced_labels(self, num_samples: int) -> Tensor | None:
        """Labels (num_samples,) that cycle through the learned classes; None if the generator is not conditional.

        Before the first task all classes count as learned.
        """
        if not self.conditional:
            return None
        classes = self.learned_classes.nonzero().squeeze(1)
        if len(classes) == 0:
            classes = torch.arange(len(self.learned_classes), device=self.learned_classes.device)
        return classes[torch.arange(num_samples, device=classes.device) % len(classes)]

    def mark_learned(self, classes: Tensor) -> None:
        """Add `classes`, bool (U,), to the learned classes at the end of a task."""
        if self.conditional:
            self.learned_classes |= classes

    def gating_tasks(self, latent: Mapping[str, Tensor]) -> Tensor:
        """The task (N,) whose gates `decode` applies to each sample, from the latent noise."""
        raise TypeError(f"{type(self).__name__} has no gates by task")

    def restrict_to(self, classes: Sequence[int]) -> None:
        """Train on samples of these classes only until the next call. The base class does nothing."""

    def log_likelihoods(self, x: Tensor) -> Tensor:
        """log p(x | class) of samples (B, ...) for each class, up to a constant of x: (B, U)."""
        raise TypeError(f"{type(self).__name__} has no likelihoods")

    def class_log_likelihoods(self, x: Tensor, classes: Tensor) -> Tensor:
        """The columns (B, K) of `log_likelihoods` for learned classes (K,); not for `vmap`.

        The base class computes all columns. One that computes these alone makes evaluation faster.
        """
        return self.log_likelihoods(x)[:, classes]

    def learned_log_likelihoods(self, x: Tensor) -> Tensor:
        """As `log_likelihoods`, with a value below all others for classes that are not learned; not for `vmap`."""
        classes = self.learned_classes.nonzero().squeeze(1)
        values = self.class_log_likelihoods(x, classes)
        result = values.new_full((len(values), len(self.learned_classes)), UNLEARNED_LOG_LIKELIHOOD)
        result[:, classes] = values
        return result

    def estimate_log_likelihoods(
        self, x: Tensor, stream: torch.Generator, num_draws: int, unit_variance: bool = False
    ) -> Tensor:
        """Monte Carlo estimate of log p(x | class), up to a constant of x: (B, U). In closed form: the exact value.

        Classes that are not learned get a value below all others.

        Args:
            x: Samples (B, ...).
            stream: Random stream of the draws.
            num_draws: Latent samples per sample and class.
            unit_variance: Take p(x | z) as a Gaussian of unit variance around the reconstruction, whatever the
                likelihood in training.
        """
        return self.learned_log_likelihoods(x)

    def begin_fit(self, x: Tensor, stream: torch.Generator) -> None:
        """Fit what classes share, before `fit_class` is called for each class of a task. The base class does nothing.

        Args:
            x: All samples (N, *spec.shape) of the task.
            stream: Random stream of the algorithm.
        """

    def end_fit(self) -> None:
        """Finish what `fit_class` did for the classes of a task. The base class does nothing."""

    def fit_class(self, x: Tensor, label: int, stream: torch.Generator) -> None:
        """Fit the class `label` in closed form.

        Args:
            x: All samples (N, *spec.shape) of the class.
            label: The class.
            stream: Random stream of the algorithm.
        """
        raise TypeError(f"{type(self).__name__} is trained by gradient steps")

    @property
    def closed_form(self) -> bool:
        """Whether each class is fitted by `fit_class`, and not by gradient steps."""
        return type(self).fit_class is not Generator.fit_class

    @property
    def shared_fits(self) -> tuple[SharedFit, ...]:
        """What keeps the generator from forgetting a class; by default its gradient steps."""
        if type(self).forget_classes is not Generator.forget_classes:
            return ()
        remedy = "generator=mixture and generator=gaussian forget classes"
        reason = "does not define forget_classes" if self.closed_form else "is trained by gradient steps"
        return (SharedFit(f"the generator {reason}", remedy),)

    def forget_classes(self, classes: Tensor) -> None:
        """Return to the state before any of these classes, bool (U,), was fitted; generators in closed form define it.

        Afterwards parameters and buffers equal, bit for bit, those of a generator that never saw them.
        """
        raise TypeError(f"{type(self).__name__} can't forget single classes")

    def compact_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state in a form that takes less space in a checkpoint; by default as it is."""
        return dict(state)

    def expand_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `compact_state`."""
        return dict(state)

    def generate(
        self,
        num_samples: int,
        device: torch.device | str | None = None,
        labels: Tensor | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Generate `num_samples` samples (num_samples, *spec.shape), without gradient.

        Args:
            num_samples: Number of samples; 0 gives an empty tensor.
            device: Device of the result; default: that of the parameters.
            labels: Classes (num_samples,), for conditional generators; default: the learned classes in turn.
            generator: Random stream; default: torch's global one.

        Raises:
            ValueError: `num_samples` is negative, or `labels` don't fit.
        """
        num_samples = index(num_samples)  # raises a TypeError unless it is an integer
        if num_samples < 0:
            raise ValueError(f"num_samples={num_samples}: must be at least 0")
        like = next(value for value in chain(self.parameters(), self.buffers()) if value.is_floating_point())
        stream_device = like.device if generator is None else generator.device
        if labels is None:
            labels = self.balanced_labels(num_samples)
        else:
            labels = self._validated_labels(labels, num_samples, like.device)
        latent = {}
        for name, noise in self.latent_noise(num_samples).items():
            draw = torch.randn if noise.distribution == "normal" else torch.rand
            latent[name] = draw(noise.shape, generator=generator, device=stream_device).to(like.device, like.dtype)
        with torch.no_grad():
            x = self.decode(latent, labels)
        return x if device is None else x.to(device)

    def _validated_labels(self, labels: Tensor | Sequence[int], num_samples: int, device: torch.device) -> Tensor:
        """The labels as int64 on `device`."""
        values = torch.as_tensor(labels, device=device)
        classes = getattr(self, "learned_classes", None)
        if values.is_floating_point() or values.shape != (num_samples,):
            raise ValueError(f"labels: must be {num_samples} whole numbers, one for each sample")
        if classes is not None and num_samples and not 0 <= int(values.min()) <= int(values.max()) < len(classes):
            raise ValueError(f"labels={values.unique().tolist()[:9]}: must be from 0 to {len(classes) - 1}")
        return values.long()


class GeneratorWithoutObjectives(Generator):
    """A generator that is not trained by gradient steps."""

    def training_noise(self, batch_size: int) -> dict[str, NoiseSpec]:
        return {}

    def objectives(self) -> dict[str, Objective]:
        return {}

    def losses(
        self, objective: str, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        raise ValueError(f"{type(self).__name__} is not trained by gradient steps")


class Ensemble(GeneratorWithoutObjectives):
    """Several generators as one, for sampling: sample i comes from generator i modulo their number.

    Args:
        members: The generators, of samples with the same specification.
    """

    def __init__(self, members: Sequence[Generator]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.spec = members[0].spec
        self.conditional = all(member.conditional for member in members)

    @property
    def generators(self) -> list[Generator]:
        """The generators."""
        return [member for member in self.members if isinstance(member, Generator)]

    def latent_noise(self, num_samples: int) -> dict[str, NoiseSpec]:
        numbers = self._samples_per_member(num_samples)
        noises = [member.latent_noise(number) for member, number in zip(self.generators, numbers, strict=True)]
        return {f"{i}.{name}": noise for i, of_member in enumerate(noises) for name, noise in of_member.items()}

    def balanced_labels(self, num_samples: int) -> Tensor | None:
        if not self.conditional:
            return None
        labels = torch.empty(num_samples, dtype=torch.long, device=self.generators[0].learned_classes.device)
        for i, (member, number) in enumerate(zip(self.generators, self._samples_per_member(num_samples), strict=True)):
            labels[i :: len(self.members)] = cast(Tensor, member.balanced_labels(number))
        return labels

    def _samples_per_member(self, num_samples: int) -> list[int]:
        return [len(range(i, num_samples, len(self.members))) for i in range(len(self.members))]

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        decoded = []
        for i, member in enumerate(self.generators):
            noises = {name.split(".", 1)[1]: noise for name, noise in latent.items() if name.startswith(f"{i}.")}
            num_samples = len(next(iter(noises.values())))
            member_labels = member.balanced_labels(num_samples) if labels is None else labels[i :: len(self.members)]
            decoded.append(member.decode(noises, member_labels))
        samples = decoded[0].new_empty((sum(map(len, decoded)), *self.spec.shape))
        for i, x in enumerate(decoded):
            samples[i :: len(decoded)] = x
        return samples
