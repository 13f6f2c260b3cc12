"""Batches of memory-mapped samples, read ahead, are those of samples in memory."""

import threading
from itertools import islice

import pytest
import torch

from gr_cli.benchmarks.base import Samples
from gr_cli.system.mapping import mark_as_mapped
from gr_cli.training import reading
from gr_cli.training.reading import max_iterations, read_blocks

BLOCKS = torch.randint(0, 50, (6, 3, 2, 4), generator=torch.Generator().manual_seed(0))  # (blocks, length, R, B)


def trains(kind: str, mapped: bool) -> list[Samples]:
    generator = torch.Generator().manual_seed(1)
    stores = [torch.randint(0, 256, (50, 1, 3, 3), generator=generator).to(torch.uint8) for _ in range(2)]
    if mapped:
        stores = [mark_as_mapped(store) for store in stores]
    if kind == "shared":
        stores[1] = stores[0]
    transform = (lambda x: x.flip(-1)) if kind == "transformed" else None
    return [Samples(store, torch.zeros(50, dtype=torch.int64), transform) for store in stores]


def read(kind: str, mapped: bool, replicas: int) -> list[torch.Tensor]:
    samples = trains(kind, mapped)[:replicas]
    blocks = read_blocks(iter(BLOCKS[:, :, :replicas]), samples, lambda block: block)
    return [torch.stack(list(x)) for _, x in islice(blocks, 5)]


@pytest.mark.parametrize("kind", ["shared", "separate", "transformed"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_mapped_samples_are_those_in_memory(kind, replicas):
    memory, mapped = (read(kind, mapped, replicas) for mapped in (False, True))
    assert memory[0].shape == (3, replicas, 4, 1, 3, 3) and memory[0].dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(memory, mapped, strict=True))


def test_one_block_is_read_ahead_by_a_thread_that_ends_with_the_iterator():
    samples, asked = trains("shared", mapped=True), []

    def blocks():
        for block in BLOCKS:
            asked.append(block)
            yield block

    before = threading.active_count()
    iterator = read_blocks(blocks(), samples, lambda block: block)
    next(iterator)
    assert len(asked) == 2 and threading.active_count() == before + 1
    next(iterator)
    assert len(asked) == 3
    iterator.close()
    assert threading.active_count() == before


def test_blocks_of_mapped_samples_are_short_enough_to_be_held_twice(monkeypatch):
    assert max_iterations(trains("shared", mapped=False), 4) is None
    monkeypatch.setattr(reading, "_MAX_READ_BYTES", 9 * 4 * 2 * 5 + 1)  # bytes, batch, runs, iterations
    assert max_iterations(trains("shared", mapped=True), 4) == 5
    assert max_iterations(trains("shared", mapped=True), 1000) == 1
