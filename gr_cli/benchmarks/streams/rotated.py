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
    """Turns images about their centre; what comes from outside is 0.

    `grid` (1, H, W, 2): where each pixel is looked up, between the pixels bilinearly; x and y from -1 to 1.
    `value_range`: what values stay in, to the last digit.
    """

    grid: Tensor
    value_range: tuple[float, float] | None = None

    @classmethod
    def from_angle(
        cls, angle: float, height: int, width: int, value_range: tuple[float, float] | None = None
    ) -> Rotate:
        """By `angle` degrees, counter-clockwise."""
        # In double precision, so that quarter turns hit the pixels.
        turn = torch.tensor(radians(angle), dtype=torch.float64)
        y = torch.arange(height, dtype=torch.float64).unsqueeze(1) - (height - 1) / 2
        x = torch.arange(width, dtype=torch.float64).unsqueeze(0) - (width - 1) / 2
        from_x, from_y = x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos()
        grid = torch.stack([from_x * 2 / width, from_y * 2 / height], -1)
        return cls(grid.unsqueeze(0).float(), value_range)

    def to(self, device: torch.device) -> Rotate:
        """The same view for samples on `device`."""
        return Rotate(self.grid.to(device), self.value_range)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W), of the same type."""
        grid = self.grid.expand(len(x), -1, -1, -1)
        found = F.grid_sample(x.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        if x.dtype == torch.uint8:
            return found.round_().to(torch.uint8)
        found = found.to(x.dtype)
        # A mean of values lies between them but for rounding.
        return found if self.value_range is None else found.clamp_(*self.value_range)


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
    """The same images in every task, turned by an angle of the task's own.

    Args:
        source: where the samples come from.
        seed: of what is held out.
        tasks: how many tasks, which share the stored images; default: 10.
        span: degrees over which their angles are spread evenly, counter-clockwise from 0; its end is not reached, so
            that 360 makes no task twice; default: 180.
        angles: the degrees of each task, instead of `tasks` and `span`.
        rounds: how often all tasks come, each time with other samples: each class's training samples are dealt out
            evenly.
        validation_share: part of each class's training samples that is held out for validation.
    """
    data = load_dataset(source)
    shape = image_shape(data, "rotated")
    for name, value in (("tasks", tasks), ("span", span)):
        if angles is not None and value is not None:
            raise ConfigError(
                f"benchmark.{name}", value, "stands beside benchmark.angles, which says both", "leave it out"
            )
    span, tasks = 180.0 if span is None else span, tasks or 10
    wanted = [i * span / tasks for i in range(tasks)] if angles is None else list(angles)
    if not wanted or len({angle % 360 for angle in wanted}) < len(wanted):
        if angles is None:
            raise ConfigError("benchmark.span", span, "would turn two tasks alike", "try benchmark.span=180")
        raise ConfigError("benchmark.angles", wanted, "must name at least one angle, and each once")
    views = [(f"{angle:.6g} degrees", Rotate.from_angle(angle, *shape[1:], data.spec.value_range)) for angle in wanted]
    return transformed_tasks(data, views, shape, validation_share, RandomStreams(seed), repetitions)
