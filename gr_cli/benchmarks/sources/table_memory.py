"""Memory that a table needs, estimated from its first rows before it is read."""

from __future__ import annotations

from pathlib import Path

import torch

from gr_cli.errors import DataError
from gr_cli.system.memory import available_memory

_SMALL = 16 << 20  # bytes of a file that is read without a check
_SAMPLE_ROWS = 1000
# While a table is encoded there are about six numbers of eight bytes for each of its cells (measured: 6.1 to 7.4).
_BYTES_PER_CELL = 48
_COMPRESSION = 4  # of a compressed text, at least


def check_table_memory(path: Path, separator: str, is_parquet: bool, location: str) -> None:
    """Check that a table, with one-hot codes of its texts, fits into the free memory; small files are not checked.

    Raises:
        DataError: It does not.
    """
    size = path.stat().st_size
    if size < _SMALL:
        return
    rows, columns = _parquet_shape(path) if is_parquet else _csv_shape(path, separator, size)
    needed, free = _BYTES_PER_CELL * rows * columns, available_memory(torch.device("cpu"))
    if needed > free:
        raise DataError(
            f"{location}: about {rows:,} rows of {columns:,} columns with one-hot codes need {needed / 2**30:.1f} GiB "
            f"of memory, and {free / 2**30:.1f} GiB are free; write its numbers to .npy files, which are "
            "memory-mapped, or choose fewer rows or columns"
        )


def _parquet_shape(path: Path) -> tuple[int, int]:
    from pyarrow.parquet import read_metadata  # type: ignore[import-untyped]

    metadata = read_metadata(path)
    return int(metadata.num_rows), int(metadata.num_columns)


def _csv_shape(path: Path, separator: str, size: int) -> tuple[int, int]:
    """Rows, by the mean length of the first ones, and columns; a column of texts counts for each of its categories."""
    import pandas as pd

    sample = pd.read_csv(path, sep=separator, nrows=_SAMPLE_ROWS)
    text_bytes = len(sample.to_csv(index=False, header=False).encode())
    if path.suffix.lower() not in (".csv", ".tsv"):
        size *= _COMPRESSION
    texts = [name for name in sample.columns if not pd.api.types.is_numeric_dtype(sample[name].dtype)]
    columns = sum(sample[name].nunique() for name in texts) + len(sample.columns) - len(texts)
    return round(size * len(sample) / max(text_bytes, 1)), columns
