"""Validation of data sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Samples
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.benchmarks.store_values import extremes
from gr_cli.errors import DataError, truncate
from gr_cli.nn.sample_spec import SampleSpec


def validate(data: Dataset, source_name: str, remedy: str) -> Dataset:
    """The data set itself, if training and testing on it are possible.

    Reads float values once, in batches.

    Args:
        data: Data set of a source.
        source_name: Start of the error message.
        remedy: End of the error message.

    Raises:
        DataError: The first problem that is found.
    """
    problem = next(_problems(data), None)
    if problem is not None:
        raise DataError(f"{source_name}: {problem}; {remedy}")
    return data


def _problems(data: Dataset) -> Iterator[str]:
    """The problems of a data set, structural ones first; each check relies on those before it."""
    splits = {"training": data.train, "test": data.test}
    if not data.classes or not all(isinstance(name, str) for name in data.classes):
        yield f"its classes must be names, not {data.classes!r:.80}"
    for name, samples in splits.items():
        yield from _structure_problems(name, samples)
    shapes = [tuple(samples.store.shape[1:]) for samples in splits.values()]
    if shapes[0] != shapes[1]:
        yield f"its training samples have the shape {shapes[0]}, its test samples {shapes[1]}"
    if not isinstance(data.spec, SampleSpec) or data.spec.shape != shapes[0]:
        spec_shape = getattr(data.spec, "shape", data.spec)
        yield f"its spec must be a SampleSpec of the shape of its samples, {shapes[0]}, not {spec_shape!r:.80}"
    for name, samples in splits.items():
        yield from _label_problems(name, samples.y, data.classes)
        yield from _value_problems(name, samples, data.spec)


def _structure_problems(name: str, samples: Samples) -> Iterator[str]:
    """Wrong types, shapes and lengths."""
    if not isinstance(samples, Samples):
        yield f"its {name} part is of type {type(samples).__name__}, not Samples"
    tensors = {"samples": samples.store, "labels": samples.y} | (
        {} if samples.index is None else {"index": samples.index}
    )
    for role, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            yield f"its {name} {role} must be a tensor, not of type {type(tensor).__name__}"
    store, y, index = samples.store, samples.y, samples.index
    if store.dtype != torch.uint8 and not store.is_floating_point():
        yield f"its {name} samples must be uint8 or floating-point, not {_dtype_name(store.dtype)}"
    for role, tensor in list(tensors.items())[1:]:
        if tensor.dtype != torch.int64:
            yield f"its {name} {role} must be whole numbers of type int64, not {_dtype_name(tensor.dtype)}"
        if tensor.dim() != 1:
            yield f"its {name} {role} must have the shape (N,), not {tuple(tensor.shape)}"
    if store.dim() < 2 or 0 in store.shape[1:]:
        yield f"its {name} samples must have the shape (N, ...), with values in each, not {tuple(store.shape)}"
    rows = store if index is None else index
    if len(rows) != len(y):
        yield f"it has {len(rows)} {name} samples, but {len(y)} {name} labels"
    if len(rows) == 0:
        yield f"it has no {name} samples"
    if index is not None and not 0 <= int(index.min()) <= int(index.max()) < len(store):
        yield f"its {name} index must lie in 0 to {len(store) - 1}, the stored samples"


def _label_problems(name: str, y: Tensor, classes: Sequence[str]) -> Iterator[str]:
    """Labels without a class, and classes without samples."""
    invalid = y[(y < 0) | (y >= len(classes))]
    if len(invalid):
        yield (
            f"{len(invalid)} of its {len(y)} {name} labels are not among 0 to {len(classes) - 1}, its classes: "
            f"{join_names(invalid.unique().tolist())}"
        )
    missing = (torch.bincount(y, minlength=len(classes)) == 0).nonzero().flatten().tolist()
    if missing:
        yield f"it has no {name} samples of {join_names([f'class {truncate(classes[label])!r}' for label in missing])}"


def _value_problems(name: str, samples: Samples, spec: SampleSpec) -> Iterator[str]:
    """NaN and infinity, values outside the range, invalid one-hot codes, and identical samples."""
    if samples.store.is_floating_point():
        low, high = extremes(samples.store)
        if not _is_valid(low, high, spec):  # the store may hold other samples, too
            batches = [torch.aminmax(x) for x in samples.raw_batches()]
            low, high = (torch.stack(values).aminmax()[i].item() for i, values in enumerate(zip(*batches, strict=True)))
        if not (isfinite(low) and isfinite(high)):
            invalid = torch.cat([~x.flatten(1).isfinite().all(1) for x in samples.raw_batches()]).nonzero().squeeze(1)
            rows = invalid if samples.index is None else samples.index[invalid]  # rows of the store
            yield (
                f"{len(invalid)} of its {len(samples)} {name} samples hold NaN or infinity, "
                f"the first at index {int(rows.min())}"
            )
        if spec.value_range is not None and not spec.value_range[0] <= low <= high <= spec.value_range[1]:
            yield f"its {name} values lie in [{low:.9g}, {high:.9g}], not in its value_range {list(spec.value_range)}"
    num_invalid = (
        0 if not spec.categories else sum(int((spec.nearest_valid(x) != x).any(1).sum()) for x in samples.raw_batches())
    )
    if num_invalid:
        yield f"{num_invalid} of its {len(samples)} {name} samples have categories that are no one-hot codes"
    first = next(samples.raw_batches())[:1]
    if len(samples) > 1 and all(bool((x == first).all()) for x in samples.raw_batches()):
        yield f"all its {len(samples)} {name} samples are the same"


def _is_valid(low: float, high: float, spec: SampleSpec) -> bool:
    """Whether values from `low` to `high` are finite and in the range of `spec`."""
    range_low, range_high = spec.value_range or (low, high)
    return isfinite(low) and isfinite(high) and range_low <= low <= high <= range_high


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def join_names(names: Sequence[object], max_names: int = 5) -> str:
    """The first `max_names` names, and how many more there are."""
    listed = ", ".join(truncate(str(name)) for name in names[:max_names])
    return listed + (f" and {len(names) - max_names:,} more" if len(names) > max_names else "")
