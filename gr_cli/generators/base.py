"""What every generator answers. The caller owns the loop, the optimisers and the randomness."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import index
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from gr_cli.nn.random_streams import NoiseSpec
from gr_cli.nn.sample_spec import SampleSpec


@dataclass(frozen=True)
class Objective:
    """One objective of a generator and the parameters that follow it (a VAE has one, a GAN two).

    `every`: it takes a step on every so-many-th update of the generator.
    """

    parameters: tuple[nn.Parameter, ...]
    update_every: int = 1


class Generator(nn.Module, ABC):
    """A model of samples, which are what `spec` says.

    Most learn by steps down their losses. One that is fitted to a task's samples in one go has no parts, and `fit`.

    `conditional`: whether it models samples given their class; then `losses` gets `labels` (B,), and `decode` too.
    `reads_features`: whether it sees samples through the solver's features, and shares the solver's loss.
    `gated_by_task`: whether a sample passes gates of its task; `tasks_of` tells which.
    `tells_likelihood`: whether it knows how likely a sample is in each class.
    """

    spec: SampleSpec
    conditional: bool = False
    reads_features: ClassVar[bool] = False
    gated_by_task: bool = False
    class_likelihood: ClassVar[Literal["none", "estimated", "exact"]] = "none"
    learned_classes: Tensor  # bool (U,), of conditional ones: the classes that were learnt

    @abstractmethod
    def latent_noise(self, num_samples: int) -> dict[str, NoiseSpec]:
        """The noise that `decode` turns into `num_samples` samples."""

    @abstractmethod
    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        """Noise to samples (N, *spec.shape). Pure: same parameters and noise, same samples."""

    @abstractmethod
    def training_noise(self, batch_size: int) -> dict[str, NoiseSpec]:
        """The noise of one training step on `batch_size` samples."""

    @abstractmethod
    def objectives(self) -> dict[str, Objective]:
        """The objectives by name, in the order in which they are stepped."""

    @abstractmethod
    def losses(
        self, objective: str, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The terms of one objective, each (B,): their sum is minimised. Pure in parameters, `x` and `noise`."""

    def balanced_labels(self, num_samples: int) -> Tensor | None:
        """The classes that were met, in turn: (num_samples,); None for what is not conditional on them."""
        if not self.conditional:
            return None
        classes = self.learned_classes.nonzero().squeeze(1)
        classes = (
            classes if len(classes) else torch.arange(len(self.learned_classes), device=self.learned_classes.device)
        )
        return classes[torch.arange(num_samples, device=classes.device) % len(classes)]

    def mark_learned(self, classes: Tensor) -> None:
        """Take note of classes, bool (U,), that were learnt."""
        if self.conditional:
            self.learned_classes |= classes

    def gating_tasks(self, latent: Mapping[str, Tensor]) -> Tensor:
        """The task (N,) through whose gates `decode` takes each sample."""
        raise TypeError(f"{type(self).__name__} has no gates of tasks")

    def restrict_to(self, classes: Sequence[int]) -> None:
        """Take note that only these classes will be learnt from now on, until told otherwise."""

    def log_likelihoods(self, x: Tensor) -> Tensor:
        """log p(x | class) of samples (B, ...) for each class, up to a constant of x: (B, U)."""
        raise TypeError(f"{type(self).__name__} does not tell likelihoods")

    def estimate_log_likelihoods(
        self, x: Tensor, stream: torch.Generator, num_draws: int, unit_variance: bool = False
    ) -> Tensor:
        """The same where it can only be estimated, by so many random draws from `stream`; if `unit_variance`, with
        samples around their reconstructions as Gaussians of unit variance, whatever they were in training."""
        return self.log_likelihoods(x)

    def fit_class(self, x: Tensor, label: int, stream: torch.Generator) -> None:
        """Learn the class `label` from all its samples `x` (N, *spec.shape), with randomness from `stream`."""
        raise TypeError(f"{type(self).__name__} learns by steps")

    @property
    def closed_form(self) -> bool:
        """Whether it is fitted, a class at a time, and keeps what it knows of the others: it has a `fit`."""
        return type(self).fit_class is not Generator.fit_class

    def generate(
        self,
        num_samples: int,
        device: torch.device | str | None = None,
        labels: Tensor | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Dream `num_samples` samples: (num_samples, *spec.shape) on `device`, without gradient.

        Args:
            num_samples: how many; 0 gives an empty tensor.
            device: where the result shall lie; default: where the parameters are.
            labels: wanted classes (num_samples,), for generators that are conditional on them; default: all that it
                has met, in turn.
            generator: random stream; default: torch's global one.
        """
        num_samples = index(num_samples)  # a TypeError for what is no whole number
        if num_samples < 0:
            raise ValueError(f"num_samples={num_samples}: must be at least 0")
        like = next(value for value in chain(self.parameters(), self.buffers()) if value.is_floating_point())
        home = like.device
        source = generator.device if generator is not None else home
        labels = (
            self.balanced_labels(num_samples) if labels is None else self._validated_labels(labels, num_samples, home)
        )
        latent = {
            name: (torch.randn if noise.distribution == "normal" else torch.rand)(
                noise.shape, generator=generator, device=source
            ).to(home, like.dtype)
            for name, noise in self.latent_noise(num_samples).items()
        }
        with torch.no_grad():
            x = self.decode(latent, labels)
        return x if device is None else x.to(device)

    def _validated_labels(self, labels: Tensor | Sequence[int], num_samples: int, device: torch.device) -> Tensor:
        """Labels that a caller asks for, checked."""
        wanted = torch.as_tensor(labels, device=device)
        classes = getattr(self, "learned_classes", None)
        if wanted.is_floating_point() or wanted.shape != (num_samples,):
            raise ValueError(f"labels: must be {num_samples} whole numbers, one for each sample")
        if classes is not None and num_samples and not 0 <= int(wanted.min()) <= int(wanted.max()) < len(classes):
            raise ValueError(f"labels={wanted.unique().tolist()[:9]}: must be from 0 to {len(classes) - 1}")
        return wanted.long()


class GeneratorWithoutObjectives(Generator):
    """A generator that has no losses to step down."""

    def training_noise(self, batch_size: int) -> dict[str, NoiseSpec]:
        return {}

    def objectives(self) -> dict[str, Objective]:
        return {}

    def losses(
        self, objective: str, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        raise ValueError(f"{type(self).__name__} takes no steps")


class Ensemble(GeneratorWithoutObjectives):
    """Several generators that dream in turn: the i-th sample is that of generator i modulo their number."""

    def __init__(self, members: Sequence[Generator]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.spec = members[0].spec
        self.conditional = all(member.conditional for member in members)

    def _members(self) -> list[Generator]:
        return [member for member in self.members if isinstance(member, Generator)]

    def latent_noise(self, num_samples: int) -> dict[str, NoiseSpec]:
        parts = enumerate(
            member.latent_noise(n)
            for member, n in zip(self._members(), self._samples_per_member(num_samples), strict=True)
        )
        return {f"{i}.{name}": noise for i, part in parts for name, noise in part.items()}

    def balanced_labels(self, num_samples: int) -> Tensor | None:
        if not self.conditional:
            return None
        labels = torch.empty(num_samples, dtype=torch.long, device=self._members()[0].learned_classes.device)
        for i, (member, number) in enumerate(zip(self._members(), self._samples_per_member(num_samples), strict=True)):
            labels[i :: len(self.members)] = cast(Tensor, member.balanced_labels(number))
        return labels

    def _samples_per_member(self, number: int) -> list[int]:
        return [len(range(i, number, len(self.members))) for i in range(len(self.members))]

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        parts = []
        for i, member in enumerate(self._members()):
            mine = {name.split(".", 1)[1]: noise for name, noise in latent.items() if name.startswith(f"{i}.")}
            number = len(next(iter(mine.values())))
            asked = member.balanced_labels(number) if labels is None else labels[i :: len(self.members)]
            parts.append(member.decode(mine, asked))
        whole = parts[0].new_empty((sum(map(len, parts)), *self.spec.shape))
        for i, part in enumerate(parts):
            whole[i :: len(parts)] = part
        return whole
