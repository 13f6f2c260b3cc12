"""Memory-mapped data sets: the same samples as in memory, read in place."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gr_cli.benchmarks import ConvFeatureExtractor, ImageFolder, Tensors, permuted, rotated, split
from gr_cli.benchmarks.base import Samples
from gr_cli.benchmarks.dataset_hash import dataset_hash
from gr_cli.benchmarks.sources import image_cache
from gr_cli.benchmarks.sources.image_folder import _recent
from gr_cli.errors import DataError
from gr_cli.system import cache
from gr_cli.system.mapping import is_mapped
from gr_cli.training.normalization import channel_moments
from helpers.bad_data import Given
from helpers.features import vectors_of
from helpers.image_files import folder, pixels, put, read
from helpers.mapped_sets import load_arrays, write_arrays


def contents(samples: Samples) -> list[torch.Tensor]:
    x, y = zip(*samples.batches(7), strict=True)
    return [torch.cat(x), torch.cat(y)]


def assert_same(first: Samples, second: Samples) -> None:
    for a, b in zip(contents(first), contents(second), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels_last", [False, True])
def test_arrays_are_used_where_they_lie_in_the_file(dtype, channels_last):
    x = write_arrays(dtype, channels_last)
    memory, mapped = load_arrays("memory"), load_arrays("mapped")
    assert is_mapped(mapped.train.store) and not is_mapped(memory.train.store)
    assert mapped.train.store is mapped.test.store and mapped.train.store.shape == x.shape
    assert mapped.spec == memory.spec and mapped.classes == memory.classes
    for name in ("train", "test"):
        assert_same(getattr(memory, name), getattr(mapped, name))
        assert getattr(memory, name).content_hash() == getattr(mapped, name).content_hash()
    assert channel_moments(memory.train) == channel_moments(mapped.train)
    hashes = [dataset_hash(split(Given(data), seed=0)) for data in (memory, mapped)]
    assert hashes[0] == hashes[1]
    # The tensor is the file: what is written there is read, by those who should not write there.
    with Path("x.npy").open("r+b") as file:
        file.seek(-x.itemsize, 2)
        file.write(np.array([1], dtype).tobytes())
    assert mapped.train.store[-1, -1, -1, -1] == 1


def test_nothing_of_the_size_of_the_set_is_allocated(monkeypatch):
    write_arrays()
    data = load_arrays("mapped", test_share=0.5)
    sizes: list[int] = []
    original = torch.Tensor.index_select

    def index_select(x: torch.Tensor, axis: int, index: torch.Tensor) -> torch.Tensor:
        sizes.append(len(index))
        return original(x, axis, index)

    monkeypatch.setattr(torch.Tensor, "index_select", index_select)
    benchmark = split(Given(data), seed=0, classes_per_task=2, validation_share=0.2)
    moved = benchmark.to(torch.device("cpu"), [0, 2])
    for task in moved.tasks:
        for samples in (task.train, task.validation, task.test):
            assert samples.store is data.train.store
    assert not sizes  # classes, validation and test samples are chosen by their labels
    moved.tasks[1].train.batch(torch.arange(5))
    assert sizes == [5]


@pytest.mark.parametrize("stream", [permuted, rotated])
def test_transformed_tasks_are_computed_per_batch(stream):
    write_arrays()
    memory, mapped = (stream(Given(load_arrays(storage)), seed=0, tasks=3).tasks for storage in ("memory", "mapped"))
    for a, b in zip(memory, mapped, strict=True):
        assert b.train.store is mapped[0].train.store and is_mapped(b.train.store)
        assert_same(a.train, b.train)
    with pytest.raises(DataError, match=r"copies the samples of all of them, [\d.]+ GiB here.*storage=memory"):
        Samples.concatenate([task.train for task in mapped])
    Samples.concatenate([task.train for task in memory])


def test_overlapping_and_joint_split_tasks_stay_in_the_map():
    write_arrays()
    memory, mapped = (
        split(Given(load_arrays(storage)), seed=0, task_overlap=0.3).tasks for storage in ("memory", "mapped")
    )
    joint = [Samples.concatenate([task.train for task in tasks]) for tasks in (memory, mapped)]
    assert joint[1].store is mapped[0].train.store
    assert_same(*joint)


@pytest.mark.parametrize(
    ("change", "settings", "cause"),
    [
        (lambda x: x.astype(np.float64), {}, "its training samples are <f8, 0.0 GiB, and such values can't be trained"),
        (np.asfortranarray, {}, r"are \|u1 in Fortran order"),
        (lambda x: x, {"standardise": True}, "standardise=true needs a changed copy of its samples"),
        (lambda x: x // 200, {}, "bytes that are 0 or 1 needs a changed copy"),
        (lambda x: x, {"value_range": [0, 300]}, r"value_range=\[0, 300\] needs a changed copy"),
    ],
)
def test_what_needs_a_copy_is_refused_with_a_remedy(change, settings, cause):
    np.save("x.npy", change(write_arrays()))
    with pytest.raises(DataError, match=rf"{cause}.*; save them as uint8 or float32 .*, or set storage=memory$"):
        load_arrays("mapped", **settings)
    load_arrays("memory", **settings)


def test_damaged_values_in_a_map_are_found():
    x = write_arrays(np.float32)
    x[100, 2, 3, 4] = np.nan
    np.save("x.npy", x)
    with pytest.raises(DataError, match="1 of its 120 training samples hold NaN or infinity, the first at index 100"):
        load_arrays("mapped")


def test_a_read_only_memmap_from_python_stays_mapped_and_others_are_copied():
    write_arrays()
    y = np.load("y.npy")
    for mode, expected in (("r", True), ("r+", False), (None, False)):
        x = np.load("x.npy", mmap_mode=mode)
        assert is_mapped(Tensors(x, y).load().train.store) == expected


# --- image folders


def afresh() -> None:
    cache._recent.clear()
    _recent.clear()


@pytest.mark.parametrize("parts", [("train", "test"), ("",)])
def test_image_folders_are_decoded_once_for_both_ways(parts, monkeypatch):
    folder(parts, each=5)
    decoded: list[object] = []
    original = image_cache.decode_image
    monkeypatch.setattr(image_cache, "decode_image", lambda *given: decoded.append(given) or original(*given))
    mapped = read(storage="mapped")
    afresh()
    memory = read(storage="memory")
    assert len(decoded) == 10 * len(parts) and is_mapped(mapped.train.store) and not is_mapped(memory.train.store)
    assert_same(memory.train, mapped.train)
    assert_same(memory.test, mapped.test)
    hashes = [dataset_hash(split(Given(data), seed=0, classes_per_task=1)) for data in (memory, mapped)]
    assert hashes[0] == hashes[1]


def test_decoding_continues_after_an_interruption(monkeypatch, capsys):
    folder(each=5)
    expected = contents(read(storage="memory").train)
    afresh()
    for path in Path("cache/images").iterdir():
        path.unlink()
    decoded: list[str] = []
    original = image_cache.decode_image

    def decode(path: str, shape: tuple[int, int, int]) -> object:
        decoded.append(path)
        if len(decoded) == 11:
            raise KeyboardInterrupt
        return original(path, shape)

    monkeypatch.setattr(image_cache, "decode_image", decode)
    monkeypatch.setattr(image_cache, "_MAX_FILES_PER_BLOCK", 4)
    with pytest.raises(KeyboardInterrupt):
        read(storage="mapped")
    headers: list[str] = []
    monkeypatch.setattr(image_cache, "read_header", headers.append)
    capsys.readouterr()
    decoded[:] = [""] * 20
    data = read(storage="mapped")
    assert "8 of 20 images were decoded before an interruption" in capsys.readouterr().err
    assert len(decoded) == 32 and not headers
    assert all(torch.equal(a, b) for a, b in zip(contents(data.train), expected, strict=True))


def test_broken_and_deep_images_are_the_same_in_both_ways():
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            for i in range(3):
                put(f"images/{part}/{name}/{i}.png", pixels(4, 4).astype(np.uint16) * 10 + i)
    put("images/train/cat/3.png", pixels(4, 4))
    Path("images/train/cat/1.png").write_bytes(b"no image")
    mapped = read(storage="mapped", skip_broken=True)
    afresh()
    memory = read(storage="memory", skip_broken=True)
    assert mapped.train.store.dtype == torch.float32 and len(mapped.train) == 6
    assert_same(memory.train, mapped.train)
    assert_same(memory.test, mapped.test)
    afresh()
    with pytest.raises(
        DataError, match=r"1 of 13 images can't be decoded, the first is train/cat/1.png \(cannot ident"
    ):
        read(storage="mapped")


# --- features


def test_features_are_the_same_in_both_ways_and_continue_after_an_interruption(monkeypatch):
    torch.manual_seed(0)
    write_arrays()
    sets = [load_arrays(storage) for storage in ("memory", "mapped")]
    monkeypatch.setattr("gr_cli.benchmarks.features.vectors._BATCH", 10)
    for name, storage, data in (("a", "memory", sets[0]), ("b", "mapped", sets[1])):
        extractor = ConvFeatureExtractor([4], "random", cache_root=name, storage=storage)
        sets.append(vectors_of(extractor, data))
    memory, mapped = sets[2:]
    assert (
        is_mapped(mapped.train.store) and mapped.train.store is mapped.test.store and not is_mapped(memory.train.store)
    )
    assert_same(memory.train, mapped.train)
    assert_same(memory.test, mapped.test)
    assert [path.suffix for path in sorted(Path("b/features").iterdir())] == [".bin", ".json"]

    batches: list[int] = []
    original = ConvFeatureExtractor._vectors

    def vectors(extractor: ConvFeatureExtractor, network: nn.Module, x: torch.Tensor) -> torch.Tensor:
        batches.append(len(x))
        if len(batches) == 8:
            raise KeyboardInterrupt
        return original(extractor, network, x)

    monkeypatch.setattr(ConvFeatureExtractor, "_vectors", vectors)
    monkeypatch.setattr("gr_cli.system.array_files.BLOCK_BYTES", 30 * memory.train.store[0].nbytes)
    extractor = ConvFeatureExtractor([4], "random", cache_root="c", storage="mapped")
    with pytest.raises(KeyboardInterrupt):
        vectors_of(extractor, sets[1])
    batches[:] = [0] * 20
    assert_same(vectors_of(extractor, sets[1]).train, memory.train)
    assert len(batches[20:]) == 12 - 6 + 1  # the first batch, which tells the width, and those not in two whole blocks


def test_the_source_of_a_stream_may_be_mapped_from_the_folder(monkeypatch):
    folder(each=4)
    source = ImageFolder("images", cache_root="cache", storage="mapped")
    first, second = (split(source, seed=seed, classes_per_task=1) for seed in (0, 1))
    assert first.tasks[0].train.store is second.tasks[1].test.store
