"""Categorical columns of tables, one-hot encoded behind the numeric columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gr_cli.benchmarks.sources.validation import join_names
from gr_cli.errors import ConfigError, DataError, suggestion

# A column of category numbers, or the columns of a one-hot code; each by name or index.
Column = int | str
Categories = Sequence[Column | Sequence[Column]]

_FIELD = "benchmark.source.categories"
_MAX_CATEGORIES = 1000  # categories of a column; larger codes are most likely numeric columns


@dataclass(frozen=True)
class MixedTables:
    """Training and test table with numeric and categorical columns apart.

    Attributes:
        numbers: Numeric columns of each table, (N, D).
        codes: One-hot codes of each table, (N, sum(sizes)).
        sizes: Number of categories of each code.
        names: Names of all columns, numeric ones first; empty if they have none.
    """

    numbers: list[Tensor]
    codes: list[Tensor]
    sizes: tuple[int, ...]
    names: tuple[str, ...]


def split_columns(tables: Sequence[Tensor], categories: Categories, names: Sequence[str], location: str) -> MixedTables:
    """Separate numeric and categorical columns.

    Args:
        tables: Tables (N, D) with the same columns.
        categories: Categorical columns, at least one.
        names: Names of the columns; may be empty.
        location: Start of messages.

    Raises:
        ConfigError: A column doesn't exist, or is named twice.
        DataError: A column holds no categories.
    """
    if any(table.dim() != 2 for table in tables):
        raise ConfigError(_FIELD, list(categories), f"are of vectors, samples have shape {tuple(tables[0].shape[1:])}")
    width = tables[0].shape[1]
    groups = [[entry] if isinstance(entry, (int, str)) else list(entry) for entry in categories]
    columns = [[_column_index(column, names, width) for column in group] for group in groups]
    used = [column for group in columns for column in group]
    duplicates = sorted({column for column in used if used.count(column) > 1})
    if duplicates or not all(columns):
        problem = f"has column {duplicates[0]} twice" if duplicates else "has a code of no columns"
        raise ConfigError(_FIELD, list(categories), f"must name each column at most once, and {problem}")
    rest = [column for column in range(width) if column not in used]
    column_names = [names[column] for column in rest] if names else []
    codes: list[list[Tensor]] = [[] for _ in tables]
    sizes = []
    for group in columns:
        new_codes, labels = _one_hot_codes(tables, group, names, location)
        sizes.append(new_codes[0].shape[1])
        column_names += labels if names else []
        for parts, code in zip(codes, new_codes, strict=True):
            parts.append(code)
    joined = [torch.cat(parts, 1) for parts in codes]
    return MixedTables([table[:, rest] for table in tables], joined, tuple(sizes), tuple(column_names))


def _column_index(column: Column, names: Sequence[str], width: int) -> int:
    """The index of a column that is given by name or index."""
    if str(column) in names:
        return list(names).index(str(column))
    if isinstance(column, int) and 0 <= column < width:
        return column
    allowed = f"is neither a name of a column ({join_names(names)}) nor" if names else "must be"
    raise ConfigError(_FIELD, column, f"{allowed} a number from 0 to {width - 1}", suggestion(str(column), names))


def _one_hot_codes(
    tables: Sequence[Tensor], group: Sequence[int], names: Sequence[str], location: str
) -> tuple[list[Tensor], list[str]]:
    """The one-hot codes (N, K) of each table, and their names.

    `group` is one column of category numbers, or the K columns of a code.
    """
    column_names = [names[column] if names else str(column) for column in group]
    group_values = [table[:, list(group)].double() for table in tables]
    if len(group) > 1:
        for values in group_values:
            wrong = (((values != 0) & (values != 1)).any(1) | (values.sum(1) != 1)).nonzero()
            if len(wrong):
                raise DataError(
                    f"{location}: columns {join_names(column_names)} are no one-hot code in {len(wrong)} of "
                    f"{len(values)} samples, the first at index {int(wrong[0])}; "
                    f"correct them, or leave them out of {_FIELD}"
                )
        return [values.float() for values in group_values], column_names
    distinct = torch.cat(group_values).unique()
    if (distinct != distinct.round()).any() or not 2 <= len(distinct) <= _MAX_CATEGORIES:
        problem = f"holds {len(distinct):,} different values" if len(distinct) != 1 else "has one value alone"
        problem = "holds numbers that are not whole" if (distinct != distinct.round()).any() else problem
        raise DataError(f"{location}: column {column_names[0]} {problem}, and is no category; leave it out of {_FIELD}")
    ranks = [torch.searchsorted(distinct, values.flatten()) for values in group_values]
    labels = [f"{column_names[0]}={value:g}" for value in distinct.tolist()]
    return [F.one_hot(rank, len(distinct)).float() for rank in ranks], labels
