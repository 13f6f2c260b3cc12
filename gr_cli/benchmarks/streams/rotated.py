"""Rotated streams: every task has the same images rotated by another angle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import radians

import torch
import torch.nn.functional as F
from torch import Tensor

from gr_cli.benchmarks.base import Benchmark
from gr_cli.benchmarks.sources.base import Source
from gr_cli.benchmarks.sources.load import load_dataset
from gr_cli.benchmarks.streams.transforms import image_shape, transformed_tasks
from gr_cli.config.arguments import validate_arguments
from gr_cli.errors import ConfigError
from gr_cli.nn.random_streams import RandomStreams
from gr_cli.types import FractionBelowOne, PositiveInt


@dataclass(frozen=True)
class Rotate:
    """Rotates images about their centre by bilinear interpolation; pixels from outside are 0.

    Attributes:
        grid: Sampling position of each pixel, (1, H, W, 2); x and y from -1 to 1.
        value_range: Range (low, high) that interpolated values are clamped to; None: no clamping.
    """

    grid: Tensor
    value_range: tuple[float, float] | None = None

    @classmethod
    def from_angle(
        cls, angle: float, height: int, width: int, value_range: tuple[float, float] | None = None
    ) -> Rotate:
        """Rotation by `angle` degrees, counter-clockwise."""
        # In double precision, so that rotations by 90 degrees hit the pixels exactly.
        radians_ = torch.tensor(radians(angle), dtype=torch.float64)
        y = torch.arange(height, dtype=torch.float64).unsqueeze(1) - (height - 1) / 2
        x = torch.arange(width, dtype=torch.float64).unsqueeze(0) - (width - 1) / 2
        from_x, from_y = x * radians_.cos() - y * radians_.sin(), x * radians_.sin() + y * radians_.cos()
        grid = torch.stack([from_x * 2 / width, from_y * 2 / height], -1)
        return cls(grid.unsqueeze(0).float(), value_range)

    def to(self, device: torch.device) -> Rotate:
        """The same transform with its tensors on `device`."""
        return Rotate(self.grid.to(device), self.value_range)

    def __call__(self, x: Tensor) -> Tensor:
        """Rotated images (B, C, H, W) of the same dtype."""
        grid = self.grid.expand(len(x), -1, -1, -1)
        rotated_x = F.grid_sample(x.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        if x.dtype == torch.uint8:
            return rotated_x.round_().to(torch.uint8)
        rotated_x = rotated_x.to(x.dtype)
        # Interpolated values may leave the range by rounding.
        return rotated_x if self.value_range is None else rotated_x.clamp_(*self.value_range)


@validate_arguments
def rotated(
    source: Source,
    seed: int,
    tasks: PositiveInt | None = None,
    span: float | None = None,
    angles: Sequence[float] | None = None,
    repetitions: PositiveInt = 1,
    validation_share: FractionBelowOne = 0.0,
) -> Benchmark:
    """Rotated stream: the same images in every task, rotated by an angle per task (Lopez-Paz & Ranzato 2017).

    All tasks share the stored images, which are rotated when a batch is read.

    Args:
        source: Data set of images.
        seed: Seed of the validation split.
        tasks: Number of tasks; null: 10. Excludes `angles`.
        span: Degrees over which the angles are spread evenly, counter-clockwise from 0, without the end point, so that
            360 rotates no two tasks alike; null: 180. Excludes `angles`.
        angles: Degrees of each task, instead of `tasks` and `span`.
        repetitions: Rounds through all tasks. Each round has other training samples; the samples of each class are
            divided evenly among the rounds.
        validation_share: Share of each class's training samples that is held out for validation. 0: none.
    """
    data = load_dataset(source)
    shape = image_shape(data, "rotated")
    for name, value in (("tasks", tasks), ("span", span)):
        if angles is not None and value is not None:
            raise ConfigError(f"benchmark.{name}", value, "can't be combined with benchmark.angles", "leave it out")
    span, tasks = 180.0 if span is None else span, tasks or 10
    task_angles = [i * span / tasks for i in range(tasks)] if angles is None else list(angles)
    if not task_angles or len({angle % 360 for angle in task_angles}) < len(task_angles):
        if angles is None:
            raise ConfigError("benchmark.span", span, "would rotate two tasks alike", "try benchmark.span=180")
        raise ConfigError("benchmark.angles", task_angles, "must name at least one angle, and each once")
    views = [
        (f"{angle:.6g} degrees", Rotate.from_angle(angle, *shape[1:], data.spec.value_range)) for angle in task_angles
    ]
    return transformed_tasks(data, views, shape, validation_share, RandomStreams(seed), repetitions)
