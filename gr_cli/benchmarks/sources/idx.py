"""IDX files, the format of MNIST and its relatives: their names, checks of their content, and reading them."""

from __future__ import annotations

import string
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_DIGITS = tuple(string.digits)
_ALPHANUMERICS = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
# EMNIST's splits that merge a small letter with its capital where both look alike.
_MERGED = tuple(name for name in _ALPHANUMERICS if name not in "cijklmopsuvwxyz")
_CLASSES = {
    "MNIST": _DIGITS,
    "FashionMNIST": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    "KMNIST": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}  # fmt: skip
_EMNIST_CLASSES = {
    "balanced": _MERGED,
    "byclass": _ALPHANUMERICS,
    "bymerge": _MERGED,
    "digits": _DIGITS,
    "letters": tuple(string.ascii_lowercase),
    "mnist": _DIGITS,
}


@dataclass(frozen=True)
class IdxSet:
    """A data set in four IDX files, in torchvision's layout.

    Attributes:
        classes: Names of the classes.
        files: Training images, training labels, test images, test labels; below the root folder of the data sets.
    """

    classes: tuple[str, ...]
    files: tuple[str, str, str, str]


def idx_set(name: str, split: str | None) -> IdxSet | None:
    """The files and classes of a data set of torchvision; None if it is not in this format.

    Args:
        name: Class in `torchvision.datasets`.
        split: EMNIST's split.
    """
    if split is not None:
        classes, train, test = _EMNIST_CLASSES[split], f"emnist-{split}-train", f"emnist-{split}-test"
    elif name in _CLASSES:
        classes, train, test = _CLASSES[name], "train", "t10k"
    else:
        return None
    raw, images, labels = f"{name}/raw", "images-idx3-ubyte", "labels-idx1-ubyte"
    return IdxSet(
        classes,
        (f"{raw}/{train}-{images}", f"{raw}/{train}-{labels}", f"{raw}/{test}-{images}", f"{raw}/{test}-{labels}"),
    )


def read_idx(path: Path) -> Tensor:
    """The bytes of an IDX file without problems, in the shape that it names."""
    with path.open("rb") as file:
        dimensions = file.read(4)[3]
        shape = [int.from_bytes(file.read(4)) for _ in range(dimensions)]
        return torch.from_numpy(np.fromfile(file, dtype=np.uint8)).reshape(shape)


def idx_problem(path: Path) -> str:
    """What is wrong with an IDX file of bytes; empty if nothing is. Its name says `idx<dimensions>`."""
    dimensions = int(path.name.partition("idx")[2][0])
    try:
        if path.is_dir():
            return "is a folder, not a file"
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
    except OSError as error:
        return f"can't be opened: {error.strerror}"
    if size == 0:
        return "is empty"
    if header.startswith(b"\x1f\x8b"):
        return "is compressed, but its name does not end in .gz"
    if header[:4] != bytes([0, 0, 8, dimensions]):
        return f"does not begin as an IDX file of bytes with {dimensions} dimension(s)"
    if len(header) < 4 + 4 * dimensions:
        return f"is cut short: {size} bytes"
    counts = [int.from_bytes(header[i : i + 4]) for i in range(4, len(header), 4)]
    expected_size = len(header) + prod(counts)
    if size != expected_size:
        return f"{'is cut short' if size < expected_size else 'is too long'}: {size} bytes instead of {expected_size}"
    return "" if prod(counts) else f"holds nothing: its shape is {tuple(counts)}"
