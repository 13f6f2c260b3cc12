"""Samples of batches, read from their stores: from memory-mapped ones by a thread, ahead of the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Samples
from gr_cli.system.mapping import is_mapped

Block = TypeVar("Block")

_MAX_READ_BYTES = 16 << 20  # of stored samples that are read at once
_MAX_GATHERED_VALUES = 1 << 17  # of samples in memory, gathered at once: 512 KiB of float32, which stay in cache


def max_iterations(trains: Sequence[Samples], batch_size: int) -> int | None:
    """The number of iterations that a block may have, where samples are memory-mapped, else None."""
    if not _any_mapped(trains):
        return None
    return max(1, _MAX_READ_BYTES // (batch_size * sum(train.store[:1].nbytes for train in trains)))


def read_blocks(
    blocks: Iterator[Block], trains: Sequence[Samples], rows_of: Callable[[Block], Tensor]
) -> Iterator[tuple[Block, Iterator[Tensor]]]:
    """For each block of iterations the samples of each iteration, (R, B, *shape), as floats.

    Args:
        blocks: Endless blocks. Where samples are memory-mapped, the next one is read while one is trained on.
        trains: Training samples of each of R runs.
        rows_of: The rows of the store for each iteration of a block, (length, R, B).
    """
    shares_store = all(train.store is trains[0].store and train.transform is None for train in trains)
    if not _any_mapped(trains):
        for block in blocks:
            yield block, _values_at_rows(rows_of(block), trains, shares_store)
        return
    pending: tuple[Block, Future[list[Tensor]]] | None = None
    with ThreadPoolExecutor(1, "samples") as pool:
        for block in blocks:
            following = block, pool.submit(_raw_at_rows, rows_of(block), trains, shares_store)
            if pending is not None:
                yield pending[0], _values_from_raw(pending[1].result(), trains, shares_store)
            pending = following


def _any_mapped(trains: Sequence[Samples]) -> bool:
    return any(is_mapped(train.store) for train in trains)


def _values_at_rows(rows: Tensor, trains: Sequence[Samples], shares_store: bool) -> Iterator[Tensor]:
    """The samples of each iteration at `rows` (length, R, B); those of several small batches are gathered at once."""
    gathered = max(1, _MAX_GATHERED_VALUES // max(1, rows[0].numel() * trains[0].store[0].numel()))
    for part in rows.split(gathered):
        if shares_store:
            yield from trains[0].values_at_rows(part).unbind()
        else:
            of_runs = [train.values_at_rows(r.flatten()) for train, r in zip(trains, part.unbind(1), strict=True)]
            yield from torch.stack([x.unflatten(0, part[:, 0].shape) for x in of_runs], 1).unbind()


def _raw_at_rows(rows: Tensor, trains: Sequence[Samples], shares_store: bool) -> list[Tensor]:
    """Stored samples at `rows` (length, R, B): those of all runs together, or of each run."""
    if shares_store:
        return [trains[0].raw_at_rows(rows)]
    return [train.raw_at_rows(rows[:, replica]) for replica, train in enumerate(trains)]


def _values_from_raw(stored: list[Tensor], trains: Sequence[Samples], shares_store: bool) -> Iterator[Tensor]:
    """The samples of each iteration from what `_raw_at_rows` read."""
    for raw in zip(*stored, strict=True):
        if shares_store:
            yield trains[0].from_raw(raw[0])
        else:
            yield torch.stack([train.from_raw(x) for train, x in zip(trains, raw, strict=True)])
