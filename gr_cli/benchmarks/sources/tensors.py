"""Data sets from tensors or arrays in memory."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Len
from torch import Tensor

from gr_cli.benchmarks.base import Samples
from gr_cli.benchmarks.sources.array_conversion import as_label_array, as_real_array
from gr_cli.benchmarks.sources.base import Dataset, TestShare
from gr_cli.benchmarks.sources.categories import Categories, split_columns
from gr_cli.benchmarks.sources.load import train_test_split
from gr_cli.benchmarks.sources.mapped_arrays import check_in_place, mapped_samples
from gr_cli.benchmarks.sources.validation import join_names
from gr_cli.benchmarks.store_values import extremes, is_zero_or_one
from gr_cli.config.arguments import validate_arguments
from gr_cli.errors import ConfigError, DataError
from gr_cli.nn.sample_spec import SampleSpec, as_floats
from gr_cli.nn.shared_fit import SharedFit
from gr_cli.system.cache import row_blocks
from gr_cli.system.mapping import is_mapped, mark_as_mapped
from gr_cli.system.messages import print_status
from gr_cli.types import NonNegativeInt

ValueRange = Annotated[Sequence[float], Len(2, 2)]
ChannelLayout = Literal["auto", "NCHW", "NHWC", "NCL", "NLC"]

_FLOAT64_THRESHOLD = 1e15  # larger float32 values need float64 statistics
_UNSCALED_WARNING_THRESHOLD = 10.0  # larger unscaled values are reported


class Tensors:
    """Tensors or arrays in memory: images (N, H, W), (N, C, H, W) or (N, H, W, C), vectors (N, D), or time series.

    Integers from 0 to 255 of any type are scaled to [0, 1]; if only 0 and 1 occur, these become 0.0 and 1.0. Other
    integers are treated as floats. Labels are integers, whole floats, one-hot rows or texts, and become 0, 1, ... in
    sorted order. Sparse samples are made dense. A read-only `np.memmap` of uint8 or float32 stays memory-mapped.

    Args:
        x: Samples for training, and for testing where there is no `x_test`.
        y: Labels (N,) of `x`.
        x_test: Samples for testing.
        y_test: Labels of `x_test`.
        test_share: Share of each class that becomes the test set, where there is no `x_test`.
        test_seed: Seed of that test split, independent of the run's seed.
        value_range: `[low, high]` of the values, scaled to [0, 1]; null: unbounded values, unchanged; `auto`: [0, 1] if
            all floats lie in it, else null.
        standardise: Scale each channel, or each entry of a vector, to mean 0 and variance 1 over the training set of
            all tasks. The values are unbounded then.
        layout: Axes of 4-dimensional arrays; `auto`: channels are the axis of size 1 or 3. `NCL` and `NLC` say that
            3-dimensional arrays are time series of C channels and L steps, not images.
        categories: Categorical columns of vectors, by name or index from 0: one entry is a column of category numbers,
            which is one-hot encoded, a list of entries the columns of one one-hot code. They are moved behind the
            numeric columns and are neither scaled nor standardised.
        columns: Names of the columns of vectors.
    """

    @validate_arguments
    def __init__(
        self,
        x: Any,
        y: Any,
        x_test: Any = None,
        y_test: Any = None,
        test_share: TestShare = 0.2,
        test_seed: NonNegativeInt = 0,
        value_range: ValueRange | Literal["auto"] | None = "auto",
        standardise: bool = False,
        layout: ChannelLayout = "auto",
        categories: Categories | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        check_value_range(value_range, standardise)
        self.location, self.remedy = "the tensors", "correct them"
        self._arrays, self.shares_memory = (x, y, x_test, y_test), True
        self._share, self._seed = test_share, test_seed
        self._range, self._standardise, self._layout = value_range, standardise, layout
        self._categories, self._columns = categories, tuple(columns or ())
        self._data: Dataset | None = None

    def load(self) -> Dataset:
        if self._data is None:  # shared by the runs of a sweep
            self._data = self._load()
        return self._data

    def _load(self) -> Dataset:
        x, y, x_test, y_test = self._arrays
        if (x_test is None) != (y_test is None):
            raise DataError(f"{self.location}: test samples need labels, and labels samples; give both or none")
        arrays = {"training": (x, y)} | ({} if x_test is None else {"test": (x_test, y_test)})
        stores = [
            _as_store(arrays_of_split[0], name, self._layout, self.location) for name, arrays_of_split in arrays.items()
        ]
        raw_labels = [
            as_label_array(arrays_of_split[1], f"{name} labels", self.location)
            for name, arrays_of_split in arrays.items()
        ]
        for name, store, label in zip(arrays, stores, raw_labels, strict=True):
            if len(store) != len(label):
                raise DataError(
                    f"{self.location}: has {len(store)} {name} samples, but {len(label)} {name} labels; "
                    "give one for each"
                )
        if self.shares_memory:  # later changes of the arrays must not affect validated and hashed samples
            stores = [store if is_mapped(store) else store.clone() for store in stores]
        classes, codes = _encode_labels(raw_labels, self.location)
        stores, spec = self._prepare_stores(stores)
        if len(stores) == 1:
            too_few = [classes[i] for i in (torch.bincount(codes[0]) < 2).nonzero().flatten().tolist()]
            if too_few:
                raise DataError(
                    f"{self.location}: has one sample of {join_names(too_few)}, and needs two of each class, "
                    "for training and for testing; add some, or leave the class out"
                )
            train, test = train_test_split(stores[0], codes[0], self._share, self._seed)
        else:
            train, test = (Samples(store, code) for store, code in zip(stores, codes, strict=True))
        if self._standardise:
            check_in_place(stores, "standardise=true", self.location)
            train, test = _standardise(train, test, sum(spec.categories))
        return Dataset(train, test, classes, spec, self._shared_fits(), classes_follow_labels=True)

    def _shared_fits(self) -> tuple[SharedFit, ...]:
        fits = []
        if self._standardise:
            reason = "values are standardised over all training samples"
            fits.append(SharedFit(reason, "benchmark.source.standardise=false leaves them as they are"))
        if self._categories:
            fits.append(SharedFit("columns of categories have a code for each category in the data"))
        return tuple(fits)

    def _prepare_stores(self, stores: list[Tensor]) -> tuple[list[Tensor], SampleSpec]:
        """Scaled stores with one-hot codes behind the numbers, and their specification; not yet standardised."""
        if self._columns and stores[0].shape[1:] != (len(self._columns),):
            raise DataError(
                f"{self.location}: has {len(self._columns)} names of columns, and samples of shape "
                f"{tuple(stores[0].shape[1:])}; give a name to each"
            )
        if self._categories:
            check_in_place(stores, "categories", self.location)
        table = split_columns(stores, self._categories, self._columns, self.location) if self._categories else None
        stores = stores if table is None else table.numbers
        value_range = None
        if stores[0].numel():
            stores = _common_dtype(stores, self.location)
            stores, value_range = _scale_to_range(stores, self._range, self._standardise, self.location)
            if not self._standardise:
                stores = _as_training_dtype(stores, self.location)
        if table is not None:
            stores = [as_floats(store) for store in stores]
            pairs = zip(stores, table.codes, strict=True)
            stores = [torch.cat([store, code.to(store.dtype)], 1) for store, code in pairs]
        shape, names = tuple(stores[0].shape[1:]), self._columns if table is None else table.names
        categories = () if table is None else table.sizes
        return stores, SampleSpec(shape, None if self._standardise else value_range, 1, categories, names)


def check_value_range(value_range: object, standardise: bool) -> None:
    """Raise ConfigError for an empty range, or for a range of standardised values."""
    if isinstance(value_range, (list, tuple)):
        if not value_range[0] < value_range[1]:
            raise ConfigError("benchmark.source.value_range", list(value_range), "must be [low, high], the lower first")
        if standardise:
            raise ConfigError(
                "benchmark.source.standardise", "true", "makes values unbounded, so they can have no value_range"
            )


# --- samples


def _as_store(values: Any, name: str, layout: ChannelLayout, location: str) -> Tensor:
    """Samples as a store (N, ...) of uint8, int64, float32 or float64.

    Raises:
        DataError: The shape is unsupported, or values are NaN or infinite.
    """
    if isinstance(values, np.memmap) and not values.flags.writeable:
        x = mapped_samples(values, name, location)
    else:
        x = torch.from_numpy(np.ascontiguousarray(as_real_array(values, f"{name} samples", location)))
    if x.dtype == torch.bool:
        x = x.to(torch.uint8) * 255
    if x.dim() not in (2, 3, 4) or not x.numel():
        raise DataError(
            f"{location}: its {name} samples have shape {tuple(x.shape)}{'' if x.numel() else ', which is empty'}; "
            "they must be images (N, H, W), (N, C, H, W) or (N, H, W, C), time series, or vectors (N, D)"
        )
    if x.is_floating_point() and not all(map(isfinite, extremes(x))):
        invalid = torch.cat([~block.flatten(1).isfinite().all(1) for block in row_blocks(x)]).nonzero()
        raise DataError(
            f"{location}: {len(invalid)} of its {len(x)} {name} samples hold NaN or infinity, the first at index "
            f"{int(invalid[0])}; correct them"
        )
    samples = _channels_first(x, layout, name)
    return mark_as_mapped(samples) if is_mapped(x) else samples.contiguous()


def _channels_first(x: Tensor, layout: ChannelLayout, name: str) -> Tensor:
    """Images as (N, C, H, W), series as (N, C, L), vectors as they are."""
    if layout in ("NCL", "NLC"):
        if x.dim() != 3:
            raise ConfigError(
                "benchmark.source.layout", layout, f"is for arrays of three axes, {name} samples have {x.dim()}"
            )
        return x if layout == "NCL" else x.permute(0, 2, 1)
    if x.dim() == 3:
        return x.unsqueeze(1)
    return x.permute(0, 3, 1, 2) if x.dim() == 4 and _channels_last(x.shape, layout, name) else x


def _common_dtype(stores: list[Tensor], location: str) -> list[Tensor]:
    """Stores of uint8 if all values are integers from 0 to 255, else of floats.

    Raises:
        DataError: One store holds integers, the other floats.
    """
    if len({store.is_floating_point() for store in stores}) > 1:
        raise DataError(
            f"{location}: has whole numbers for training or testing, and floats for the other; use one type for both"
        )
    if stores[0].is_floating_point():
        return stores
    bytes_alone = all(
        store.dtype == torch.uint8 or (extremes(store).low >= 0 and extremes(store).high <= 255) for store in stores
    )
    if not bytes_alone:
        check_in_place(stores, "whole numbers other than 0 to 255", location)
    return [store.to(torch.uint8 if bytes_alone else torch.float64) for store in stores]


def _as_training_dtype(stores: list[Tensor], location: str) -> list[Tensor]:
    """The stores as uint8 or float32.

    Raises:
        DataError: Distinct values become equal, or infinite, in float32.
    """
    for store in stores:
        if store.dtype == torch.float64:
            low, high = float(store.min()), float(store.max())
            low32, high32 = float(store.min().float()), float(store.max().float())
            if max(-low32, high32) == float("inf") or (low < high and low32 == high32):
                reason = "beyond" if max(-low32, high32) == float("inf") else "which differ too little for"
                raise DataError(
                    f"{location}: values lie in [{low:.9g}, {high:.9g}], {reason} the 32-bit floats that are trained "
                    "on; scale them by benchmark.source.standardise=true or value_range=[low,high]"
                )
    return [store if store.dtype == torch.uint8 else store.float() for store in stores]


def _channels_last(shape: torch.Size, layout: ChannelLayout, name: str) -> bool:
    if layout != "auto":
        return layout == "NHWC"
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first == last:
        raise ConfigError(
            "benchmark.source.layout",
            "auto",
            f"can't determine the channels of {name} samples of shape {tuple(shape)}",
            "use NCHW or NHWC",
        )
    return last


def _scale_to_range(
    stores: list[Tensor], configured: Any, standardise: bool, location: str
) -> tuple[list[Tensor], tuple[float, float] | None]:
    """Stores scaled to the configured range, and the range of their values as floats; None: unbounded.

    Raises:
        ConfigError: Values lie outside the configured range.
    """
    if stores[0].dtype == torch.uint8 and (configured == "auto" or tuple(configured or ()) == (0, 255)):
        if configured == "auto" and all(map(is_zero_or_one, stores)) and any(map(Tensor.any, stores)):
            check_in_place(stores, "bytes that are 0 or 1", location)
            stores = [255 * x for x in stores]
        return stores, (0.0, 1.0)
    low, high = min(extremes(x).low for x in stores), max(extremes(x).high for x in stores)
    if configured == "auto":
        if 0 <= low <= high <= 1:
            return stores, (0.0, 1.0)
        if max(-low, high) > _UNSCALED_WARNING_THRESHOLD and not standardise:
            print_status(
                f"{location}: values lie in [{low:.6g}, {high:.6g}] and are used unchanged; "
                "consider benchmark.source.standardise=true or value_range=[low,high]"
            )
    if configured is None or configured == "auto":
        return stores, None
    range_low, range_high = configured
    if not range_low <= low <= high <= range_high:
        raise ConfigError(
            "benchmark.source.value_range",
            list(configured),
            f"values lie in [{low:.6g}, {high:.6g}]",
            "name a range that holds them",
        )
    if (range_low, range_high) == (0, 1) and stores[0].dtype == torch.float32:
        return stores, (0.0, 1.0)
    check_in_place(stores, f"value_range={list(configured)}", location)
    return [((_as_wide_float(x) - range_low) / (range_high - range_low)).clamp_(0, 1) for x in stores], (0.0, 1.0)


def _standardise(train: Samples, test: Samples, codes: int) -> tuple[Samples, Samples]:
    """Both splits with mean 0 and variance 1 per channel, or per entry of vectors, over the training split.

    Constant channels are only centred. The last `codes` entries, one-hot codes, are unchanged.
    """
    values = _as_wide_float(train.x)
    axes = [axis for axis in range(values.dim()) if axis != 1]
    variance, mean = torch.var_mean(values, axes, correction=0, keepdim=True)
    deviation = variance.sqrt().where(variance > 0, 1.0)
    if codes:
        mean[:, -codes:], deviation[:, -codes:] = 0.0, 1.0

    def scaled(store: Tensor) -> Tensor:
        return ((_as_wide_float(store) - mean) / deviation).float()

    if train.store is test.store:
        store = scaled(train.store)
        return Samples(store, train.y, index=train.index), Samples(store, test.y, index=test.index)
    return Samples(scaled(train.store), train.y), Samples(scaled(test.store), test.y)


def _as_wide_float(x: Tensor) -> Tensor:
    """As float32, or as float64 where squares of the values would overflow or lose small differences."""
    return x.double() if x.dtype == torch.float64 or float(x.abs().max()) > _FLOAT64_THRESHOLD else x.float()


# --- labels


def _encode_labels(raw_labels: list[np.ndarray[Any, Any]], location: str) -> tuple[tuple[str, ...], list[Tensor]]:
    """The sorted names of all classes, and the labels as int64 from 0.

    Raises:
        DataError: The splits have labels of different types.
    """
    if len({"iO".find(label.dtype.kind) >= 0 or label.dtype.kind for label in raw_labels}) > 1:
        raise DataError(f"{location}: has labels of numbers and of texts; use one kind for training and testing")
    names, codes = np.unique(np.concatenate(raw_labels), return_inverse=True)
    parts = torch.from_numpy(codes.astype(np.int64)).split([len(label) for label in raw_labels])
    return tuple(str(name) for name in names.tolist()), list(parts)
