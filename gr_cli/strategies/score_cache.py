"""Scores of test samples that are kept between evaluations."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from torch import Tensor

_MAX_BYTES = 256 << 20


class ScoreCache:
    """Tensors by key, up to a memory limit; beyond it, what is not stored is computed each time."""

    def __init__(self) -> None:
        self._scores: dict[Hashable, Tensor] = {}
        self._free_bytes = _MAX_BYTES

    def get(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor of a key; equal keys must stand for equal values of `compute`."""
        if key in self._scores:
            return self._scores[key]
        scores = compute()
        if scores.nbytes <= self._free_bytes:
            self._scores[key] = scores
            self._free_bytes -= scores.nbytes
        return scores
