"""Sample specification: shape, range, likelihood and preview of samples."""

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
_LINE_PICTURE = (32, 60)  # height and width in pixels of a time series


def as_floats(stored: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Stored samples as floats: bytes are scaled to [0, 1], floats are kept."""
    return stored.to(dtype).div_(255) if stored.dtype == torch.uint8 else stored


@dataclass(frozen=True)
class SampleSpec:
    """Specification of a sample: numeric values of one range, followed, in tables, by one-hot categories.

    Bounded numeric values have a Bernoulli likelihood, or a binomial one; unbounded ones a Gaussian likelihood of unit
    variance; categories a categorical one.

    Attributes:
        shape: Shape of a sample: (C, H, W) of images, (C, L) of time series, (D,) of vectors.
        value_range: Range (low, high) of numeric values; None: unbounded.
        binomial_trials: Number of binary trials per bounded value, which is the fraction of successes; 1: Bernoulli.
        categories: Sizes of the one-hot codes at the end of a vector, in order. A vector (D,) with
            `categories=(3, 2)` has D - 5 numeric values, a code of three categories and one of two.
        names: Names of a vector's values, for pictures; empty: none.
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
            raise ValueError(f"categories={self.categories}: must be sizes of at least 2 that fit into {self.shape}")
        if self.names and self.shape != (len(self.names),):
            raise ValueError(f"names: must be {prod(self.shape)} names, one for each value of a vector")

    @classmethod
    def coerce(cls, spec: SampleSpec | Sequence[int]) -> SampleSpec:
        """`spec` itself; a shape becomes the specification of values in [0, 1]."""
        return spec if isinstance(spec, SampleSpec) else cls(tuple(spec))

    @property
    def size(self) -> int:
        """Number of values of a sample."""
        return prod(self.shape)

    @property
    def num_numeric(self) -> int:
        """Number of numeric values of a sample."""
        return self.size - sum(self.categories)

    @property
    def is_image(self) -> bool:
        """Whether samples are images (C, H, W)."""
        return len(self.shape) == 3

    # --- values

    def to_unit_range(self, x: Tensor) -> Tensor:
        """Samples (..., *shape) with bounded values scaled to [0, 1], as their likelihood models them."""
        if self.value_range in (None, (0.0, 1.0)):
            return x
        low, high = self.value_range
        return self._map_segments(x, lambda numbers: (numbers - low) / (high - low))

    def from_unit_range(self, x: Tensor) -> Tensor:
        """The inverse of `to_unit_range`."""
        if self.value_range in (None, (0.0, 1.0)):
            return x
        low, high = self.value_range
        return self._map_segments(x, lambda numbers: low + (high - low) * numbers)

    def expected_sample(self, decoder_output: Tensor) -> Tensor:
        """The expected sample (..., *shape) under the likelihood.

        Args:
            decoder_output: Parameters of the likelihood (..., *shape): logits of bounded values and of categories,
                means of unbounded values.
        """
        numbers = torch.sigmoid if self.value_range is not None else _unchanged
        return self.from_unit_range(self._map_segments(decoder_output, numbers, lambda code: code.softmax(-1)))

    def point_estimate(self, decoder_output: Tensor) -> Tensor:
        """The sample for a decoder's output: expected numeric values, most likely categories."""
        x = self.expected_sample(decoder_output)
        return self._map_segments(x, _unchanged, _one_hot) if self.categories else x

    def nearest_valid(self, x: Tensor) -> Tensor:
        """The valid sample nearest to `x` (..., *shape): values clipped to their range, codes one-hot."""
        if self.value_range is None and not self.categories:
            return x
        low_high = self.value_range
        return self._map_segments(x, _unchanged if low_high is None else lambda v: v.clamp(*low_high), _one_hot)

    def to_symmetric_range(self, x: Tensor) -> Tensor:
        """Samples with bounded values and codes scaled to [-1, 1]."""
        numbers = _unchanged if self.value_range is None else _to_symmetric
        return self._map_segments(self.to_unit_range(x), numbers, _to_symmetric)

    def from_symmetric_range(self, x: Tensor) -> Tensor:
        """The inverse of `to_symmetric_range`, projected to the nearest valid sample."""
        numbers = _unchanged if self.value_range is None else _from_symmetric
        return self.nearest_valid(self.from_unit_range(self._map_segments(x, numbers, _from_symmetric)))

    # --- likelihood

    def negative_log_likelihood(self, decoder_output: Tensor, target: Tensor, unit_variance: bool = False) -> Tensor:
        """-log p(x) per value up to a constant: (..., *shape) -> (...).

        Args:
            decoder_output: Parameters of the likelihood, as for `expected_sample`.
            target: The samples, scaled by `to_unit_range`.
            unit_variance: Use a Gaussian likelihood of unit variance for bounded values too.
        """
        axes = len(self.shape)
        decoder_output, target = decoder_output.to(target.dtype).flatten(-axes), target.flatten(-axes)
        if not self.categories:
            return self._numeric_nll(decoder_output, target, unit_variance)
        total = target.new_zeros(())
        for (start, stop), is_numeric in self._segments():
            segment, segment_target = decoder_output[..., start:stop], target[..., start:stop]
            if is_numeric:
                total = total + (stop - start) * self._numeric_nll(segment, segment_target, unit_variance)
            else:
                total = total - (segment_target * segment.log_softmax(-1)).sum(-1)
        return total / self.size

    def _numeric_nll(self, out: Tensor, target: Tensor, unit_variance: bool) -> Tensor:
        """Negative log-likelihood per numeric value."""
        if self.value_range is None:
            return gaussian_nll(out, target)
        if unit_variance:
            return gaussian_nll(out.sigmoid(), target)
        return self.binomial_trials * bernoulli_nll(out, target)

    # --- preview

    @property
    def has_preview(self) -> bool:
        """Whether samples can be shown in pictures: images, time series, and vectors of up to 64 values."""
        return len(self.shape) in (2, 3) or (len(self.shape) == 1 and self.size <= _MAX_PREVIEW_VALUES)

    def preview(self, x: Tensor) -> Tensor:
        """Samples (N, *shape) as pictures (N, 1 or 3, H, W) in [0, 1].

        Images with other than three channels become grey (their mean); values are scaled to the range of all samples. A
        vector becomes a row of values, each scaled to its range over all samples, a time series (C, L) a line for each
        channel, scaled alike.
        """
        tiles = x.detach().cpu().float()
        if len(self.shape) == 2:
            low, high = tiles.amin((0, 2), keepdim=True), tiles.amax((0, 2), keepdim=True)
            return _line_pictures((tiles - low) / (high - low).clamp(min=1e-12))
        if not self.is_image:
            tiles = tiles.flatten(1)
            low, high = tiles.aminmax(dim=0)
            return ((tiles - low) / (high - low).clamp(min=1e-12)).view(len(tiles), 1, 1, -1)
        if tiles.shape[1] not in (1, 3):
            tiles = tiles.mean(1, keepdim=True)
        low, high = tiles.aminmax()
        return ((tiles - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)

    # --- segments of a vector

    def _segments(self) -> list[tuple[tuple[int, int], bool]]:
        """Start and stop of each segment of a vector, and whether it is numeric; at most one is."""
        codes = pairwise(accumulate(self.categories, initial=self.num_numeric))
        return [((0, self.num_numeric), True)] * (self.num_numeric > 0) + [(code, False) for code in codes]

    def _map_segments(
        self, x: Tensor, of_numbers: Callable[[Tensor], Tensor], of_code: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """`x` (..., *shape) with functions applied to its numeric values and codes; None: codes are kept."""
        if not self.categories:
            return of_numbers(x)
        of_code = of_code or _unchanged
        return torch.cat(
            [(of_numbers if numeric else of_code)(x[..., start:stop]) for (start, stop), numeric in self._segments()],
            -1,
        )


def _line_pictures(series: Tensor) -> Tensor:
    """Time series (N, C, L) with values in [0, 1] as dark lines on white (N, 1, H, W); later channels are paler."""
    height, width = _LINE_PICTURE
    # Ends of the piece of a line in each column of pixels, from the top.
    y = (height - 1) * (1 - F.interpolate(series, width + 1, mode="linear", align_corners=True))  # (N, C, W + 1)
    top, bottom = torch.minimum(y[..., :-1], y[..., 1:]), torch.maximum(y[..., :-1], y[..., 1:])
    pixels = torch.arange(height, dtype=y.dtype).view(-1, 1)  # (H, 1)
    distance = torch.maximum(top[:, :, None] - pixels, pixels - bottom[:, :, None]).clamp(min=0)  # (N, C, H, W)
    darkness = torch.linspace(1.0, 0.4, series.shape[1]).view(-1, 1, 1)
    return 1 - ((1 - distance).clamp(min=0) * darkness).amax(1, keepdim=True)


def _unchanged(x: Tensor) -> Tensor:
    return x


def _to_symmetric(x: Tensor) -> Tensor:
    return 2.0 * x - 1.0


def _from_symmetric(x: Tensor) -> Tensor:
    return 0.5 * (x + 1.0)


def _one_hot(code: Tensor) -> Tensor:
    """The one-hot code (..., K) of the largest value."""
    return F.one_hot(code.argmax(-1), code.shape[-1]).to(code.dtype)
