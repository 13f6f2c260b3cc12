"""What a sample is: its shape, the values it holds, how likely they are under a decoder, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from gr_cli.nn.losses import bernoulli_nll, gaussian_nll

_MAX_PREVIEW_VALUES = 64  # values of a vector, at most, for which there is room in a picture


def as_floats(stored: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Samples as networks get them, from stored ones: bytes are scaled to [0, 1], floats stay as they are."""
    return stored.to(dtype).div_(255) if stored.dtype == torch.uint8 else stored


@dataclass(frozen=True)
class SampleSpec:
    """What one sample is: numbers of one range, followed, in a table, by categories as one-hot codes.

    Bounded numbers have a Bernoulli likelihood, or a binomial one of several `trials`; unbounded ones a Gaussian of
    unit variance; categories a categorical one.

    Attributes:
        shape: of one sample: (C, H, W) of images, (D,) of vectors.
        value_range: (low, high) in which the numbers lie; None: anywhere.
        trials: a bounded number is the fraction of so many binary pixels that are on.
        categories: of a table: sizes of the one-hot codes in which its vectors end, in their order. A vector (D,) with
            `categories=(3, 2)` is D - 5 numbers, a code of three categories and one of two.
        names: of the values of a vector, for pictures; empty: they have none.
    """

    shape: tuple[int, ...] = (784,)
    value_range: tuple[float, float] | None = (0.0, 1.0)
    binomial_trials: int = 1
    categories: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Lists become tuples, so that equal specifications are equal, whether from a file or from Python.
        object.__setattr__(self, "shape", tuple(self.shape))
        object.__setattr__(self, "categories", tuple(self.categories))
        object.__setattr__(self, "names", tuple(self.names))
        if self.categories and (len(self.shape) != 1 or min(self.categories) < 2 or self.num_numeric < 0):
            raise ValueError(f"categories={self.categories}: must be sizes from 2 on of codes within {self.shape}")
        if self.names and self.shape != (len(self.names),):
            raise ValueError(f"names: must be {prod(self.shape)}, one for each value of a vector")

    @classmethod
    def coerce(cls, spec: SampleSpec | Sequence[int]) -> SampleSpec:
        """`spec`; a shape alone stands for samples with values in [0, 1]."""
        return spec if isinstance(spec, SampleSpec) else cls(tuple(spec))

    @property
    def size(self) -> int:
        """Number of values of a sample."""
        return prod(self.shape)

    @property
    def num_numeric(self) -> int:
        """Number of those values that are no part of a code."""
        return self.size - sum(self.categories)

    @property
    def is_image(self) -> bool:
        """Whether samples are images (C, H, W)."""
        return len(self.shape) == 3

    # --- values

    def to_unit_range(self, x: Tensor) -> Tensor:
        """Samples (..., *shape) as their likelihood models them: bounded numbers in [0, 1], the others as they are."""
        if self.value_range in (None, (0.0, 1.0)):
            return x
        low, high = self.value_range
        return self._map_segments(x, lambda numbers: (numbers - low) / (high - low))

    def from_unit_range(self, x: Tensor) -> Tensor:
        """Samples of what `scaled` makes of them."""
        if self.value_range in (None, (0.0, 1.0)):
            return x
        low, high = self.value_range
        return self._map_segments(x, lambda numbers: low + (high - low) * numbers)

    def expected_sample(self, decoder_output: Tensor) -> Tensor:
        """Expected sample (..., *shape) under the likelihood whose parameters a decoder gave: logits of bounded numbers
        and of categories, means of unbounded numbers."""
        numbers = torch.sigmoid if self.value_range is not None else _unchanged
        return self.from_unit_range(self._map_segments(decoder_output, numbers, lambda code: code.softmax(-1)))

    def point_estimate(self, decoder_output: Tensor) -> Tensor:
        """The sample for what a decoder gave: of each category the likeliest, of numbers the expected ones."""
        x = self.expected_sample(decoder_output)
        return self._map_segments(x, _unchanged, _one_hot) if self.categories else x

    def nearest_valid(self, x: Tensor) -> Tensor:
        """The sample that is nearest to any values (..., *shape): numbers in their range, codes one-hot."""
        if self.value_range is None and not self.categories:
            return x
        low_high = self.value_range
        return self._map_segments(x, _unchanged if low_high is None else lambda v: v.clamp(*low_high), _one_hot)

    def to_symmetric_range(self, x: Tensor) -> Tensor:
        """Samples with bounded numbers and codes in [-1, 1], unbounded numbers as they are."""
        numbers = _unchanged if self.value_range is None else _to_symmetric
        return self._map_segments(self.to_unit_range(x), numbers, _to_symmetric)

    def from_symmetric_range(self, x: Tensor) -> Tensor:
        """Samples of what `centred` makes of them, the nearest where there is none."""
        numbers = _unchanged if self.value_range is None else _from_symmetric
        return self.nearest_valid(self.from_unit_range(self._map_segments(x, numbers, _from_symmetric)))

    # --- likelihood

    def negative_log_likelihood(self, decoder_output: Tensor, target: Tensor, unit_variance: bool = False) -> Tensor:
        """-log p(x) per value up to a constant, (..., *shape) -> (...).

        Args:
            out: what a decoder gave, as for `mean`.
            scaled: the samples, as `scaled` makes them.
            unit_variance: bounded numbers, too, are Gaussian, of unit variance around their means.
        """
        axes = len(self.shape)
        decoder_output, target = decoder_output.to(target.dtype).flatten(-axes), target.flatten(-axes)
        if not self.categories:
            return self._numeric_nll(decoder_output, target, unit_variance)
        total = target.new_zeros(())
        for (start, stop), numbers in self._segments():
            mine, theirs = decoder_output[..., start:stop], target[..., start:stop]
            if numbers:
                total = total + (stop - start) * self._numeric_nll(mine, theirs, unit_variance)
            else:
                total = total - (theirs * mine.log_softmax(-1)).sum(-1)
        return total / self.size

    def _numeric_nll(self, out: Tensor, target: Tensor, unit_variance: bool) -> Tensor:
        if self.value_range is None:
            return gaussian_nll(out, target)
        if unit_variance:
            return gaussian_nll(out.sigmoid(), target)
        return self.binomial_trials * bernoulli_nll(out, target)

    # --- preview

    @property
    def has_preview(self) -> bool:
        """Whether samples are shown in pictures: images are, and vectors that are not too long."""
        return self.is_image or (len(self.shape) == 1 and self.size <= _MAX_PREVIEW_VALUES)

    def preview(self, x: Tensor) -> Tensor:
        """Samples (N, *shape) as pictures (N, 1 or 3, H, W) in [0, 1].

        Images become grey, the mean of their channels, unless these are three; values are clipped to the range of all.
        A vector becomes a row of values, each between the lowest and the highest of all samples.
        """
        tiles = x.detach().cpu().float()
        if not self.is_image:
            tiles = tiles.flatten(1)
            low, high = tiles.aminmax(dim=0)
            return ((tiles - low) / (high - low).clamp(min=1e-12)).view(len(tiles), 1, 1, -1)
        if tiles.shape[1] not in (1, 3):
            tiles = tiles.mean(1, keepdim=True)
        low, high = tiles.aminmax()
        return ((tiles - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)

    # --- the parts of a sample

    def _segments(self) -> list[tuple[tuple[int, int], bool]]:
        """Where the values of each part of a vector start and stop, and whether they are numbers: at most one is."""
        edges = pairwise(accumulate(self.categories, initial=self.num_numeric))
        return [((0, self.num_numeric), True)] * (self.num_numeric > 0) + [(edge, False) for edge in edges]

    def _map_segments(
        self, x: Tensor, of_numbers: Callable[[Tensor], Tensor], of_code: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Numbers and codes of `x` (..., *shape), each changed by their function; None: codes stay as they are."""
        if not self.categories:
            return of_numbers(x)
        of_code = of_code or _unchanged
        return torch.cat(
            [(of_numbers if numbers else of_code)(x[..., start:stop]) for (start, stop), numbers in self._segments()],
            -1,
        )


def _unchanged(x: Tensor) -> Tensor:
    return x


def _to_symmetric(x: Tensor) -> Tensor:
    return 2.0 * x - 1.0


def _from_symmetric(x: Tensor) -> Tensor:
    return 0.5 * (x + 1.0)


def _one_hot(code: Tensor) -> Tensor:
    """The code (..., K) of the category with the largest value."""
    return F.one_hot(code.argmax(-1), code.shape[-1]).to(code.dtype)
