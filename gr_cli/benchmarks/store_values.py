"""Values of stores, read once in blocks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from gr_cli.system.cache import row_blocks
from gr_cli.system.mapping import is_mapped

_extremes: WeakIdKeyDictionary = WeakIdKeyDictionary()


class Extremes(NamedTuple):
    """Lowest and highest value of a store; NaN if any value is NaN."""

    low: float
    high: float


def extremes(store: Tensor) -> Extremes:
    """The extremes of a store (N, ...); computed once if it is memory-mapped, and therefore does not change."""
    if store in _extremes:
        values: Extremes = _extremes[store]
        return values
    lows, highs = zip(*(torch.aminmax(block) for block in row_blocks(store)), strict=True)
    values = Extremes(torch.stack(lows).min().item(), torch.stack(highs).max().item())
    if is_mapped(store):
        _extremes[store] = values
    return values


def is_zero_or_one(store: Tensor) -> bool:
    """Whether no value of a store of bytes is above 1; reads no more than shows that one is."""
    return all(int(block.max()) <= 1 for block in row_blocks(store))
