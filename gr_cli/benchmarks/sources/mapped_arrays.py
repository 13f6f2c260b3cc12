"""Memory-mapped arrays as samples, without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from gr_cli.errors import DataError
from gr_cli.system.mapping import as_mapped, is_mapped

_REMEDY = "save them as uint8 or float32 as they are to be trained on, or set storage=memory"


def mapped_samples(values: np.memmap[Any, Any], name: str, location: str) -> Tensor:
    """A memory-mapped array as a tensor.

    Raises:
        DataError: It has another type than uint8 or float32, another byte order or order of axes than usual.
    """
    if values.dtype not in (np.uint8, np.float32) or not values.dtype.isnative or not values.flags.c_contiguous:
        order = "" if values.flags.c_contiguous else " in Fortran order"
        raise DataError(
            f"{location}: its {name} samples are {values.dtype.str}{order}, {values.nbytes / 2**30:,.1f} GiB, and such "
            f"values can't be trained on where they lie in the file; {_REMEDY}"
        )
    return as_mapped(np.asarray(values))


def check_in_place(stores: Sequence[Tensor], cause: str, location: str) -> None:
    """Raise DataError if any store is memory-mapped, since `cause` needs a changed copy of it."""
    for store in stores:
        if is_mapped(store):
            raise DataError(
                f"{location}: {cause} needs a changed copy of its samples, {store.nbytes / 2**30:,.1f} GiB, which are "
                f"memory-mapped; {_REMEDY}"
            )
