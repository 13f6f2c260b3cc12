"""IDX files are read as torchvision reads them, without importing it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gr_cli.benchmarks import Torchvision
from gr_cli.benchmarks.sources.idx import idx_set, read_idx
from helpers import small_mnist
from helpers.small_mnist import idx

NUM_IMAGES = 30
SPLITS = ("balanced", "byclass", "bymerge", "digits", "letters", "mnist")
SETS = [("MNIST", None), ("FashionMNIST", None), ("KMNIST", None), *(("EMNIST", split) for split in SPLITS)]


def write_set(root: Path, name: str, split: str | None) -> None:
    """Files of random images that are not square, with labels from 1."""
    generator = np.random.default_rng(1)
    for file in idx_set(name, split).files:
        shape = (NUM_IMAGES, 4, 6) if "images" in file else (NUM_IMAGES,)
        high = 256 if "images" in file else 9
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(idx(*shape, values=generator.integers(1, high, shape, dtype=np.uint8).tobytes()))


@pytest.mark.parametrize(("name", "split"), SETS)
def test_images_labels_and_classes_are_those_of_torchvision(tmp_path, name, split):
    from torchvision import datasets

    write_set(tmp_path, name, split)
    ours = Torchvision(name, str(tmp_path), download=False, split=split).load()
    for part, train in ((ours.train, True), (ours.test, False)):
        theirs = getattr(datasets, name)(tmp_path, train=train, **({} if split is None else {"split": split}))
        upright = theirs.data.mT if name == "EMNIST" else theirs.data
        assert torch.equal(part.store, upright.unsqueeze(1)) and part.store.dtype == torch.uint8
        assert part.store.is_contiguous()
        assert torch.equal(part.y, theirs.targets - int(split == "letters")) and part.y.dtype == torch.int64
    names = tuple(name.partition(" - ")[0] for name in theirs.classes)
    assert ours.classes == (names[1:] if split == "letters" else names)


def test_other_data_sets_are_not_idx_files():
    assert all(idx_set(name, None) is None for name in ("USPS", "SVHN", "CIFAR10", "CIFAR100"))


def test_reading_keeps_shape_and_order(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(idx(2, 1, 3, values=bytes([1, 2, 3, 4, 5, 255])))
    assert read_idx(path).tolist() == [[[1, 2, 3]], [[4, 5, 255]]]


def test_torchvision_is_not_imported(tmp_path):
    small_mnist.write(tmp_path)
    script = (
        "import sys; from gr_cli.benchmarks import Torchvision\n"
        f"assert len(Torchvision('MNIST', {str(tmp_path)!r}, download=False).load().train) == 40\n"
        "assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=600)
