"""Tables of runs as pandas data frames."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from pandas import DataFrame as DataFrame

from gr_cli.errors import FolderError
from gr_cli.results.audits import MEMBERSHIP, Audit, audit_of
from gr_cli.results.folder import AUDIT_FOLDER, TABLES_FILE, RunFolder
from gr_cli.results.tables import AFTER_TASK, ITERATION, TASK
from gr_cli.system.reading import read_error_reason, read_table

# Key columns of the tables that tables.json does not describe.
_KEYS = {
    "accuracy_matrix": (AFTER_TASK.name,),
    "metrics": ("metric",),
    "history": (TASK.name, ITERATION.name),
    "timing": (TASK.name,),
}


def table_names(folder: RunFolder) -> list[str]:
    """Names of the tables of a run, without `.csv`.

    Raises:
        FolderError: tables.json can't be read.
    """
    formats = _formats(folder)
    return [*_KEYS, *formats, *([MEMBERSHIP] if MEMBERSHIP not in formats and _is_audited(folder) else [])]


def table_frame(folder: RunFolder, name: str) -> DataFrame:
    """A table of a run. Its key columns are the index; an empty cell is NaN.

    Columns of numbers are int64 or float64. A column `task` that has an entry `all` holds integers and that text.

    Raises:
        FolderError: The run has no such table, or it can't be read, or was changed since the run finished.
    """
    if name in _KEYS:
        keys: Sequence[str] = _KEYS[name]
    elif (table_format := _formats(folder).get(name)) is not None:
        keys = [column.name for column in table_format.columns if column.key]
    elif name == MEMBERSHIP and (audit := _audit(folder)) is not None:
        return _frame(audit.rows, [column.name for column in audit.format.columns if column.key])
    else:
        names = ", ".join(sorted(table_names(folder)))
        raise FolderError(f"{folder.path}: has no table {name!r}; there are {names}")
    try:
        status = folder.status() or {}
        if status.get("state") == "finished":
            folder.check_file(f"{name}.csv", status)
        rows = read_table(folder.path / f"{name}.csv")
    except (OSError, ValueError) as error:
        raise _unreadable(folder, f"{name}.csv", error) from error
    missing = [key for key in keys if rows and key not in rows[0]]
    if missing:
        raise _unreadable(folder, f"{name}.csv", ValueError(f"has no column {missing[0]!r}"))
    return _frame(rows, keys)


def _frame(rows: Sequence[Mapping[str, str]], keys: Sequence[str]) -> DataFrame:
    columns = rows[0] if rows else keys
    return DataFrame({column: _typed([row[column] for row in rows]) for column in columns}).set_index(list(keys))


def matrix_frame(folder: RunFolder) -> DataFrame:
    """The accuracy matrix: a row per trained task, a column per evaluated task, both by number from 0.

    Raises:
        FolderError: It can't be read.
    """
    frame = table_frame(folder, "accuracy_matrix")
    frame.columns = pd.Index([int(name.removeprefix("task_")) for name in frame.columns], name=TASK.name)
    return frame.astype("float64")


def long_frame(tables: Iterable[tuple[Mapping[str, Any], DataFrame]], identifying: Sequence[str]) -> DataFrame:
    """The rows of a table of several runs below each other.

    Args:
        tables: For each run the values that identify it, and its table as `table_frame` returns it.
        identifying: Names of these values, the first columns; `setting.<name>` where the table has a column `<name>`.
    """
    frames = []
    for values, frame in tables:
        rows = frame.reset_index()
        names = {name: f"setting.{name}" if name in rows else name for name in identifying}
        given = DataFrame({names[name]: [values.get(name)] * len(rows) for name in identifying})
        frames.append(pd.concat([given, rows], axis=1))
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else DataFrame(columns=list(identifying))


def rows_frame(rows: Sequence[Mapping[str, Any]], index: str, numeric: Collection[str] = ()) -> DataFrame:
    """A frame of rows with values by column.

    Args:
        rows: The rows. A missing value is NaN, or None among values of several types.
        index: The column that becomes the index.
        numeric: Columns of floats, even if all their values are missing.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row)) or [index]
    values = {name: [row.get(name) for row in rows] for name in columns}
    return DataFrame({name: _column(values[name], name in numeric) for name in columns}).set_index(index)


def _column(values: Sequence[Any], is_float: bool) -> pd.Series[Any]:
    types = {type(value) for value in values if value is not None}
    if is_float or (types and types <= {int, float}):
        is_whole = not is_float and all(value is not None and float(value).is_integer() for value in values)
        return pd.Series(list(map(int, values)), dtype="int64") if is_whole else pd.Series(values, dtype="float64")
    return pd.Series(values, dtype=None if types == {str} or (types == {bool} and None not in values) else object)


def _formats(folder: RunFolder) -> Mapping[str, Any]:
    try:
        return folder.tables()
    except (OSError, ValueError) as error:
        raise _unreadable(folder, TABLES_FILE, error) from error


def _is_audited(folder: RunFolder) -> bool:
    """Whether the run has an audit, also one that can't be read: other tables don't need it."""
    try:
        return _audit(folder) is not None
    except FolderError:
        return True


def _audit(folder: RunFolder) -> Audit | None:
    """What gr-audit measured of the run."""
    try:
        return audit_of(folder.path)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _unreadable(folder, AUDIT_FOLDER, error) from error


def _unreadable(folder: RunFolder, name: str, error: Exception) -> FolderError:
    return FolderError(
        f"{folder.path / name}: can't be read ({read_error_reason(error)}); "
        "the tables are written after the first task, and rewritten by the run's command"
    )


def _typed(cells: Sequence[str]) -> pd.Series[Any]:
    """Cells of a CSV file as integers, floats, or a mixture of integers and texts."""
    texts = pd.Series(cells, dtype=object)
    numbers = pd.to_numeric(texts.where(~texts.isin(["", "nan"])), errors="coerce")
    is_text = numbers.isna() & ~texts.isin(["", "nan"])
    if is_text.any():
        values: list[Hashable] = [int(text) if text.isascii() and text.isdigit() else text for text in cells]
        return pd.Series(values, dtype=object if any(isinstance(value, int) for value in values) else None)
    is_whole = bool(len(texts)) and texts.str.fullmatch(r"-?\d+").all()
    return numbers.astype("int64" if is_whole else "float64")
