"""Invalid data sets."""

from __future__ import annotations

import gzip
from dataclasses import replace

import numpy as np
import torch

from gr_cli.benchmarks import Samples
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.nn.sample_spec import SampleSpec
from helpers.small_mnist import FILES, IMAGES, LABELS, PIXELS, idx

BROKEN_FILES = {
    "cut short": (IMAGES, FILES[IMAGES][:1000], "is cut short: 1000 bytes instead of 31376"),
    "cut after a byte": (IMAGES, FILES[IMAGES][:1], "does not begin as an IDX file"),
    "cut in the header": (IMAGES, FILES[IMAGES][:10], "is cut short: 10 bytes"),
    "empty": (IMAGES, b"", "is empty"),
    "no images": (IMAGES, idx(0, 28, 28), "holds nothing: its shape is (0, 28, 28)"),
    "no pixels": (IMAGES, idx(40, 0, 0), "holds nothing: its shape is (40, 0, 0)"),
    "another type": (IMAGES, idx(40, 28, 28, values=PIXELS, magic=0x0C03), "does not begin as an IDX file"),
    "no type": (IMAGES, idx(40, 28, 28, values=PIXELS, magic=0x0A03), "does not begin as an IDX file"),
    "four dimensions": (IMAGES, idx(40, 28, 28, values=PIXELS, magic=0x0804), "does not begin as an IDX file"),
    "garbage": (IMAGES, PIXELS[:5000], "does not begin as an IDX file"),
    "a huge shape": (IMAGES, idx(2**32 - 1, 2**32 - 1, 2**32 - 1, values=PIXELS), "is cut short"),
    "labels as images": (IMAGES, FILES[LABELS], "does not begin as an IDX file of bytes with 3 dimension"),
    "compressed": (IMAGES, gzip.compress(FILES[IMAGES]), "is compressed, but its name does not end in .gz"),
    "labels cut short": (LABELS, FILES[LABELS][:20], "is cut short: 20 bytes instead of 48"),
    "labels too long": (LABELS, FILES[LABELS] + b"\0", "is too long: 49 bytes instead of 48"),
    "test labels empty": ("t10k-labels-idx1-ubyte", b"", "is empty"),
}


def sound() -> Dataset:
    x = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    part = Samples(x, torch.arange(20) % 4)
    return Dataset(part, part, tuple("abcd"), SampleSpec(tuple(part.store.shape[1:])))


def of_rows() -> Dataset:
    """Samples of 16 values each."""
    data = sound()
    part = replace(data.train, store=data.train.store.flatten(1))
    return replace(data, train=part, test=part, spec=SampleSpec((16,)))


# What a source may give, and what the line says of it.
BROKEN = {
    "no training samples": (
        lambda: replace(sound(), train=Samples(torch.rand(0, 1, 4, 4), torch.zeros(0).long())),
        "it has no training samples",
    ),
    "no test samples": (lambda: cut(0), "it has no test samples"),
    "labels too few": (lambda: with_y(lambda y: y[:-3]), "it has 20 training samples, but 17 training labels"),
    "labels too large": (
        lambda: with_y(put(7, 3, 4)),
        "2 of its 20 training labels are not among 0 to 3, its classes: 7",
    ),
    "labels negative": (
        lambda: with_y(put(-1, 3), "test"),
        "1 of its 20 test labels are not among 0 to 3, its classes: -1",
    ),
    "labels of fractions": (
        lambda: with_y(lambda y: y + 0.5),
        "its training labels must be whole numbers of type int64, not float32",
    ),
    "labels of another type": (
        lambda: with_y(lambda y: y.to(torch.uint8)),
        "its training labels must be whole numbers of type int64, not uint8",
    ),
    "labels in a table": (
        lambda: with_y(lambda y: y.unsqueeze(1)),
        "its training labels must have the shape (N,), not (20, 1)",
    ),
    "not a number": (
        lambda: with_x(put(float("nan"), 5, 9)),
        "2 of its 20 training samples hold NaN or infinity, the first at index 5",
    ),
    "infinity": (
        lambda: with_x(put(float("-inf"), 7), "test"),
        "1 of its 20 test samples hold NaN or infinity, the first at index 7",
    ),
    "above the range": (lambda: with_x(put(1.5, 0)), "1.5], not in its value_range [0.0, 1.0]"),
    "below the range": (lambda: with_x(put(-0.25, 0), "test"), "its test values lie in [-0.25, "),
    "another shape": (
        lambda: with_x(lambda x: x.view(20, 1, 2, 8), "test"),
        "its training samples have the shape (1, 4, 4), its test samples (1, 2, 8)",
    ),
    "no training class": (lambda: with_y(lambda y: y.clamp(max=2)), "it has no training samples of class 'd'"),
    "no test class": (lambda: cut(3), "it has no test samples of class 'd'"),
    "constant": (lambda: with_x(lambda x: x[:1].expand_as(x)), "all its 20 training samples are the same"),
    "whole numbers": (
        lambda: with_x(lambda x: (255 * x).long()),
        "its training samples must be uint8 or floating-point, not int64",
    ),
    "yes and no": (
        lambda: with_x(lambda x: x > 0.5, "test"),
        "its test samples must be uint8 or floating-point, not bool",
    ),
    "numpy": (lambda: with_x(lambda x: x.numpy()), "its training samples must be a tensor, not of type ndarray"),
    "values that are empty": (lambda: with_x(lambda x: x[..., :0]), "with values in each, not (20, 1, 4, 0)"),
    "scalars": (
        lambda: with_x(lambda x: x[:, 0, 0, 0]),
        "must have the shape (N, ...), with values in each, not (20,)",
    ),
    "another specification": (
        lambda: replace(sound(), spec=SampleSpec((16,))),
        "its spec must be a SampleSpec of the shape of its samples, (1, 4, 4), not (16,)",
    ),
    "no codes": (
        lambda: replace(of_rows(), spec=SampleSpec((16,), categories=(3, 13))),
        "20 of its 20 training samples have categories that are no one-hot codes",
    ),
    "no classes": (lambda: replace(sound(), classes=()), "its classes must be names, not ()"),
    "classes of numbers": (
        lambda: replace(sound(), classes=(0, 1, 2, 3)),
        "its classes must be names, not (0, 1, 2, 3)",
    ),
    "a class twice": (
        lambda: replace(sound(), classes=("a", "b", "c", "a")),
        "two of its classes have the same name, a",
    ),
    "no samples": (
        lambda: replace(sound(), test=(torch.rand(20, 1, 4, 4), torch.arange(20) % 4)),
        "its test part is of type tuple, not Samples",
    ),
    "an index too far": (
        lambda: replace(sound(), train=replace(sound().train, index=torch.arange(20) + 1)),
        "its training index must lie in 0 to 19, the stored samples",
    ),
    "no data": (
        lambda: (torch.rand(20, 1, 4, 4), torch.arange(20) % 4),
        "its load() returned an object of type tuple, not a Dataset",
    ),
    "no file": (lambda: np.load("nowhere.npy"), "can't be read ([Errno 2] No such file or directory: 'nowhere.npy')"),
}


class NoSource:
    """An object without a `load` method."""


class Given:
    """A source that returns the given data."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def load(self) -> Dataset:
        return self.data


def with_x(change, part="train") -> Dataset:
    data = sound()
    x = data.train.store.clone()
    return replace(data, **{part: replace(getattr(data, part), store=change(x))})


def with_y(change, part="train") -> Dataset:
    data = sound()
    return replace(data, **{part: replace(getattr(data, part), y=change(data.train.y.clone()))})


def put(value: float, *places: int):
    def change(tensor):
        tensor.view(20, -1)[list(places), 0] = value
        return tensor

    return change


def cut(samples: int):
    data = sound()
    return replace(data, test=Samples(data.test.store[:samples], data.test.y[:samples]))
