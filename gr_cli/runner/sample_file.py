"""Single samples that a caller hands in, to be forgotten: from a file of arrays, an image, or an array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gr_cli.benchmarks.sources.array_conversion import as_label_array, as_real_array
from gr_cli.benchmarks.sources.arrays import ARRAY_SUFFIXES, read_arrays
from gr_cli.benchmarks.sources.image_decoding import ValueType, decode_image
from gr_cli.errors import ConfigError, DataError
from gr_cli.nn.sample_spec import SampleSpec, as_floats


def samples_of(samples: Path | Any, label: str | None, spec: SampleSpec) -> tuple[Tensor, list[str]]:
    """Samples (N, *spec.shape) as floats, and the name of the class of each.

    Args:
        samples: A file with arrays `x` and `y`, or `x` alone; an image; or an array of samples, or of one.
        label: Class of all samples, if there is no `y`.
        spec: Specification of the run's samples.

    Raises:
        ConfigError: The label is missing, or given twice.
        DataError: The file can't be read, or the samples don't have the shape and range of the run's.
    """
    location = f"samples={samples}" if isinstance(samples, (str, Path)) else "samples"
    x, y = _read(Path(samples), spec, location) if isinstance(samples, (str, Path)) else (samples, None)
    values = torch.from_numpy(as_real_array(x, "samples", location))
    values = values.unsqueeze(0) if values.shape == spec.shape else values
    if values.shape[1:] != spec.shape or len(values) == 0:
        raise DataError(
            f"{location}: has samples of shape {tuple(values.shape[1:])}, and those of the run have {spec.shape}; hand "
            "them in as the strategy had them, after features and transforms"
        )
    if not (values.dtype == torch.uint8 or values.is_floating_point()):
        raise DataError(f"{location}: its samples are whole numbers; give bytes, or floats as the strategy had them")
    values = as_floats(values)
    if spec.value_range is not None and not spec.value_range[0] <= values.min() <= values.max() <= spec.value_range[1]:
        raise DataError(f"{location}: has values outside {list(spec.value_range)}, the range of the run; scale them")
    return values, _labels(y, label, len(values), location)


def _read(path: Path, spec: SampleSpec, location: str) -> tuple[Any, Any]:
    """Samples and labels of a file; None for labels that it does not hold."""
    if path.suffix.lower() in ARRAY_SUFFIXES:
        if not path.is_file():
            raise DataError(f"{location}: is no file; name one with x and y")
        arrays = read_arrays(path, location)
        if "x" not in arrays:
            raise DataError(f"{location}: holds no array x; save x, and y or label=<class>")
        return arrays["x"], arrays.get("y")
    if not spec.is_image:
        raise DataError(
            f"{location}: can't be an image, because the strategy had vectors of shape {spec.shape}; save the vector "
            "as x in a .npz file"
        )
    try:
        image = decode_image(str(path), (spec.shape[0], spec.shape[1], spec.shape[2]))
    except Exception as error:  # whatever Pillow raises
        raise DataError(f"{location}: can't be read as an image; name an image, or arrays .npz, .npy or .pt") from error
    if image.value_type is not ValueType.BYTES:
        raise DataError(f"{location}: has more than 8 bits per value; save it as floats, x in a .npz file")
    return image.values, None


def _labels(y: Any, label: str | None, number: int, location: str) -> list[str]:
    if label is not None and y is not None:
        raise ConfigError("label", label, f"{location} has labels already", "leave it out")
    if label is not None:
        return [label] * number
    if y is None:
        raise ConfigError("label", None, f"the class of {location} is missing", "add label=<class>")
    names = [str(name) for name in np.atleast_1d(as_label_array(y, "labels", location)).tolist()]
    if len(names) != number:
        raise DataError(f"{location}: has {number} samples and {len(names)} labels; give one for each")
    return names
