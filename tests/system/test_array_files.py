"""Array files of the cache: whole or not at all, continued after an interruption, verified."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gr_cli.errors import ConfigError, WriteError
from gr_cli.system import array_files, mapping, memory
from gr_cli.system.array_files import ArrayFile, ArrayPlan, BlockWriter, cached_array, read_array
from gr_cli.system.cache import content_hash, tensor_hash
from gr_cli.system.mapping import is_mapped, is_to_be_mapped

PATH = Path("cache/images/photos-1.bin")
VALUES = np.arange(24, dtype=np.float32).reshape(6, 2, 2)
PLAN = ArrayPlan(VALUES.shape, VALUES.dtype, "6 images", "try less")


class Stop(Exception):
    """Ends a writer in the middle, as an interruption does."""


def writing(blocks: list[int], stop_before: int | None = None) -> Callable[[BlockWriter], ArrayFile]:
    """Write `VALUES` in blocks of two rows, whose first rows are noted in `blocks`."""

    def write(writer: BlockWriter) -> ArrayFile:
        for start in range(writer.num_rows, 6, 2):
            if start == stop_before:
                raise KeyboardInterrupt
            blocks.append(start)
            writer.append(VALUES[start : start + 2], {"start": start})
        assert writer.records == [{"start": 0}, {"start": 2}, {"start": 4}] and writer.starts == [0, 2, 4]
        return writer.finish({"note": "kept"})

    return write


def files() -> list[str]:
    return sorted(path.name for path in PATH.parent.iterdir())


@pytest.mark.parametrize("storage", ["memory", "mapped"])
def test_an_array_is_written_once_and_read_in_either_way(storage):
    blocks: list[int] = []
    for _ in range(2):
        values, facts = cached_array(PATH, storage, lambda: PLAN, writing(blocks))
        assert np.array_equal(values.numpy(), VALUES) and facts == {"note": "kept"}
        assert is_mapped(values) == (storage == "mapped")
    assert blocks == [0, 2, 4] and files() == ["photos-1.bin", "photos-1.json"]
    assert tensor_hash(values) == content_hash(torch.from_numpy(VALUES))


def test_an_interrupted_array_is_continued_after_the_finished_blocks():
    blocks: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        cached_array(PATH, "mapped", lambda: PLAN, writing(blocks, stop_before=4))
    assert blocks == [0, 2] and not PATH.exists()
    part, journal = (PATH.parent / f".photos-1.bin.{what}" for what in ("part", "journal"))
    journal.write_text(journal.read_text() + '{"rows": 2, "rec')  # cut short by a crash
    part.write_bytes(part.read_bytes() + b"half a block")

    def planned_again() -> ArrayPlan:
        raise AssertionError("the plan is that of the first attempt")

    first = journal.read_text()
    with pytest.raises(KeyboardInterrupt):
        cached_array(PATH, "mapped", planned_again, writing(blocks, stop_before=4))
    assert journal.read_text() == first.rpartition("\n")[0] + "\n"
    values = cached_array(PATH, "mapped", planned_again, writing(blocks)).values
    assert blocks == [0, 2, 4] and np.array_equal(values.numpy(), VALUES)
    assert files() == ["photos-1.bin", "photos-1.json"]


@pytest.mark.parametrize("damage", ["part gone", "journal gone", "part too short", "another shape"])
def test_an_attempt_that_can_not_be_continued_starts_anew(damage):
    blocks: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        cached_array(PATH, "mapped", lambda: PLAN, writing([], stop_before=4))
    part, journal = (PATH.parent / f".photos-1.bin.{what}" for what in ("part", "journal"))
    if damage == "part too short":
        part.write_bytes(b"short")
    elif damage == "another shape":
        journal.write_text(json.dumps({"shape": [7]}) + "\n")
    else:
        (part if damage == "part gone" else journal).unlink()
    values = cached_array(PATH, "mapped", lambda: PLAN, writing(blocks)).values
    assert blocks == [0, 2, 4] and np.array_equal(values.numpy(), VALUES)


@pytest.mark.parametrize("damage", ["cut", "flipped", "description", "longer"])
def test_damaged_arrays_are_computed_anew(damage, capsys):
    cached_array(PATH, "mapped", lambda: PLAN, writing([]))
    content = bytearray(PATH.read_bytes())
    content[5] ^= 1
    changed = {"cut": content[:-1], "flipped": content, "longer": content + b"0"}
    if damage == "description":
        PATH.with_suffix(".json").write_text("{}")
    else:
        PATH.unlink()
        PATH.write_bytes(changed[damage])
    assert read_array(PATH, "mapped") is None and "is damaged" in capsys.readouterr().err
    blocks: list[int] = []
    assert np.array_equal(cached_array(PATH, "mapped", lambda: PLAN, writing(blocks)).values.numpy(), VALUES)
    assert blocks == [0, 2, 4] and read_array(PATH, "memory") is not None


def test_rows_can_be_left_out_and_replaced_at_the_end():
    def write(writer: BlockWriter) -> ArrayFile:
        writer.append(VALUES)
        writer.begin_rewriting()
        for start, block in writer.blocks():
            assert start == 0
            writer.write(0, block[::2] + 1)
        return writer.finish({}, num_rows=3)

    for storage in ("mapped", "memory"):
        assert np.array_equal(cached_array(PATH, storage, lambda: PLAN, write).values.numpy(), VALUES[::2] + 1)
    assert np.array_equal(write(BlockWriter(PLAN)).values.numpy(), VALUES[::2] + 1)
    assert PATH.stat().st_size == 3 * 16


def test_arrays_of_earlier_content_are_removed_unfinished_ones_too():
    other, another = PATH.with_name("photos-0.bin"), PATH.with_name("pictures-0.bin")
    cached_array(other, "memory", lambda: PLAN, writing([]))
    cached_array(another, "memory", lambda: PLAN, writing([]))
    with pytest.raises(KeyboardInterrupt):
        cached_array(PATH.with_name("photos-2.bin"), "memory", lambda: PLAN, writing([], stop_before=2))
    cached_array(PATH, "memory", lambda: PLAN, writing([]))
    assert files() == ["photos-1.bin", "photos-1.json", "pictures-0.bin", "pictures-0.json"]


def test_a_failed_computation_leaves_nothing():
    def fail(writer: BlockWriter) -> ArrayFile:
        writer.append(VALUES[:2])
        raise Stop

    with pytest.raises(Stop):
        cached_array(PATH, "mapped", lambda: PLAN, fail)
    assert files() == []


def test_what_fits_into_memory_is_kept_there_if_it_can_not_be_written(monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(array_files.os, "fsync", full)
    values = cached_array(PATH, "memory", lambda: PLAN, writing(blocks := [])).values
    assert np.array_equal(values.numpy(), VALUES) and blocks == [0, 0, 2, 4] and files() == []
    with pytest.raises(WriteError, match=r"photos-1.bin: can't be written \(No space left on device\)"):
        cached_array(PATH, "mapped", lambda: PLAN, writing([]))


def test_too_little_space_is_one_line_that_says_how_much_is_needed_and_where():
    huge = ArrayPlan((10**9, 10**6), np.dtype(np.uint8), "10 images", "try fewer")
    with pytest.raises(ConfigError) as error:
        cached_array(PATH, "mapped", lambda: huge, writing([]))
    assert str(error.value).startswith("cache_root=cache: 10 images take 931,322.6 GiB in cache/images, and ")
    assert str(error.value).endswith("free disk space, set cache_root=<folder on another disk>, or try fewer")
    with pytest.raises(ConfigError, match=r"^storage=memory: 10 images take 931,322.6 GiB, and there is less"):
        cached_array(PATH, "memory", lambda: huge, writing([]))


def test_automatic_storage_maps_what_takes_more_than_a_quarter_of_the_available_memory(monkeypatch):
    monkeypatch.setattr(mapping, "available_memory", lambda device: 400)
    assert [is_to_be_mapped("auto", size) for size in (99, 100, 101)] == [False, False, True]
    assert is_to_be_mapped("mapped", 1) and not is_to_be_mapped("memory", 10**18)


def test_a_limit_on_the_process_limits_the_available_memory(monkeypatch):
    monkeypatch.setattr(memory, "_data_limit", lambda: 1000 << 30)
    unlimited = memory.available_memory(torch.device("cpu"))
    used = sum(memory._read_kernel_bytes("/proc/self/status", "VmData"))
    monkeypatch.setattr(memory, "_data_limit", lambda: used + (64 << 20))
    assert memory.available_memory(torch.device("cpu")) <= 64 << 20 < unlimited
    monkeypatch.setattr(memory, "_data_limit", lambda: 1)
    assert memory.available_memory(torch.device("cpu")) == 0


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (7, 3, 2)])
def test_a_hash_in_blocks_is_that_of_the_whole(monkeypatch, shape):
    x = torch.rand(shape)
    expected = content_hash(x, "and more")
    monkeypatch.setattr("gr_cli.system.cache.BLOCK_BYTES", 24)
    assert content_hash(x, "and more") == expected
    if x.dim() == 3:
        assert content_hash(x.permute(0, 2, 1), "and more") == content_hash(x.permute(0, 2, 1).contiguous(), "and more")
