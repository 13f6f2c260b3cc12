"""Data sets in tables: CSV and Parquet files, read by pandas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from gr_cli.benchmarks.sources.array_conversion import as_label_array
from gr_cli.benchmarks.sources.base import Dataset, TestShare
from gr_cli.benchmarks.sources.load import error_summary, train_test_split
from gr_cli.benchmarks.sources.table_memory import check_table_memory
from gr_cli.benchmarks.sources.table_texts import check_integers, check_no_numbers
from gr_cli.benchmarks.sources.tensors import Tensors, ValueRange, check_value_range
from gr_cli.benchmarks.sources.validation import join_names
from gr_cli.errors import ConfigError, DataError, suggestion, truncate
from gr_cli.nn.shared_fit import SharedFit
from gr_cli.system.file_stamps import file_stamp, wait_for_next_tick
from gr_cli.system.messages import print_status
from gr_cli.types import NonNegativeInt

if TYPE_CHECKING:
    from pandas import DataFrame, Series

Missing = Literal["refuse", "drop", "mean", "median"]

_MAX_CATEGORIES = 1000  # categories of a column; a column of more is most likely an identifier or free text
_PARQUET = (".parquet", ".pq")
_MISSING_CATEGORY = "missing"
_SEPARATOR_HINT = "if its separator is no comma, set benchmark.source.separator"
_WHITESPACE = r"\s+"  # a separator, as pandas has it


class Table:
    """A table of numbers and categories, from a CSV or Parquet file with a column of labels.

    Columns of texts and of truth values are categories, each a one-hot code behind the numbers; texts that are numbers
    for the most part are refused, unless `categories` names their column. Labels are texts, whole
    numbers or truth values. In CSV files, empty fields, NA, NaN, null and the like are missing.

    Args:
        path: File `.csv`, `.tsv` or `.parquet`, the first two also compressed (`.csv.gz`); required.
        label: Column of the labels; required.
        test_path: File of the test samples, with the same columns; null: a share of those of `path`.
        test_share: Share of each class that becomes the test set, without `test_path`.
        test_seed: Seed of that test split, independent of the run's seed.
        categories: Columns of numbers that are categories, by name.
        ignore: Columns that are left out, by name; one of the files may lack them.
        missing: Missing values: `refuse`; `drop` their samples; or replace numbers by the `mean` or `median` of their
            column over the training samples, and missing categories by a category of their own.
        separator: Separator of a CSV file, one character; `\\t`: a tab; `\\s+`: any white space.
        value_range: `[low, high]` of all numbers, scaled to [0, 1]; null: unbounded; `auto`: [0, 1] if all lie in it,
            else null.
        standardise: Scale each column of numbers to mean 0 and variance 1 over the training samples.
    """

    def __init__(
        self,
        path: str | None = None,
        label: str | None = None,
        test_path: str | None = None,
        test_share: TestShare = 0.2,
        test_seed: NonNegativeInt = 0,
        categories: Sequence[str] = (),
        ignore: Sequence[str] = (),
        missing: Missing = "refuse",
        separator: str = ",",
        value_range: ValueRange | Literal["auto"] | None = "auto",
        standardise: bool = True,
    ) -> None:
        for name, value in (("path", path), ("label", label)):
            if not value:
                what = "a file .csv or .parquet" if name == "path" else "the column of the labels"
                raise ConfigError(
                    f"benchmark.source.{name}", value, f"must name {what}", f"set benchmark.source.{name}"
                )
        separator = "\t" if separator == "\\t" else separator
        if len(separator) != 1 and separator != _WHITESPACE:
            remedy = f"\\t is a tab, {_WHITESPACE} any white space"
            raise ConfigError("benchmark.source.separator", separator, "must be one character", remedy)
        check_value_range(value_range, standardise)
        self.location, self.remedy = f"benchmark.source.path={path}", "correct its contents"
        files = {"path": path} | ({} if test_path is None else {"test_path": test_path})
        self._files = tuple((f"benchmark.source.{name}", Path(str(file)).expanduser()) for name, file in files.items())
        range_key = tuple(value_range) if isinstance(value_range, (list, tuple)) else value_range
        self._choices = (str(label), tuple(categories), tuple(ignore), missing, separator)
        self._scaling = (
            ("test_share", test_share),
            ("test_seed", test_seed),
            ("value_range", range_key),
            ("standardise", standardise),
        )
        self.cache_name = str(([file.resolve() for _, file in self._files], self._choices, self._scaling))

    def load(self) -> Dataset:
        stamps = tuple((file.absolute(), file_stamp(file)) for _, file in self._files)
        wait_for_next_tick(stamp for _, stamp in stamps)
        return _load(self._files, self._choices, self._scaling, stamps)


@lru_cache(maxsize=2)  # shared by the runs of a sweep
def _load(
    files: tuple[tuple[str, Path], ...], choices: tuple[Any, ...], scaling: tuple[tuple[str, Any], ...], _: object
) -> Dataset:
    label, categories, ignore, missing, separator = choices
    locations = [f"{setting}={path}" for setting, path in files]
    frames = [_read(path, separator, location) for (_, path), location in zip(files, locations, strict=True)]
    _check_columns(frames, label, categories, ignore, locations)
    frames = [frame.drop(columns=list(ignore), errors="ignore") for frame in frames]
    frames = [
        _with_known_types(frame, label, categories, location) for frame, location in zip(frames, locations, strict=True)
    ]
    if missing == "drop":
        frames = [frame.dropna() for frame in frames]
    for frame, location in zip(frames, locations, strict=True):
        _check_missing(frame, label, missing, location)
        if frame.empty:
            what = "rows without missing values" if missing == "drop" else "rows"
            raise DataError(f"{location}: has no {what}; add some")
    labels = [
        as_label_array(frame.pop(label).to_numpy(dtype=object), "labels", location)
        for frame, location in zip(frames, locations, strict=True)
    ]
    _check_same_types(frames, locations)
    train_rows = _train_rows(labels, dict(scaling)) if len(frames) == 1 else slice(None)
    numbers, codes, names = _encode(frames, train_rows, missing, locations[0])
    tables = [np.concatenate(parts, 1) for parts in zip(numbers, *codes, strict=True)] if codes else numbers
    tests: tuple[Any, Any] = (tables[1], labels[1]) if len(tables) == 2 else (None, None)
    columns = [name for group in names for name in group]
    doubled = [name for name in columns if columns.count(name) > 1]
    if doubled:
        raise DataError(f"{locations[0]}: has a column {doubled[0]} and a category of that name; rename the column")
    options: dict[str, Any] = dict(scaling) | {"columns": columns, "categories": names[1:] or None}
    source = Tensors(tables[0], labels[0], *tests, **options)
    source.location, source.shares_memory = locations[0], False
    data = source.load()
    if missing not in ("mean", "median"):
        return data
    fill = SharedFit(f"missing values are replaced by the {missing} of all samples", "benchmark.source.missing=drop")
    return replace(data, shared_fits=(*data.shared_fits, fill))


# --- reading


def _read(path: Path, separator: str, location: str) -> DataFrame:
    """The table in a file.

    Raises:
        ConfigError: It is of another type.
        DataError: It is missing, empty or damaged, its header does not name each column once, or pyarrow is not
            installed.
    """
    import pandas as pd

    suffixes = [suffix.lower() for suffix in path.suffixes]
    is_parquet = bool(suffixes) and suffixes[-1] in _PARQUET
    if not is_parquet and not {".csv", ".tsv"} & set(suffixes[-2:]):
        raise ConfigError(location.partition("=")[0], path, "must be a file .csv, .tsv or .parquet")
    if not path.is_file():
        raise DataError(f"{location}: is {'no file' if path.exists() else 'not there'}; name a file with a table")
    if is_parquet and find_spec("pyarrow") is None:
        raise DataError(
            f"{location}: is read by pyarrow, which is not installed; install it with: pip install 'gr-cli[parquet]'"
        )
    try:
        check_table_memory(path, "\t" if ".tsv" in suffixes[-2:] else separator, is_parquet, location)
        if is_parquet:
            return pd.read_parquet(path, engine="pyarrow").reset_index(drop=True)
        separator = "\t" if ".tsv" in suffixes[-2:] else separator
        # The header as a row: pandas renames columns of the same name.
        header = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False)
        frame = pd.read_csv(path, sep=separator, low_memory=False)
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{location}: holds more than there is memory for; choose fewer rows or columns") from error
    except Exception as error:  # a damaged file raises anything
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error_summary(error)
        raise DataError(f"{location}: can't be read as a table ({reason}); write it anew") from error
    names = [name for name in header.iloc[0].tolist() if name]
    doubled = [name for name in names if names.count(name) > 1]
    if doubled:
        raise DataError(f"{location}: has two columns named {truncate(doubled[0])}; rename one")
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes the first fields of each row as its name
        raise DataError(f"{location}: has rows of more fields than the header names; name a column for each")
    return frame


def _check_columns(
    frames: Sequence[DataFrame], label: str, categories: Sequence[str], ignore: Sequence[str], locations: Sequence[str]
) -> None:
    """Check that the named columns exist, and that training and test table have the same ones.

    Raises:
        ConfigError: A column doesn't exist, or is named twice.
        DataError: The tables have different columns, or one without a name.
    """
    columns = [str(name) for name in frames[0].columns]
    for frame in frames:
        frame.columns = [str(name) for name in frame.columns]
    tested = [*columns, *frames[-1].columns]  # what is ignored may be in one of the tables
    for field, names in (("label", [label]), ("categories", categories), ("ignore", ignore)):
        for name in names:
            if name not in (tested if field == "ignore" else columns):
                hint = _SEPARATOR_HINT if len(columns) == 1 else suggestion(name, columns)
                what = f"is no column; there are {join_names(columns, 12)}"
                raise ConfigError(f"benchmark.source.{field}", name, what, hint)
    doubled = [name for name in (label, *categories) if [label, *categories, *ignore].count(name) > 1]
    if doubled:
        raise ConfigError(
            "benchmark.source.ignore", doubled[0], "is named twice; a column is label, category or ignored"
        )
    used = [[name for name in frame.columns if name not in ignore] for frame in frames]
    if sorted(used[0]) != sorted(used[-1]):
        different = sorted(set(used[0]) ^ set(used[-1]))
        raise DataError(f"{locations[-1]}: has other columns than the training table: {join_names(different)}")
    unnamed = [name for name in used[0] if name.startswith("Unnamed: ") or not name.strip()]
    if unnamed:
        raise DataError(
            f"{locations[0]}: has a column without a name, such as the index that pandas saves; leave it out with "
            f"'benchmark.source.ignore=[\"{unnamed[0]}\"]'"
        )
    if len(used[0]) < 2:
        hint = f"; {_SEPARATOR_HINT}" if len(columns) == 1 else ""
        raise DataError(f"{locations[0]}: has no columns besides the label{hint}")


# --- types and missing values


def _with_known_types(frame: DataFrame, label: str, categories: Sequence[str], location: str) -> DataFrame:
    """The table with numbers as float64, and categories as texts; None where one is missing."""
    return frame.assign(
        **{
            str(name): _as_categories(column, location) if name in categories else _as_known_type(column, location)
            for name, column in frame.items()
            if name != label
        }
    )


def _as_known_type(column: Series[Any], location: str) -> Series[Any]:
    """A column as numbers if it has a numeric type, else as categories.

    Raises:
        DataError: It holds dates, complex numbers or other objects.
    """
    import pandas as pd

    types = pd.api.types
    if types.is_bool_dtype(column.dtype):
        return _as_categories(column, location)
    if types.is_numeric_dtype(column.dtype) and not types.is_complex_dtype(column.dtype):
        return column.astype("float64")
    present = column.dropna()
    if isinstance(column.dtype, pd.CategoricalDtype):
        return _as_categories(column, location)
    check_integers(present, location)
    if present.map(type).isin([str, bool]).all():
        check_no_numbers(present, location)
        return _as_categories(column, location)
    kind = column.dtype if column.dtype != object else present.map(type).iloc[0].__name__
    raise DataError(
        f"{location}: column {truncate(str(column.name))} is of type {kind}, and must hold numbers, texts or truth "
        "values; convert it, or leave it out with benchmark.source.ignore"
    )


def _as_categories(column: Series[Any], location: str) -> Series[Any]:
    """A column of texts.

    Raises:
        DataError: It has so many different ones that it is no category.
    """
    present = column.dropna()
    is_whole = present.map(lambda value: isinstance(value, float) and value.is_integer())
    texts = present.where(~is_whole, present.map(lambda v: int(v) if isinstance(v, float) and v.is_integer() else v))
    distinct = texts.astype(str).nunique()
    if distinct > _MAX_CATEGORIES:
        raise DataError(
            f"{location}: column {truncate(str(column.name))} has {distinct:,} different values, and is no category; "
            "convert it to numbers, or leave it out with benchmark.source.ignore"
        )
    return texts.astype(str).astype(object).reindex(column.index)


def _check_missing(frame: DataFrame, label: str, missing: Missing, location: str) -> None:
    """Check that no label is missing, and no other value either if these are refused.

    Raises:
        DataError: Some are.
    """
    counts = frame.isna().sum()
    if counts[label]:
        raise DataError(
            f"{location}: {counts[label]:,} of its {len(frame):,} labels are missing; add them, or use "
            "benchmark.source.missing=drop"
        )
    columns = [f"{name} ({count:,})" for name, count in counts.items() if count]
    if columns and missing == "refuse":
        raise DataError(
            f"{location}: values are missing in {join_names(columns)} of its {len(frame):,} rows; "
            "benchmark.source.missing=drop leaves these rows out, mean or median fills them"
        )


def _check_same_types(frames: Sequence[DataFrame], locations: Sequence[str]) -> None:
    """Check that a column is numeric in both tables or in none.

    Raises:
        DataError: One differs.
    """
    for name in frames[0].columns:
        if len({frame[name].dtype == object for frame in frames}) > 1:
            raise DataError(
                f"{locations[-1]}: column {truncate(name)} holds numbers in one table, and texts in the other; "
                "write it alike"
            )


def _train_rows(labels: Sequence[np.ndarray[Any, Any]], scaling: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The rows that are training samples, as `Tensors` will divide them; constants that fill rows come from these."""
    codes = torch.from_numpy(np.unique(labels[0], return_inverse=True)[1].astype(np.int64))
    if int(torch.bincount(codes).min()) < 2:
        return np.arange(len(codes))  # `Tensors` reports the class
    train, _ = train_test_split(torch.arange(len(codes)), codes, scaling["test_share"], scaling["test_seed"])
    return np.sort(train.index.numpy()) if train.index is not None else np.arange(len(codes))


# --- encoding

_Matrix = np.ndarray[Any, Any]


def _encode(
    frames: Sequence[DataFrame], train_rows: Any, missing: Missing, location: str
) -> tuple[list[_Matrix], list[list[_Matrix]], list[list[str]]]:
    """Numbers and one-hot codes of the tables.

    Returns:
        The numbers of each table (N, D); for each category the codes of each table (N, K); and names: of the numbers,
        and of the entries of each code.
    """
    numeric = [name for name in frames[0].columns if frames[0][name].dtype != object]
    numbers = [frame[numeric] for frame in frames]
    train = numbers[0].iloc[train_rows]
    empty = [name for name in numeric if train[name].isna().all()]
    if empty:
        raise DataError(
            f"{location}: column {truncate(empty[0])} has no value; leave it out with benchmark.source.ignore"
        )
    if missing in ("mean", "median"):
        fill = train.mean() if missing == "mean" else train.median()
        numbers = [table.fillna(fill) for table in numbers]
    codes, names = [], [[str(name) for name in numeric]]
    for name in (name for name in frames[0].columns if name not in numeric):
        has_gaps = any(frame[name].isna().any() for frame in frames)
        if has_gaps and any(_MISSING_CATEGORY in set(frame[name]) for frame in frames):
            raise DataError(
                f"{location}: column {truncate(name)} has missing values, and a category {_MISSING_CATEGORY!r}, as "
                "which they would be filled; rename that category, or use benchmark.source.missing=drop"
            )
        columns = [frame[name].where(frame[name].notna(), _MISSING_CATEGORY) for frame in frames]
        values = sorted(set().union(*(set(column) for column in columns)))
        if len(values) < 2:
            print_status(f"{location}: column {name} has one value alone, and is left out")
            continue
        codes.append(
            [(column.to_numpy()[:, None] == np.array(values, dtype=object)).astype(float) for column in columns]
        )
        names.append([f"{name}={value}" for value in values])
    return [table.to_numpy(dtype=float, copy=True) for table in numbers], codes, names
