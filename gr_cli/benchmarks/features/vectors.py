"""Vectors of all images of a data set, computed in one pass and cached, in memory or memory-mapped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gr_cli.benchmarks.base import Samples
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.system.array_files import ArrayFile, ArrayPlan, BlockWriter, cached_array
from gr_cli.system.cache import Tensors, cached, is_in_memory
from gr_cli.system.mapping import Storage, is_to_be_mapped
from gr_cli.system.messages import print_status, with_progress

_BATCH = 100  # images per forward pass


def cached_vectors(
    vectors_of: Callable[[Tensor], Tensor], data: Dataset, path: Path, storage: Storage
) -> tuple[Samples, Samples]:
    """The vectors of the training and the test images.

    Args:
        vectors_of: Maps images (B, C, H, W) to float32 vectors (B, F) on the CPU.
        data: Data set of images.
        path: File of the cache, `.pt`; memory-mapped vectors lie in a file `.bin` beside it.
        storage: Whether vectors are read into memory or memory-mapped.

    Raises:
        ConfigError: The vectors don't fit on the disk.
    """
    computation = _Computation(vectors_of, data)

    def compute() -> Tensors:
        computation.print_status(path.parent)
        vectors = torch.cat(list(computation.batches(0)))
        return {"train": vectors[: len(data.train)].clone(), "test": vectors[len(data.train) :].clone()}

    def write(writer: BlockWriter) -> ArrayFile:
        computation.print_status(path.parent)
        return computation.write(writer)

    if _are_mapped(path, storage, computation):
        store = cached_array(path.with_suffix(".bin"), storage, lambda: computation.plan, write).values
        rows = torch.arange(len(store)).tensor_split([len(data.train)])
        return Samples(store, data.train.y, index=rows[0]), Samples(store, data.test.y, index=rows[1])
    vectors = cached(path, compute)
    return Samples(vectors["train"], data.train.y), Samples(vectors["test"], data.test.y)


def _are_mapped(path: Path, storage: Storage, computation: _Computation) -> bool:
    """Whether vectors lie, or are to lie, in a file that can be memory-mapped."""
    if storage != "auto":
        return storage == "mapped"
    if path.with_suffix(".bin").exists():
        return True
    if path.exists() or is_in_memory(path):
        return False
    return is_to_be_mapped(storage, computation.plan.num_bytes)


class _Computation:
    """Computes the vectors of a data set in batches, training images first."""

    def __init__(self, vectors_of: Callable[[Tensor], Tensor], data: Dataset) -> None:
        self._vectors_of, self._num_images = vectors_of, len(data.train) + len(data.test)
        self._batches = [
            (split, index)
            for split in (data.train, data.test)
            for index in torch.arange(len(split), device=split.y.device).split(_BATCH)
        ]
        self._first_batch = lru_cache(lambda: self._vectors(0))  # its width is needed before all others are computed

    @property
    def plan(self) -> ArrayPlan:
        """The array of all vectors."""
        shape = (self._num_images, self._first_batch().shape[1])
        contents = f"features of {self._num_images:,} images"
        return ArrayPlan(shape, np.dtype(np.float32), contents, "choose a network with fewer outputs")

    def print_status(self, folder: Path) -> None:
        print_status(f"computing features of {self._num_images:,} images; they are cached in {folder}")

    def batches(self, first: int) -> Iterator[Tensor]:
        """The vectors of each batch, from batch `first` on."""
        numbers = range(first, len(self._batches))
        for number in with_progress(numbers, len(numbers), f"batches of {_BATCH} images"):
            yield self._vectors(number) if number else self._first_batch()

    def _vectors(self, number: int) -> Tensor:
        split, index = self._batches[number]
        return self._vectors_of(split.batch(index)[0])

    def write(self, writer: BlockWriter) -> ArrayFile:
        """Append all vectors to `writer`, after those that it has."""
        per_block = max(1, writer.rows_per_block // _BATCH)
        pending: list[Tensor] = []
        for batch in self.batches(len(writer.records) * per_block):
            pending.append(batch)
            if len(pending) == per_block:
                writer.append(torch.cat(pending).numpy())
                pending = []
        if pending:
            writer.append(torch.cat(pending).numpy())
        return writer.finish({})
