"""Synthetic characters, drawn from random strokes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Samples
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.nn.random_streams import RandomStreams, StreamNames
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.types import NonNegativeInt, PositiveInt

_BATCH = 1000  # images rendered at a time


class SyntheticGlyphs:
    """Synthetic characters: a class is a random polyline, a sample a distorted drawing of it.

    For pretraining feature extractors where no other data set is at hand.

    Args:
        classes: Number of characters.
        per_class: Training drawings of each character; a tenth of that number is added for testing.
        size: Height and width in pixels.
        glyphs_seed: Seed of characters and drawings, independent of the run's seed.
    """

    def __init__(
        self,
        classes: PositiveInt = 50,
        per_class: PositiveInt = 400,
        size: PositiveInt = 28,
        glyphs_seed: NonNegativeInt = 0,
    ) -> None:
        self.classes, self.per_class, self.size, self.random_streams = (
            classes,
            per_class,
            size,
            RandomStreams(glyphs_seed),
        )

    def load(self) -> Dataset:
        points = 1.4 * self.random_streams.draw("uniform", StreamNames.GLYPH_STROKES, shape=(self.classes, 5, 2)) - 0.7
        splits = [
            self._drawings(points, number, i) for i, number in enumerate((self.per_class, -(-self.per_class // 10)))
        ]
        spec = SampleSpec((1, self.size, self.size))
        return Dataset(splits[0], splits[1], tuple(f"glyph {i}" for i in range(self.classes)), spec)

    def _drawings(self, points: Tensor, per_class: int, split_index: int) -> Samples:
        y = torch.arange(self.classes).repeat(per_class)
        noise = self.random_streams.draw(
            "normal", StreamNames.GLYPH_POINTS, split_index, shape=(len(y), *points.shape[1:])
        )
        rotation_draw, scale_draw, width_draw = self.random_streams.draw(
            "uniform", StreamNames.GLYPH_DISTORTION, split_index, shape=(3, len(y))
        )
        angle, scale = 0.5 * (rotation_draw - 0.5), 0.8 + 0.4 * scale_draw
        rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
        strokes = (points[y] + 0.08 * noise) @ rotation * scale.view(-1, 1, 1)
        width = (0.04 + 0.06 * width_draw) * max(1.0, 14 / self.size)
        images = [
            _render_strokes(p, w, self.size) for p, w in zip(strokes.split(_BATCH), width.split(_BATCH), strict=True)
        ]
        return Samples(torch.cat(images), y)


def _render_strokes(points: Tensor, width: Tensor, size: int) -> Tensor:
    """Polylines through points (B, P, 2) in [-1, 1] with widths (B,), as grey bytes (B, 1, size, size)."""
    centres = (torch.arange(size) + 0.5) * 2 / size - 1
    pixels = torch.stack(torch.meshgrid(centres, centres, indexing="ij"), -1).view(1, -1, 2)
    squared_distance = torch.full((len(points), size * size), math.inf)
    for start, end in zip(points.unbind(1), points.unbind(1)[1:], strict=False):
        segment = (end - start).unsqueeze(1)  # (B, 1, 2)
        offset = pixels - start.unsqueeze(1)
        fraction = ((offset * segment).sum(-1) / segment.square().sum(-1).clamp(min=1e-6)).clamp(0, 1)
        squared_distance = torch.minimum(squared_distance, (offset - fraction.unsqueeze(-1) * segment).square().sum(-1))
    darkness = (-0.5 * squared_distance / width.square().unsqueeze(1)).exp()
    return (255 * darkness).round().to(torch.uint8).view(-1, 1, size, size)
