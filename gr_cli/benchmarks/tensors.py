"""Samples that are there as tensors or arrays: made one tensor each, their labels whole numbers from 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Len
from torch import Tensor

from gr_cli.benchmarks.base import Samples
from gr_cli.benchmarks.sources import Data, TestShare, in_short, tested_on
from gr_cli.checks import Count, checked
from gr_cli.errors import ConfigError, DataError
from gr_cli.tell import tell

Range = Annotated[Sequence[float], Len(2, 2)]
Layout = Literal["auto", "NCHW", "NHWC"]

_FAR = 10.0  # values that are taken as they are, and further out than this, are worth a word


class Tensors:
    """Samples in memory, as tensors or NumPy arrays: images (N, H, W), (N, C, H, W) or (N, H, W, C), or vectors
    (N, D).

    Bytes, and whole numbers from 0 to 255, are scaled to [0, 1]; where there are but 0 and 1, these are black and
    white. Labels are whole numbers or texts; they become 0, 1, ... in their order, which their names tell.

    Args:
        x: samples for training; for testing, too, if there are no others.
        y: their labels (N,).
        x_test: samples for testing.
        y_test: their labels.
        test_share: part of each class that is for testing, where there is no `x_test`.
        test_seed: which samples that is; not the run's seed, so all runs are tested on the same.
        value_range: [low, high] in which the values lie, to be scaled to [0, 1]; None: they are unbounded and stay as
            they are; `auto`: [0, 1] if floats lie in that, else None.
        standardise: bring the values of each channel, or of each entry of vectors, to mean 0 and variance 1 over the
            whole training part, tasks to come included. They are unbounded then.
        layout: where the channels of (N, ., ., .) are; `auto` finds them where there are 1 or 3.
    """

    @checked
    def __init__(
        self,
        x: Any,
        y: Any,
        x_test: Any = None,
        y_test: Any = None,
        test_share: TestShare = 0.2,
        test_seed: Count = 0,
        value_range: Range | Literal["auto"] | None = "auto",
        standardise: bool = False,
        layout: Layout = "auto",
    ) -> None:
        check_range(value_range, standardise)
        self.place, self.remedy = "the tensors", "mend them"
        self._given = (x, y, x_test, y_test)
        self._share, self._seed = test_share, test_seed
        self._range, self._standardise, self._layout = value_range, standardise, layout
        self._data: Data | None = None

    def load(self) -> Data:
        if self._data is None:  # the runs of a sweep share it
            self._data = self._made()
        return self._data

    def _made(self) -> Data:
        x, y, x_test, y_test = self._given
        if (x_test is None) != (y_test is None):
            raise DataError(f"{self.place}: test samples need labels, and labels samples; give both or none")
        given = {"training": (x, y)} | ({} if x_test is None else {"test": (x_test, y_test)})
        stores = [_samples(part[0], name, self._layout, self.place) for name, part in given.items()]
        labels = [_labels(part[1], name, self.place) for name, part in given.items()]
        for name, store, label in zip(given, stores, labels, strict=True):
            if len(store) != len(label):
                raise DataError(
                    f"{self.place}: has {len(store)} {name} samples, but {len(label)} {name} labels; give one for each"
                )
        if len({store.dtype for store in stores}) > 1:
            raise DataError(f"{self.place}: has bytes for training or testing, and floats for the other; use one type")
        classes, codes = _counted(labels, self.place)
        stores, value_range = _scaled(stores, self._range, self.place)
        if len(stores) == 1:
            train, test = tested_on(stores[0], codes[0], self._share, self._seed)
        else:
            train, test = (Samples(store, code) for store, code in zip(stores, codes, strict=True))
        if self._standardise:
            train, test = _standardised(train, test)
        return Data(train, test, classes, value_range=None if self._standardise else value_range)


def check_range(value_range: object, standardise: bool) -> None:
    """Refuse a range that is none, and one of values that shall have none."""
    if isinstance(value_range, (list, tuple)):
        if not value_range[0] < value_range[1]:
            raise ConfigError("benchmark.source.value_range", list(value_range), "must be [low, high], the lower first")
        if standardise:
            raise ConfigError(
                "benchmark.source.standardise", "true", "makes values unbounded, so they can have no value_range"
            )


# --- samples


def _samples(given: Any, name: str, layout: Layout, place: str) -> Tensor:
    """Samples as a store (N, ...) of bytes or float32."""
    x = _tensor(given, f"{name} samples", place)
    if x.dtype == torch.bool:
        x = x.to(torch.uint8) * 255
    elif x.is_floating_point():
        x = x.float()
    elif x.dtype != torch.uint8:
        if x.is_complex() or not len(x) or not 0 <= int(x.min()) <= int(x.max()) <= 255:
            raise DataError(
                f"{place}: its {name} samples must be uint8, whole numbers from 0 to 255, or floating-point, "
                f"not {str(x.dtype).removeprefix('torch.')}; convert them"
            )
        x = x.to(torch.uint8)
    if x.dim() not in (2, 3, 4) or not x.numel():
        raise DataError(
            f"{place}: its {name} samples have shape {tuple(x.shape)}; they must be images (N, H, W), (N, C, H, W) "
            "or (N, H, W, C), or vectors (N, D)"
        )
    if x.dim() == 3:
        x = x.unsqueeze(1)
    elif x.dim() == 4 and _channels_last(x.shape, layout, name):
        x = x.permute(0, 3, 1, 2)
    return x.contiguous()


def _channels_last(shape: torch.Size, layout: Layout, name: str) -> bool:
    if layout != "auto":
        return layout == "NHWC"
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first == last:
        raise ConfigError(
            "benchmark.source.layout",
            "auto",
            f"can't tell the channels of {name} samples of shape {tuple(shape)}",
            "say NCHW or NHWC",
        )
    return last


def _tensor(given: Any, what: str, place: str) -> Tensor:
    if isinstance(given, Tensor):
        return given.detach().cpu()
    try:
        array = np.asarray(given)
        # torch takes only arrays in the byte order of the machine, and of some types.
        return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))
    except (TypeError, ValueError) as error:
        raise DataError(f"{place}: its {what} are no numbers ({in_short(error)}); convert them") from error


def _scaled(stores: list[Tensor], chosen: Any, place: str) -> tuple[list[Tensor], tuple[float, float] | None]:
    """Stores whose values lie in the range that is returned with them, once they are no bytes any more."""
    low, high = min(float(x.min()) for x in stores), max(float(x.max()) for x in stores)
    if stores[0].dtype == torch.uint8 and (chosen == "auto" or tuple(chosen or ()) == (0, 255)):
        return [255 * x for x in stores] if high == 1 and chosen == "auto" else stores, (0.0, 1.0)
    if chosen == "auto":
        if 0 <= low <= high <= 1:
            return stores, (0.0, 1.0)
        if max(-low, high) > _FAR:
            tell(
                f"{place}: values lie in [{low:.6g}, {high:.6g}] and are taken as they are; "
                "consider benchmark.source.standardise=true or value_range=[low,high]"
            )
    if chosen is None or chosen == "auto":
        return stores, None
    bottom, top = chosen
    if not bottom <= low <= high <= top:
        raise ConfigError(
            "benchmark.source.value_range",
            list(chosen),
            f"values lie in [{low:.6g}, {high:.6g}]",
            "name a range that holds them",
        )
    return [((x.float() - bottom) / (top - bottom)).clamp_(0, 1) for x in stores], (0.0, 1.0)


def _standardised(train: Samples, test: Samples) -> tuple[Samples, Samples]:
    """Both with mean 0 and variance 1 of each channel, or entry, in training. What never changes is only shifted."""
    seen = train.x.float()
    axes = [axis for axis in range(seen.dim()) if axis != 1]
    variance, mean = torch.var_mean(seen, axes, correction=0, keepdim=True)
    deviation = variance.sqrt().where(variance > 0, 1.0)
    if train.store is test.store:
        store = (train.store.float() - mean) / deviation
        return Samples(store, train.y, index=train.index), Samples(store, test.y, index=test.index)
    first, second = (Samples((part.store.float() - mean) / deviation, part.y) for part in (train, test))
    return first, second


# --- labels


def _labels(given: Any, name: str, place: str) -> np.ndarray[Any, Any]:
    """Labels (N,) of whole numbers or texts."""
    y = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if np.issubdtype(y.dtype, np.bytes_):
        y = np.char.decode(y, "utf-8", "replace")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(f"{place}: its {name} labels must have the shape (N,), not {y.shape}")
    if y.dtype.kind not in "biuU":
        raise DataError(f"{place}: its {name} labels must be whole numbers or texts, not {y.dtype}; convert them")
    return y


def _counted(labels: list[np.ndarray[Any, Any]], place: str) -> tuple[tuple[str, ...], list[Tensor]]:
    """The names of all classes in their order, and the labels as int64 from 0."""
    if len({np.issubdtype(label.dtype, np.str_) for label in labels}) > 1:
        raise DataError(f"{place}: has labels of numbers and of texts; use one kind for training and testing")
    names, codes = np.unique(np.concatenate(labels), return_inverse=True)
    parts = torch.from_numpy(codes.astype(np.int64)).split([len(label) for label in labels])
    return tuple(str(name) for name in names.tolist()), list(parts)
