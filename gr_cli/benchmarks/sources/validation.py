"""Validation of data sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite

import torch
from torch import Tensor

from gr_cli.benchmarks.base import EVALUATION_BATCH, Samples
from gr_cli.benchmarks.sources.base import Dataset
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
    fault = next(_problems(data), None)
    if fault is not None:
        raise DataError(f"{source_name}: {fault}; {remedy}")
    return data


def _problems(data: Dataset) -> Iterator[str]:
    """The problems of a data set, structural ones first; each check relies on those before it."""
    parts = {"training": data.train, "test": data.test}
    if not data.classes or not all(isinstance(name, str) for name in data.classes):
        yield f"its classes must be names, not {data.classes!r:.80}"
    for name, part in parts.items():
        yield from _structure_problems(name, part)
    shapes = [tuple(part.store.shape[1:]) for part in parts.values()]
    if shapes[0] != shapes[1]:
        yield f"its training samples have the shape {shapes[0]}, its test samples {shapes[1]}"
    if not isinstance(data.spec, SampleSpec) or data.spec.shape != shapes[0]:
        shown = getattr(data.spec, "shape", data.spec)
        yield f"its spec must be a SampleSpec of the shape of its samples, {shapes[0]}, not {shown!r:.80}"
    for name, part in parts.items():
        yield from _label_problems(name, part.y, data.classes)
        yield from _value_problems(name, part, data.spec)


def _structure_problems(name: str, part: Samples) -> Iterator[str]:
    """Wrong types, shapes and lengths."""
    if not isinstance(part, Samples):
        yield f"its {name} part is of type {type(part).__name__}, not Samples"
    tensors = {"samples": part.store, "labels": part.y} | ({} if part.index is None else {"index": part.index})
    for role, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            yield f"its {name} {role} must be a tensor, not of type {type(tensor).__name__}"
    store, y, index = part.store, part.y, part.index
    if store.dtype != torch.uint8 and not store.is_floating_point():
        yield f"its {name} samples must be uint8 or floating-point, not {_dtype_name(store.dtype)}"
    for role, tensor in list(tensors.items())[1:]:
        if tensor.dtype != torch.int64:
            yield f"its {name} {role} must be whole numbers of type int64, not {_dtype_name(tensor.dtype)}"
        if tensor.dim() != 1:
            yield f"its {name} {role} must have the shape (N,), not {tuple(tensor.shape)}"
    if store.dim() < 2 or 0 in store.shape[1:]:
        yield f"its {name} samples must have the shape (N, ...), with values in each, not {tuple(store.shape)}"
    samples = store if index is None else index
    if len(samples) != len(y):
        yield f"it has {len(samples)} {name} samples, but {len(y)} {name} labels"
    if len(samples) == 0:
        yield f"it has no {name} samples"
    if index is not None and not 0 <= int(index.min()) <= int(index.max()) < len(store):
        yield f"its {name} index must lie in 0 to {len(store) - 1}, the stored samples"


def _label_problems(name: str, y: Tensor, classes: Sequence[str]) -> Iterator[str]:
    """Labels without a class, and classes without samples."""
    others = y[(y < 0) | (y >= len(classes))]
    if len(others):
        yield (
            f"{len(others)} of its {len(y)} {name} labels are not among 0 to {len(classes) - 1}, its classes: "
            f"{join_names(others.unique().tolist())}"
        )
    missing = (torch.bincount(y, minlength=len(classes)) == 0).nonzero().flatten().tolist()
    if missing:
        yield f"it has no {name} samples of {join_names([f'class {truncate(classes[label])!r}' for label in missing])}"


def _value_problems(name: str, part: Samples, spec: SampleSpec) -> Iterator[str]:
    """NaN and infinity, values outside the range, invalid one-hot codes, and identical samples."""
    if part.store.is_floating_point():
        extremes = torch.stack([torch.stack(torch.aminmax(x)) for x in raw_batches(part)])
        low, high = extremes[:, 0].min().item(), extremes[:, 1].max().item()  # NaN if any value is NaN
        if not (isfinite(low) and isfinite(high)):
            broken = torch.cat([~x.flatten(1).isfinite().all(1) for x in raw_batches(part)]).nonzero().squeeze(1)
            where = broken if part.index is None else part.index[broken]  # rows of the store
            yield (
                f"{len(broken)} of its {len(part)} {name} samples hold NaN or infinity, "
                f"the first at index {int(where.min())}"
            )
        if spec.value_range is not None and not spec.value_range[0] <= low <= high <= spec.value_range[1]:
            yield f"its {name} values lie in [{low:.9g}, {high:.9g}], not in its value_range {list(spec.value_range)}"
    wrong = 0 if not spec.categories else sum(int((spec.nearest_valid(x) != x).any(1).sum()) for x in raw_batches(part))
    if wrong:
        yield f"{wrong} of its {len(part)} {name} samples have categories that are no one-hot codes"
    first = next(raw_batches(part))[:1]
    if len(part) > 1 and all(bool((x == first).all()) for x in raw_batches(part)):
        yield f"all its {len(part)} {name} samples are the same"


def raw_batches(part: Samples) -> Iterator[Tensor]:
    """The stored samples in batches, so that no second copy of a large set is made."""
    for start in range(0, len(part), EVALUATION_BATCH):
        piece = slice(start, start + EVALUATION_BATCH)
        yield part.store[piece if part.index is None else part.index[piece]]


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def join_names(names: Sequence[object], max_names: int = 5) -> str:
    """The first `max_names` names, and how many more there are."""
    shown = ", ".join(truncate(str(name)) for name in names[:max_names])
    return shown + (f" and {len(names) - max_names:,} more" if len(names) > max_names else "")
