"""Columns of a table that are categories and no numbers: brought behind the numbers, as one-hot codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gr_cli.benchmarks.sources.validation import join_names
from gr_cli.errors import ConfigError, DataError, suggestion

# A column of category numbers, or the columns of a one-hot code; each by its name, or its number from 0.
Column = int | str
Categories = Sequence[Column | Sequence[Column]]

_FIELD = "benchmark.source.categories"
_MAX_CATEGORIES = 1000  # categories of a column: a code of more says little, and takes a lot of room


@dataclass(frozen=True)
class MixedTables:
    """Tables of the same columns (training, and test if there is one), their numbers apart from their categories.

    Attributes:
        numbers: (N, D) of each table.
        codes: (N, sum(sizes)) of each, zeros and ones.
        sizes: number of categories of each code.
        names: of all columns, numbers first; empty: they have none.
    """

    numbers: list[Tensor]
    codes: list[Tensor]
    sizes: tuple[int, ...]
    names: tuple[str, ...]


def split_columns(tables: Sequence[Tensor], categories: Categories, names: Sequence[str], location: str) -> MixedTables:
    """Numbers and categories of `tables` (N, D), of which `categories`, at least one, says which columns are which.

    Raises:
        ConfigError: a column is not there, or is named twice. DataError: a column holds no categories.
    """
    if any(table.dim() != 2 for table in tables):
        raise ConfigError(_FIELD, list(categories), f"are of vectors, samples have shape {tuple(tables[0].shape[1:])}")
    width = tables[0].shape[1]
    groups = [[entry] if isinstance(entry, (int, str)) else list(entry) for entry in categories]
    columns = [[_column_index(column, names, width) for column in group] for group in groups]
    used = [column for group in columns for column in group]
    twice = sorted({column for column in used if used.count(column) > 1})
    if twice or not all(columns):
        fault = f"has column {twice[0]} twice" if twice else "has a code of no columns"
        raise ConfigError(_FIELD, list(categories), f"must name each column at most once, and {fault}")
    rest = [column for column in range(width) if column not in used]
    shown = [names[column] for column in rest] if names else []
    codes: list[list[Tensor]] = [[] for _ in tables]
    sizes = []
    for group in columns:
        made, labels = _one_hot_codes(tables, group, names, location)
        sizes.append(made[0].shape[1])
        shown += labels if names else []
        for parts, code in zip(codes, made, strict=True):
            parts.append(code)
    whole = [torch.cat(parts, 1) for parts in codes]
    return MixedTables([table[:, rest] for table in tables], whole, tuple(sizes), tuple(shown))


def _column_index(column: Column, names: Sequence[str], width: int) -> int:
    """The number of a column that is given by its name or its number."""
    if str(column) in names:
        return list(names).index(str(column))
    if isinstance(column, int) and 0 <= column < width:
        return column
    known = f"is neither a name of a column ({join_names(names)}) nor" if names else "must be"
    raise ConfigError(_FIELD, column, f"{known} a number from 0 to {width - 1}", suggestion(str(column), names))


def _one_hot_codes(
    tables: Sequence[Tensor], group: Sequence[int], names: Sequence[str], place: str
) -> tuple[list[Tensor], list[str]]:
    """The one-hot codes (N, K) of each table, from a column of category numbers or from K columns, and their names."""
    called = [names[column] if names else str(column) for column in group]
    found = [table[:, list(group)].double() for table in tables]
    if len(group) > 1:
        for values in found:
            wrong = (((values != 0) & (values != 1)).any(1) | (values.sum(1) != 1)).nonzero()
            if len(wrong):
                raise DataError(
                    f"{place}: columns {join_names(called)} are no one-hot code in {len(wrong)} of {len(values)} "
                    "samples, "
                    f"the first at index {int(wrong[0])}; mend them, or leave them out of {_FIELD}"
                )
        return [values.float() for values in found], called
    known = torch.cat(found).unique()
    if (known != known.round()).any() or not 2 <= len(known) <= _MAX_CATEGORIES:
        what = f"holds {len(known):,} different values" if len(known) != 1 else "has one value alone"
        what = "holds numbers that are not whole" if (known != known.round()).any() else what
        raise DataError(f"{place}: column {called[0]} {what}, and is no category; leave it out of {_FIELD}")
    ranks = [torch.searchsorted(known, values.flatten()) for values in found]
    labels = [f"{called[0]}={value:g}" for value in known.tolist()]
    return [F.one_hot(rank, len(known)).float() for rank in ranks], labels
