"""Input normalisation of the solver: mean and standard deviation of each channel. Generators get raw samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Samples
from gr_cli.errors import ConfigError
from gr_cli.nn.normalization import ChannelMoments
from gr_cli.nn.sample_spec import SampleSpec


def input_moments(
    setting: str | Sequence[Sequence[float]] | None, spec: SampleSpec, first_task_samples: Samples | None
) -> ChannelMoments | None:
    """The moments for a value of the setting `normalise`.

    Args:
        setting: `first_task`, or [means, deviations] with one number per channel, or None.
        spec: Specification of the samples.
        first_task_samples: Training samples of the first task. Without them: moments that change nothing, for networks
            whose saved moments will be loaded.

    Raises:
        ConfigError: Numbers don't fit the channels.
    """
    if setting is None:
        return None
    size = spec.shape[0]
    if isinstance(setting, str):
        mean, deviation = (
            ([0.0] * size, [1.0] * size) if first_task_samples is None else channel_moments(first_task_samples)
        )
        return ChannelMoments(mean, deviation, len(spec.shape))
    mean, deviation = ([float(value) for value in values] for values in setting)
    if not len(mean) == len(deviation) == size or min(deviation) <= 0:
        raise ConfigError(
            "normalise",
            [list(values) for values in setting],
            f"must be [means, deviations], one number for each of {size} channels, deviations above 0",
            "try normalise=first_task",
        )
    return ChannelMoments(mean, deviation, len(spec.shape))


def channel_moments(samples: Samples) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, or of each vector entry. Constant channels get a deviation of 1."""
    sums: list[Tensor] = []
    count = 0
    for x, _ in samples.batches():
        by_channel = x.double().transpose(0, 1).flatten(1)  # (C, n)
        sums.append(torch.stack([by_channel.sum(1), by_channel.square().sum(1)]))
        count += by_channel.shape[1]
    mean, square = torch.stack(sums).sum(0) / count
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    # A channel that varies by no more than rounding errors is constant.
    deviation = torch.where(deviation > 1e-6 * square.sqrt(), deviation, 1.0)
    return mean.tolist(), deviation.tolist()
