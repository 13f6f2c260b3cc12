"""Frozen feature extractors and the cache of their vectors."""

import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gr_cli.benchmarks import ConvFeatureExtractor, Digits, Samples, SyntheticGlyphs, split
from gr_cli.benchmarks.features.base import FeatureExtractor
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.errors import ConfigError, DataError
from gr_cli.models import CNN
from gr_cli.nn.convolutions import match_image_shape
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.system import cache
from gr_cli.system.checksums import save_tensors
from helpers.features import vectors_of
from helpers.image_sets import Fixed, images


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch):
    clear_cache_in_memory(monkeypatch)


def clear_cache_in_memory(monkeypatch) -> None:
    """Clear the cache of this process, as if it were new."""
    monkeypatch.setattr(cache, "_recent", OrderedDict())


class Counting(FeatureExtractor):
    """Mean and maximum of each image; counts the images that it receives."""

    def __init__(self, scale: float = 1.0, cache_root: str = "kept") -> None:
        super().__init__(False, cache_root, torch.device("cpu"))
        self.scale, self.seen = scale, 0

    def network(self, first_task, shape):
        outer = self

        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.tensor(outer.scale))

            def forward(self, x):
                outer.seen += len(x) if x.any() else 0  # costs are those of a blank image
                return self.scale * torch.stack([x.flatten(1).mean(1), x.flatten(1).amax(1)], 1)

        return Network()


# --- vectors


def test_split_of_features_equals_the_split_of_images():
    plain = split(Digits(), seed=3, class_order="shuffled", validation_share=0.1)
    features = split(Digits(), seed=3, class_order="shuffled", validation_share=0.1, features=Counting(2.0))
    assert features.spec == SampleSpec((2,), None)
    for vectors, pictures in zip(features.tasks, plain.tasks, strict=True):
        assert vectors.classes == pictures.classes
        for name in ("train", "test", "validation"):
            vector_samples, image_samples = getattr(vectors, name), getattr(pictures, name)
            assert torch.equal(vector_samples.y, image_samples.y)
            assert vector_samples.x.dtype == torch.float32
            expected = 2 * torch.stack([image_samples.x.flatten(1).mean(1), image_samples.x.flatten(1).amax(1)], 1)
            torch.testing.assert_close(vector_samples.x, expected)


def test_network_receives_bytes_scaled_to_unit_range():
    part = Samples(torch.tensor([0, 255, 51], dtype=torch.uint8).view(3, 1, 1, 1), torch.arange(3))
    features = vectors_of(Counting(), Dataset(part, part, ("a", "b", "c"), SampleSpec(tuple(part.store.shape[1:]))))
    torch.testing.assert_close(features.train.x[:, 1], torch.tensor([0, 1, 0.2]))


@pytest.mark.parametrize(("shape", "size"), [((1, 8, 8), 256), ((3, 16, 16), 512), ((1, 28, 28), 1024),
                                             ((3, 32, 32), 1024), ((3, 64, 64), 1024)])  # fmt: skip
def test_depth_depends_on_the_image_size(shape, size):
    vectors = vectors_of(ConvFeatureExtractor(weights="random", cache_root="kept"), images(shape, 4)).train.x
    assert vectors.shape == (4, size)
    torch.testing.assert_close(vectors.mean(1), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(vectors.var(1, correction=0), torch.ones(4), atol=1e-2, rtol=0)


def test_random_weights_depend_on_the_seed_alone():
    def of(seed: int) -> torch.Tensor:
        return vectors_of(
            ConvFeatureExtractor([4], "random", pretrain_seed=seed, cache_root=f"kept{seed}"), images()
        ).train.x

    state = torch.get_rng_state()
    one, other = of(0), of(1)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one, of(0))
    assert not torch.allclose(one, other)


def test_images_are_resized_and_converted():
    grey, coloured = torch.rand(2, 1, 28, 28), torch.rand(2, 3, 8, 8)
    assert match_image_shape(grey, (3, 8, 8)).shape == (2, 3, 8, 8)
    assert torch.equal(match_image_shape(coloured, (1, 8, 8)), coloured.mean(1, keepdim=True))
    assert match_image_shape(grey, (1, 28, 28)) is grey
    torch.testing.assert_close(
        match_image_shape(torch.full((1, 1, 28, 28), 0.3), (3, 8, 8)), torch.full((1, 3, 8, 8), 0.3)
    )


def test_vectors_are_refused():
    with pytest.raises(ConfigError, match=r"features=ConvFeatureExtractor: needs images, samples have shape \(5,\)"):
        vectors_of(ConvFeatureExtractor(weights="random"), images((5,)))


def test_synthetic_glyphs_are_separable_and_reproducible():
    first, again = (SyntheticGlyphs(classes=5, per_class=20, size=12).load() for _ in range(2))
    assert torch.equal(first.train.x, again.train.x)
    assert first.train.x.shape == (100, 1, 12, 12)
    assert torch.bincount(first.train.y).tolist() == [20] * 5
    assert torch.bincount(first.test.y).tolist() == [2] * 5
    assert len(first.classes) == 5
    x = first.train.x.flatten(1).float()
    centres = torch.stack([x[first.train.y == label].mean(0) for label in range(5)])
    nearest = torch.cdist(first.test.x.flatten(1).float(), centres).argmin(1)
    assert (nearest == first.test.y).float().mean() > 0.6


# --- cache


def test_vectors_are_cached_on_disk(monkeypatch):
    features = Counting()
    first = vectors_of(features, images())
    assert features.seen == 18
    assert vectors_of(features, images()).train.store is first.train.store  # runs of a sweep share it
    clear_cache_in_memory(monkeypatch)
    again = vectors_of(features, images())
    assert features.seen == 18
    assert torch.equal(again.train.x, first.train.x)
    assert torch.equal(again.test.x, first.test.x)
    (file,) = Path("kept/features").iterdir()
    assert file.suffix == ".pt"


@pytest.mark.parametrize("change", ["image", "test", "weights", "normalise"])
def test_changed_inputs_are_recomputed(change):
    features, data = Counting(), images()
    vectors_of(features, data)
    if change == "image":
        data = images()
        data.train.store[3, 0, 0, 0] += 0.1
    if change == "test":
        data = images()
        data.test.store[0] = 0
    if change == "weights":
        features.scale = 1.5
    if change == "normalise":
        features.normalise = True
    vectors_of(features, data)
    assert features.seen == 36


@pytest.mark.parametrize("damage", ["flipped", "cut", "garbage", "other", "empty", "folder", "pipe"])
def test_damaged_cache_file_is_recomputed(monkeypatch, capsys, damage):
    features = Counting()
    expected = vectors_of(features, images()).train.x
    (file,) = Path("kept/features").iterdir()
    content = file.read_bytes()
    if damage == "other":
        save_tensors(file, {"name": "another.pt", "tensors": {"train": torch.zeros(1)}})
    elif damage in ("folder", "pipe"):
        file.unlink()
        file.mkdir() if damage == "folder" else os.mkfifo(file)
    else:
        damaged = {"cut": content[: len(content) // 2], "garbage": b"none of it" * 9, "empty": b""}
        damaged["flipped"] = content[:700] + bytes([content[700] ^ 1]) + content[701:]  # among the numbers
        file.write_bytes(damaged[damage])
    clear_cache_in_memory(monkeypatch)
    assert torch.equal(vectors_of(features, images()).train.x, expected)
    clear_cache_in_memory(monkeypatch)
    assert torch.equal(vectors_of(features, images()).train.x, expected)
    assert features.seen == (54 if damage == "folder" else 36)  # a folder can not be replaced by a file
    assert "is damaged (" in capsys.readouterr().err


def test_unwritable_cache_is_not_an_error():
    Path("kept").write_text("a file where the folder would be")
    features = Counting()
    assert vectors_of(features, images()).train.x.shape == (12, 2)
    vectors_of(features, images())
    assert features.seen == 18  # from the cache in memory


def test_full_disk_is_not_an_error_and_leaves_no_partial_file(monkeypatch):
    def full(value, file):
        file.write(b"some of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert vectors_of(Counting(), images()).train.x.shape == (12, 2)
    assert list(Path("kept/features").iterdir()) == []


def test_concurrent_processes_compute_once(tmp_path):
    script = (
        "import sys, time, torch; from pathlib import Path; from gr_cli.system.cache import cached\n"
        "def compute():\n    print('computed'); time.sleep(0.5); return {'x': torch.ones(2)}\n"
        "assert cached(Path('kept/one.pt'), compute)['x'].sum() == 2"
    )
    both = [subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE) for _ in range(2)]
    printed = b"".join(process.communicate()[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert printed.count(b"computed") == 1
    assert [file.name for file in Path("kept").iterdir()] == ["one.pt"]


def test_waiting_for_another_process_is_reported(monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    messages = []
    Path("kept").mkdir()
    with Path("kept/.one.pt.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def print_status(message: str) -> None:
            messages.append(message)
            fcntl.flock(lock, fcntl.LOCK_UN)  # the other process has finished

        monkeypatch.setattr(cache, "print_status", print_status)
        assert cache.cached(Path("kept/one.pt"), lambda: {"x": torch.ones(2)})["x"].sum() == 2
    assert messages == ["waiting for another process that computes kept/one.pt"]


def test_progress_is_shown_on_a_terminal(monkeypatch, capsys):
    clock = iter(range(10_000))
    monkeypatch.setattr("gr_cli.system.messages.monotonic", lambda: next(clock))
    vectors_of(pretrained(5), images())
    assert "\r" not in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    vectors_of(pretrained(5, "elsewhere", seed=1), images(n=300))
    stderr = capsys.readouterr().err
    assert "iterations of pretraining: 2 of 5" in stderr and "batches of 100 images: 2 of 5" in stderr


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="not finite"):
        vectors_of(Counting(float("nan")), images())


# --- pretraining


def pretraining_source() -> Fixed:
    return Fixed(SyntheticGlyphs(classes=6, per_class=60, size=12).load())


def pretrained(iterations: int, root: str = "kept", seed: int = 0) -> ConvFeatureExtractor:
    return ConvFeatureExtractor([8, 16], "pretrained", pretraining_source(), iterations, seed, cache_root=root)


def test_pretraining_makes_features_linearly_separable():
    """Accuracy of a linear classifier trained on few samples of classes that pretraining did not have."""
    data = SyntheticGlyphs(classes=8, per_class=20, size=8, glyphs_seed=1).load()

    def accuracy(iterations: int) -> float:
        features = vectors_of(pretrained(iterations), data)
        weight = torch.zeros(8, features.train.x.shape[1], requires_grad=True)
        for _ in range(60):
            loss = F.cross_entropy(features.train.x @ weight.T, features.train.y) + 1e-3 * weight.square().sum()
            (gradient,) = torch.autograd.grad(loss, weight)
            weight.data -= 0.02 * gradient
        return float(((features.test.x @ weight.T).argmax(1) == features.test.y).float().mean())

    assert accuracy(150) > 0.8
    assert accuracy(150) >= accuracy(1)


def test_pretraining_is_reproducible_and_cached(monkeypatch):
    state = torch.get_rng_state()
    first = vectors_of(pretrained(5), images())
    assert torch.equal(state, torch.get_rng_state())
    assert len(list(Path("kept/features").iterdir())) == 2  # the weights, and the vectors of these images
    clear_cache_in_memory(monkeypatch)
    assert torch.equal(vectors_of(pretrained(5, "elsewhere"), images()).train.x, first.train.x)
    assert not torch.allclose(vectors_of(pretrained(6), images()).train.x, first.train.x)
    assert not torch.allclose(vectors_of(pretrained(5, seed=1), images()).train.x, first.train.x)

    def fail(*_):
        raise AssertionError("pretrained again")

    clear_cache_in_memory(monkeypatch)
    monkeypatch.setattr("gr_cli.benchmarks.features.convolutions.pretrain", fail)
    vectors_of(pretrained(5), images(seed=1))  # other images, the same network


def test_pretraining_on_the_benchmark_itself_is_refused():
    features = ConvFeatureExtractor([4], pretrain=Digits(), pretrain_iterations=1)
    with pytest.raises(ConfigError, match=r"pretrain=Digits: is the benchmark's own data") as error:
        split(Digits(), seed=0, features=features)
    assert "\n" not in str(error.value)


def test_pretraining_needs_a_data_set():
    with pytest.raises(ConfigError, match=r"features.pretrain=null: must be a data set; or set .*weights=random"):
        ConvFeatureExtractor()


# --- weights from a file


def test_weights_of_a_trained_solver_load():
    solver = CNN((1, 8, 8), 2, [4, 6], 5)
    torch.save(solver.state_dict(), "solver.pt")
    features = vectors_of(ConvFeatureExtractor([4, 6], "solver.pt", normalise=False, cache_root="kept"), images())
    x = images().train.x
    for convolution in solver.convolutions:
        x = F.relu(convolution(x))
    torch.testing.assert_close(features.train.x, x.flatten(1))


class Hostile:
    def __reduce__(self):
        return (Path("touched").write_text, ("by a pickle",))


def _changed(**changes):
    state = CNN((1, 8, 8), 2, [4, 6], 5).state_dict()
    return {name: value for name, value in {**state, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (None, r"can't be read \(No such file or directory\)"),
        (b"", r"holds no plain tensors \(EOFError\)"),
        (b"<html>", "holds no plain tensors"),
        (pickle.dumps(Hostile()), "holds no plain tensors"),
        ([1, 2], "is no state dict"),
        ({"state_dict": _changed()}, "is no state dict"),
        (_changed(**{"convolutions.1.bias": None}), r"lacks convolutions\.1\.bias;"),
        ({}, r"lacks convolutions\.0\.weight, convolutions\.0\.bias, convolutions\.1\.weight and 1 more;"),
        (_changed(**{"convolutions.2.bias": torch.zeros(1)}), r"has unexpected entries: convolutions\.2\.bias;"),
        (CNN((3, 8, 8), 2, [4, 6], 5).state_dict(), r"weight has shape \(4, 3, 3, 3\), and \(4, 1, 3, 3\) is needed"),
    ],
)  # fmt: skip
def test_unsuitable_weight_files_are_one_line(stored, message):
    file = Path("weights.pt")
    if isinstance(stored, bytes):
        file.write_bytes(stored)
    elif stored is not None:
        torch.save(stored, file)
    with pytest.raises(DataError, match=message) as error:
        vectors_of(ConvFeatureExtractor([4, 6], str(file), cache_root="kept"), images())
    assert str(error.value).startswith("benchmark.features.weights=weights.pt: ")
    assert "\n" not in str(error.value)
    assert not Path("touched").exists()
