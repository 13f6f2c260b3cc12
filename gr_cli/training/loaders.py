"""Validation of data loaders and their batches for the Python API."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gr_cli.benchmarks.sources.array_conversion import as_real_array
from gr_cli.errors import ConfigError, DataError
from gr_cli.nn.sample_spec import SampleSpec, as_floats
from gr_cli.scenario import Scenario
from gr_cli.system.messages import print_status
from gr_cli.training.learner import Learner

Loader = Iterable[Any]
ValueRange = tuple[float, float]

_LABELS = ("y", "label", "labels", "target", "targets")  # names of labels in batches that are mappings
LARGE_VALUE = 10.0  # samples with larger values get a warning: few networks learn from them
# Values outside their range by at most this fraction of it are rounding errors of resizing or half precision.
_TOLERANCE = 2**-10


@dataclass(frozen=True)
class BatchFormat:
    """What all batches of a trainer have in common.

    Attributes:
        spec: Specification of a sample.
        num_units: Number of the model's outputs; labels are below it.
        dtype: Type of the samples for training.
        device: Device of the samples for training.
    """

    spec: SampleSpec
    num_units: int
    dtype: torch.dtype
    device: torch.device

    def read(
        self, batch: Any, loader: str, seen_labels: Tensor, units_of_other_tasks: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Samples (B, *shape) and int64 labels (B,) on the device, from a batch of `loader`.

        Args:
            batch: What the loader yielded.
            loader: Its name, for errors.
            seen_labels: bool (U,) on the CPU; labels of the batch are set to True.
            units_of_other_tasks: bool (U,) on the CPU, output units that labels must not be.

        Raises:
            DataError: The batch does not fit, with the reason.
        """
        x, y = read_batch(batch, loader, self.dtype)
        x = self.check(x, y, loader)
        labels = y.cpu()
        seen_labels[labels] = True
        if units_of_other_tasks is not None and (reused := units_of_other_tasks[labels]).any():
            raise DataError(
                f"{loader}: labels {_first_values(labels[reused])} are outputs of an earlier task, and with "
                "scenario=task each task has outputs of its own; add "
                f"{int(units_of_other_tasks.nonzero().max()) + 1} to labels that count from 0 in "
                "this task, or set scenario=domain if tasks share their classes"
            )
        return x.to(self.device), y.to(self.device)

    def check(self, x: Tensor, y: Tensor, loader: str) -> Tensor:
        """The samples, with rounding errors beyond their range clamped.

        Raises:
            DataError: Samples or labels do not fit, with the reason.
        """
        if tuple(x.shape[1:]) != self.spec.shape:
            shapes = f"{self.spec.shape}, not {tuple(x.shape[1:])}"
            raise DataError(f"{loader}: samples must have the shape of the first ones, {shapes}")
        low, high = _min_max(y)
        if not 0 <= low <= high < self.num_units:
            allowed = f"from 0 to {self.num_units - 1}, the model's outputs"
            raise DataError(f"{loader}: labels must be whole numbers {allowed}; got {_first_values(y)}")
        if self.spec.value_range is None:
            return x
        (bottom, top), (low, high) = self.spec.value_range, _min_max(x)
        if bottom <= low and high <= top:
            return x
        slack = _TOLERANCE * (top - bottom)
        if not bottom - slack <= low <= high <= top + slack:
            raise DataError(
                f"{loader}: samples must lie in [{bottom:g}, {top:g}], as config.value_range or the first batch says, "
                f"not in [{low:.6g}, {high:.6g}]; set value_range=[low, high], or null for values without bounds"
            )
        return self.spec.nearest_valid(x)


def read_batch(batch: Any, loader: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Samples (B, ...) of `dtype` and int64 labels (B,) on their own device, from a batch of a loader.

    Bytes and images are scaled to [0, 1]; other numbers keep their values.

    Raises:
        DataError: `batch` is not a pair of samples and labels, with the reason.
    """
    given_x, given_y = _split_batch(batch, loader)
    x, y = _to_tensor(given_x, "samples", loader), _to_tensor(given_y, "labels", loader)
    if y.dim() == 0:
        raise DataError(f"{loader}: yields single samples; wrap the data set: DataLoader(data, batch_size=32)")
    if y.dim() == 2 and y.shape[1] == 1:
        y = y.squeeze(1)
    if y.dim() == 2 and len(y) == len(x):
        raise DataError(f"{loader}: labels must be (B,), not {tuple(y.shape)}; of one-hot rows give y.argmax(1)")
    if y.is_floating_point():
        raise DataError(f"{loader}: labels must be whole numbers; got {_first_values(y)}")
    if x.dim() < 2 or y.dim() != 1 or len(x) != len(y):
        raise DataError(f"{loader}: a batch must be x (B, ...) and y (B,), not {tuple(x.shape)} and {tuple(y.shape)}")
    if x.numel() == 0:
        raise DataError(f"{loader}: a batch is empty, its x is {tuple(x.shape)}; leave it out")
    return _to_floats(x, loader, dtype), y.to(torch.int64)


def _split_batch(batch: Any, loader: str) -> tuple[Any, Any]:
    """Samples and labels of a batch: a pair, a triple with a task label, or a mapping with two entries."""
    if isinstance(batch, Mapping):
        labels = [name for name in batch if str(name).lower() in _LABELS]
        others = [name for name in batch if name not in labels]
        if len(labels) == len(others) == 1:
            return batch[others[0]], batch[labels[0]]
        names = ", ".join(map(str, batch))
        raise DataError(f"{loader}: ambiguous x and y among the entries {names} of a batch; yield pairs (x, y)")
    if isinstance(batch, (tuple, list)) and len(batch) == 3:
        if _is_task_label(batch[2]):
            return batch[0], batch[1]
        raise DataError(
            f"{loader}: yields triples whose third entry is not a task label (one whole number, the same for all "
            "samples); yield pairs (x, y)"
        )
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    length = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
    raise DataError(f"{loader}: must yield pairs (x, y) of tensors, not {type(batch).__name__}{length}")


def _is_task_label(value: Any) -> bool:
    try:
        labels = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError):
        return False
    return labels.dtype.kind in "iu" and labels.ndim <= 1 and labels.size > 0 and bool((labels == labels.flat[0]).all())


# --- conversion to tensors


def _to_tensor(given: Any, what: str, loader: str) -> Tensor:
    """A dense tensor of numbers, detached from any graph."""
    plain = isinstance(given, Tensor) and given.layout == torch.strided and not given.is_nested
    if plain and not (given.is_quantized or given.is_complex()):
        x: Tensor = given.detach()
        return x.clone() if x.is_inference() else x  # autograd refuses inference tensors
    if isinstance(given, (tuple, list)) and given and (isinstance(given[0], Tensor) or _is_image(given[0])):
        tensors = [_to_tensor(item, what, loader) for item in given]
        first, others = tuple(tensors[0].shape), sorted({tuple(tensor.shape) for tensor in tensors})[1:]
        if others:
            raise DataError(f"{loader}: {what} have different shapes, {first} and {others[-1]}; resize them")
        return torch.stack(tensors)
    array = np.asarray(_image_to_array(given) if _is_image(given) else as_real_array(given, what, loader), order="C")
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _is_image(given: Any) -> bool:
    return hasattr(given, "getbands") and hasattr(given, "mode")


def _image_to_array(image: Any) -> np.ndarray[Any, Any]:
    """The pixels of a PIL image, (C, H, W)."""
    array = np.asarray(image.convert("RGB") if image.mode == "P" else image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(np.moveaxis(array, -1, 0))


def _to_floats(x: Tensor, loader: str, dtype: torch.dtype) -> Tensor:
    if x.dtype == torch.uint8:
        return as_floats(x, dtype)
    floats = x.to(dtype)
    low, high = _min_max(floats)
    if not (math.isfinite(low) and math.isfinite(high)):
        overflows = x.is_floating_point() and bool(x.isfinite().all())
        why = f": {x.abs().max():g} is beyond {str(dtype).removeprefix('torch.')}" if overflows else ""
        raise DataError(f"{loader}: samples hold NaN or infinity; remove or repair them{why}")
    return floats


def infer_value_range(x: Tensor, stated: Sequence[float] | Literal["auto"] | None, loader: str) -> ValueRange | None:
    """The value range of the samples: as `stated`, or [0, 1] if the first batch `x` lies in it, or None.

    Prints a warning if the values look unscaled.
    """
    low, high = _min_max(x)
    if stated is not None and not isinstance(stated, str):
        if stated[1] - stated[0] > LARGE_VALUE * max(high - low, 1.0) > 0 and stated[0] <= low <= high <= stated[1]:
            print_status(
                f"{loader}: values lie in [{low:.6g}, {high:.6g}], far within value_range; bytes become [0, 1]"
            )
        return float(stated[0]), float(stated[1])
    if max(-low, high) > LARGE_VALUE:
        unscaled = f"values lie in [{low:.6g}, {high:.6g}] and are not scaled"
        print_status(f"{loader}: {unscaled}; if these are pixels, scale them to [0, 1]")
    return (0.0, 1.0) if stated == "auto" and low >= 0 and high <= 1 else None


def warn_of_mismatched_labels(classes: Sequence[Tensor], scenario: Scenario, task: str) -> None:
    """Print a line if the labels of the last task look like those of another scenario.

    Args:
        classes: bool (U,) for each task, its labels.
        scenario: The scenario.
        task: Name of the last task, for the message.
    """
    if len(classes) < 2:
        return
    *earlier, current = classes
    known = torch.stack(earlier).any(0)
    if scenario.is_class_incremental and not (current & ~known).any():
        print_status(f"{task}: has no new class; if its labels count from 0 in each task, add an offset to them")
    elif not scenario.units_are_task_specific and not (current & known).any():
        print_status(f"{task}: shares no class with earlier tasks; with scenario=domain all tasks have the same labels")


def _min_max(values: Tensor) -> tuple[float, float]:
    """Minimum and maximum, NaN if any value is NaN, with one synchronisation."""
    values = values if values.is_floating_point() else values.to(torch.int64)  # aminmax lacks some types
    low, high = torch.stack(torch.aminmax(values)).tolist()
    return low, high


def _first_values(y: Tensor) -> list[Any]:
    values: list[Any] = (y if y.is_floating_point() else y.to(torch.int64)).unique()[:9].tolist()
    return values


# --- loaders


def check_loader(loader: Any, name: str) -> None:
    """Check that `loader` is an iterable of batches.

    Raises:
        ConfigError: It is something else.
    """
    iterable = hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")
    if not iterable or isinstance(loader, (str, bytes, Mapping, Tensor, np.ndarray)):
        raise ConfigError(name, type(loader).__name__, "must be an iterable of batches (x, y), such as a DataLoader")


def check_validation_loader(loader: Any, name: str) -> None:
    """Check before training that a validation loader can be iterated after each task.

    Raises:
        ConfigError: It is not a loader.
        DataError: It is an iterator, or empty.
    """
    if loader is None:
        return
    check_loader(loader, name)
    if hasattr(loader, "__next__"):
        raise DataError(f"{name}: can be iterated only once, and is needed after each task; give a DataLoader")
    if num_batches(loader) == 0:
        raise DataError(f"{name}: has no batch")


def check_repeatable(learner: Learner, loader: Loader, length: int | None, num_epochs: int) -> None:
    """Check that a loader has a length, or can be iterated again, where the strategy or `num_epochs` needs that.

    Raises:
        ConfigError: It has no length.
        DataError: It can be iterated only once.
    """
    strategy, any_length = learner.strategy, 10**9
    schedules = {optimizer.schedule for optimizer in (*learner.optimizers, *learner.generator_optimizers)}
    if length is None and (strategy.num_steps(any_length) > any_length or schedules != {"constant"}):
        raise ConfigError(
            "train_loader",
            "one without len()",
            "generator_training=after and learning-rate schedules need the number of batches",
            "give a loader that has len()",
        )
    second_pass = strategy.needs_second_pass or getattr(strategy.regularizer, "needs_second_pass", False)
    if (second_pass or num_epochs > 1) and hasattr(loader, "__next__"):
        why = "this strategy iterates over its samples again" if second_pass else f"num_epochs is {num_epochs}"
        raise DataError(f"train_loader: can be iterated only once, and {why}; give a list or a DataLoader")


def num_batches(loader: Loader) -> int | None:
    """The length of a loader; None if it has none."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def last_batch_size(loader: Any) -> int | None:
    """Number of samples in the last batch of a DataLoader; None if unknown before it is loaded."""
    batch_size, drops_last = getattr(loader, "batch_size", None), getattr(loader, "drop_last", False)
    num_samples = num_batches(getattr(loader, "sampler", None))  # type: ignore[arg-type]
    if not isinstance(batch_size, int) or not num_samples or drops_last:
        return None
    return num_samples % batch_size or batch_size


def repeat_loader(loader: Loader, passes: Iterable[int], batches_per_pass: int | None) -> Iterator[Any]:
    """The batches of `loader`, once for each of `passes`, which count from 0; none if the first pass is empty.

    Raises:
        DataError: A later pass is empty, or a pass has more or fewer batches than `batches_per_pass`, its len().
    """
    end = object()
    for epoch in passes:
        batches, num_read = iter(loader), 0
        batch = next(batches, end)
        while batch is not end:
            num_read += 1
            # Checked before the last batch is yielded: the training loop stops after it.
            following = next(batches, end) if num_read == batches_per_pass else None
            if num_read == batches_per_pass and following is not end:
                raise DataError(
                    f"train_loader: len() is {batches_per_pass}, and it yields more batches; fix its __len__"
                )
            yield batch
            batch = next(batches, end) if num_read != batches_per_pass else end
        if num_read == 0 and epoch == 0:
            return
        if num_read == 0:
            raise DataError("train_loader: has no batch when iterated again; give a list or a DataLoader")
        if batches_per_pass is not None and num_read < batches_per_pass:
            raise DataError(
                f"train_loader: len() is {batches_per_pass}, and it yields {num_read} batches; fix its __len__"
            )
