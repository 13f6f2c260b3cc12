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

from gr_cli.nn.random_streams import Noise
from gr_cli.nn.sample_spec import SampleSpec


@dataclass(frozen=True)
class Part:
    """One objective of a generator and the parameters that follow it (a VAE has one, a GAN two).

    `every`: it takes a step on every so-many-th update of the generator.
    """

    parameters: tuple[nn.Parameter, ...]
    every: int = 1


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
    tells_likelihood: ClassVar[Literal["no", "estimated", "exactly"]] = "no"
    known: Tensor  # bool (U,), of conditional ones: the classes that were learnt

    @abstractmethod
    def latent(self, num_samples: int) -> dict[str, Noise]:
        """The noise that `decode` turns into `num_samples` samples."""

    @abstractmethod
    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        """Noise to samples (N, *spec.shape). Pure: same parameters and noise, same samples."""

    @abstractmethod
    def noise(self, batch_size: int) -> dict[str, Noise]:
        """The noise of one training step on `batch_size` samples."""

    @abstractmethod
    def parts(self) -> dict[str, Part]:
        """The objectives by name, in the order in which they are stepped."""

    @abstractmethod
    def losses(
        self, part: str, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The terms of one objective, each (B,): their sum is minimised. Pure in parameters, `x` and `noise`."""

    def turns(self, num_samples: int) -> Tensor | None:
        """The classes that were met, in turn: (num_samples,); None for what is not conditional on them."""
        if not self.conditional:
            return None
        classes = self.known.nonzero().squeeze(1)
        classes = classes if len(classes) else torch.arange(len(self.known), device=self.known.device)
        return classes[torch.arange(num_samples, device=classes.device) % len(classes)]

    def meet(self, classes: Tensor) -> None:
        """Take note of classes, bool (U,), that were learnt."""
        if self.conditional:
            self.known |= classes

    def tasks_of(self, latent: Mapping[str, Tensor]) -> Tensor:
        """The task (N,) through whose gates `decode` takes each sample."""
        raise TypeError(f"{type(self).__name__} has no gates of tasks")

    def focus(self, classes: Sequence[int]) -> None:
        """Take note that only these classes will be learnt from now on, until told otherwise."""

    def log_likelihoods(self, x: Tensor) -> Tensor:
        """log p(x | class) of samples (B, ...) for each class, up to a constant of x: (B, U)."""
        raise TypeError(f"{type(self).__name__} does not tell likelihoods")

    def estimated(self, x: Tensor, stream: torch.Generator, draws: int, unit_variance: bool = False) -> Tensor:
        """The same where it can only be estimated, by so many random draws from `stream`; if `unit_variance`, with
        samples around their reconstructions as Gaussians of unit variance, whatever they were in training."""
        return self.log_likelihoods(x)

    def fit(self, x: Tensor, label: int, stream: torch.Generator) -> None:
        """Learn the class `label` from all its samples `x` (N, *spec.shape), with randomness from `stream`."""
        raise TypeError(f"{type(self).__name__} learns by steps")

    @property
    def fitted(self) -> bool:
        """Whether it is fitted, a class at a time, and keeps what it knows of the others: it has a `fit`."""
        return type(self).fit is not Generator.fit

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
        labels = self.turns(num_samples) if labels is None else self._wanted(labels, num_samples, home)
        latent = {
            name: (torch.randn if noise.kind == "normal" else torch.rand)(
                noise.shape, generator=generator, device=source
            ).to(home, like.dtype)
            for name, noise in self.latent(num_samples).items()
        }
        with torch.no_grad():
            x = self.decode(latent, labels)
        return x if device is None else x.to(device)

    def _wanted(self, labels: Tensor | Sequence[int], num_samples: int, device: torch.device) -> Tensor:
        """Labels that a caller asks for, checked."""
        wanted = torch.as_tensor(labels, device=device)
        classes = getattr(self, "known", None)
        if wanted.is_floating_point() or wanted.shape != (num_samples,):
            raise ValueError(f"labels: must be {num_samples} whole numbers, one for each sample")
        if classes is not None and num_samples and not 0 <= int(wanted.min()) <= int(wanted.max()) < len(classes):
            raise ValueError(f"labels={wanted.unique().tolist()[:9]}: must be from 0 to {len(classes) - 1}")
        return wanted.long()


class WithoutSteps(Generator):
    """A generator that has no losses to step down."""

    def noise(self, batch_size: int) -> dict[str, Noise]:
        return {}

    def parts(self) -> dict[str, Part]:
        return {}

    def losses(
        self, part: str, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        raise ValueError(f"{type(self).__name__} takes no steps")


class Ensemble(WithoutSteps):
    """Several generators that dream in turn: the i-th sample is that of generator i modulo their number."""

    def __init__(self, members: Sequence[Generator]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.spec = members[0].spec
        self.conditional = all(member.conditional for member in members)

    def _each(self) -> list[Generator]:
        return [member for member in self.members if isinstance(member, Generator)]

    def latent(self, num_samples: int) -> dict[str, Noise]:
        parts = enumerate(member.latent(n) for member, n in zip(self._each(), self._turns(num_samples), strict=True))
        return {f"{i}.{name}": noise for i, part in parts for name, noise in part.items()}

    def turns(self, num_samples: int) -> Tensor | None:
        if not self.conditional:
            return None
        labels = torch.empty(num_samples, dtype=torch.long, device=self._each()[0].known.device)
        for i, (member, number) in enumerate(zip(self._each(), self._turns(num_samples), strict=True)):
            labels[i :: len(self.members)] = cast(Tensor, member.turns(number))
        return labels

    def _turns(self, number: int) -> list[int]:
        return [len(range(i, number, len(self.members))) for i in range(len(self.members))]

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        parts = []
        for i, member in enumerate(self._each()):
            mine = {name.split(".", 1)[1]: noise for name, noise in latent.items() if name.startswith(f"{i}.")}
            number = len(next(iter(mine.values())))
            asked = member.turns(number) if labels is None else labels[i :: len(self.members)]
            parts.append(member.decode(mine, asked))
        whole = parts[0].new_empty((sum(map(len, parts)), *self.spec.shape))
        for i, part in enumerate(parts):
            whole[i :: len(parts)] = part
        return whole
