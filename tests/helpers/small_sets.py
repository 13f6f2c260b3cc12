"""Small data sets with random content in the original file formats."""

import bz2
import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gr_cli.benchmarks.sources.base import Dataset
from helpers.small_mnist import idx

EMNIST_CLASSES = {"balanced": 47, "byclass": 62, "bymerge": 47, "digits": 10, "letters": 26, "mnist": 10}


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_mnist(root: Path, name: str) -> dict[str, np.ndarray]:
    """A data set of the MNIST family; returns its images (20, 6, 5) by split. The labels are 0, 1, ..., 9, 0, ..."""
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    images = {part: pixels(20, 6, 5, seed=i) for i, part in enumerate(("train", "t10k"))}
    for part, x in images.items():
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(20, 6, 5, values=x.tobytes()))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(20, values=bytes(i % 10 for i in range(20))))
    return images


def write_emnist(root: Path, split: str) -> np.ndarray:
    """A split of EMNIST, the same for training and test; returns its images (N, 5, 5) the right way up."""
    raw, count = root / "EMNIST" / "raw", EMNIST_CLASSES[split]
    raw.mkdir(parents=True, exist_ok=True)
    upright = pixels(2 * count, 5, 5)
    labels = bytes(i % count + (split == "letters") for i in range(2 * count))
    for part in ("train", "test"):
        stored = upright.transpose(0, 2, 1)  # as the original files have them: on their side, and mirrored
        (raw / f"emnist-{split}-{part}-images-idx3-ubyte").write_bytes(idx(2 * count, 5, 5, values=stored.tobytes()))
        (raw / f"emnist-{split}-{part}-labels-idx1-ubyte").write_bytes(idx(2 * count, values=labels))
    return upright


def write_usps(root: Path) -> np.ndarray:
    """USPS in libsvm's format, the same for training and test; returns its images (20, 16, 16)."""
    root.mkdir(parents=True, exist_ok=True)
    images = pixels(20, 16, 16)
    lines = []
    for i, image in enumerate(images.reshape(20, -1)):
        values = " ".join(f"{j + 1}:{2 * value / 255 - 1:.6f}" for j, value in enumerate(image.tolist()))
        lines.append(f"{i % 10 + 1} {values} \n")  # labels from 1
    for name in ("usps.bz2", "usps.t.bz2"):
        (root / name).write_bytes(bz2.compress("".join(lines).encode()))
    return images


def write_cifar(root: Path, fine: bool, classes: int, names: Sequence[str] = ()) -> np.ndarray:
    """CIFAR-10, or CIFAR-100 with fine labels; returns its training images (N, 3, 32, 32), from two files or one."""
    folder = root / ("cifar-100-python" if fine else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    count = 2 * classes
    images = pixels(count, 3, 32, 32)
    labels = [i % classes for i in range(count)]
    parts = {"train": slice(None), "test": slice(None)}
    if not fine:
        parts = {f"data_batch_{i + 1}": slice(i * count // 5, (i + 1) * count // 5) for i in range(5)}
        parts["test_batch"] = slice(None)
    for name, part in parts.items():
        batch = {"data": images[part].reshape(-1, 3072), "filenames": [], "batch_label": name}
        batch["fine_labels" if fine else "labels"] = labels[part]
        if fine:
            batch["coarse_labels"] = [label // 5 for label in labels[part]]
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    labelled = list(names) or [f"thing {i}" for i in range(classes)]
    meta = {"fine_label_names" if fine else "label_names": labelled}
    (folder / ("meta" if fine else "batches.meta")).write_bytes(pickle.dumps(meta, protocol=2))
    return images


def write_cifar_folders(root: Path, name: str, data: Dataset, names: Sequence[str] = ()) -> None:
    """The images of a data set as class folders, under arbitrary file names."""
    for part in ("train", "test"):
        samples = getattr(data, part)
        for i, (image, label) in enumerate(zip(samples.x.numpy(), samples.y.tolist(), strict=True)):
            folder = root / name.lower() / part / (names or data.classes)[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{(7 * i) % 1009}_s.png")


def publish(monkeypatch, dataset, root: Path) -> None:
    """Make torchvision accept the CIFAR files below `root`: replace the expected checksums."""

    def summed(name: str) -> str:
        return hashlib.md5((root / dataset.base_folder / name).read_bytes()).hexdigest()

    for listed in ("train_list", "test_list"):
        monkeypatch.setattr(dataset, listed, [[name, summed(name)] for name, _ in getattr(dataset, listed)])
    monkeypatch.setattr(dataset, "meta", dataset.meta | {"md5": summed(dataset.meta["filename"])})
