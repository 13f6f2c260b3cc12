from __future__ import annotations

import math

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Samples
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.nn.random_streams import RandomStreams, StreamNames
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.types import NonNegativeInt, PositiveInt

_BATCH = 1000  # images drawn at once


class SyntheticGlyphs:
    """Made-up characters: each class is a line through random points, its samples are shaky drawings of it.

    For pretraining where no other data set is at hand: drawn by the program, they are nobody's data.

    Args:
        classes: how many characters.
        per_class: drawings of each for training; a tenth of that for testing.
        size: pixels of an image each way.
        glyphs_seed: of all that is random.
    """

    def __init__(
        self,
        classes: PositiveInt = 50,
        per_class: PositiveInt = 400,
        size: PositiveInt = 28,
        glyphs_seed: NonNegativeInt = 0,
    ) -> None:
        self.classes, self.per_class, self.size, self.draws = classes, per_class, size, RandomStreams(glyphs_seed)

    def load(self) -> Dataset:
        points = 1.4 * self.draws.draw("uniform", StreamNames.GLYPH_STROKES, shape=(self.classes, 5, 2)) - 0.7
        parts = [
            self._drawings(points, number, i) for i, number in enumerate((self.per_class, -(-self.per_class // 10)))
        ]
        spec = SampleSpec((1, self.size, self.size))
        return Dataset(parts[0], parts[1], tuple(f"glyph {i}" for i in range(self.classes)), spec)

    def _drawings(self, points: Tensor, number: int, split_index: int) -> Samples:
        y = torch.arange(self.classes).repeat(number)
        noise = self.draws.draw("normal", StreamNames.GLYPH_POINTS, split_index, shape=(len(y), *points.shape[1:]))
        turn, stretch, thickness = self.draws.draw(
            "uniform", StreamNames.GLYPH_DISTORTION, split_index, shape=(3, len(y))
        )
        angle, scale = 0.5 * (turn - 0.5), 0.8 + 0.4 * stretch
        rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
        shaken = (points[y] + 0.08 * noise) @ rotation * scale.view(-1, 1, 1)
        width = (0.04 + 0.06 * thickness) * max(1.0, 14 / self.size)
        images = [
            _render_strokes(p, w, self.size) for p, w in zip(shaken.split(_BATCH), width.split(_BATCH), strict=True)
        ]
        return Samples(torch.cat(images), y)


def _render_strokes(points: Tensor, width: Tensor, size: int) -> Tensor:
    """Lines through points (B, P, 2) in [-1, 1] of some widths (B,), as grey bytes (B, 1, size, size)."""
    across = (torch.arange(size) + 0.5) * 2 / size - 1
    pixels = torch.stack(torch.meshgrid(across, across, indexing="ij"), -1).view(1, -1, 2)
    nearest = torch.full((len(points), size * size), math.inf)
    for start, end in zip(points.unbind(1), points.unbind(1)[1:], strict=False):
        along = (end - start).unsqueeze(1)  # (B, 1, 2)
        away = pixels - start.unsqueeze(1)
        part = ((away * along).sum(-1) / along.square().sum(-1).clamp(min=1e-6)).clamp(0, 1)
        nearest = torch.minimum(nearest, (away - part.unsqueeze(-1) * along).square().sum(-1))
    ink = (-0.5 * nearest / width.square().unsqueeze(1)).exp()
    return (255 * ink).round().to(torch.uint8).view(-1, 1, size, size)
