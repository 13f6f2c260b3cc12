"""Text of a list of rows that grows: each row is formatted once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]


class GrowingText:
    """Formats the new rows of a list at each call, and keeps the text of the others.

    A table that is saved after every task would otherwise be formatted as often as there are tasks.

    >>> text = GrowingText(lambda rows: ",".join(str(row["x"]) for row in rows))
    >>> rows = [{"x": 1}, {"x": 2}]
    >>> text.blocks(rows)
    ['1,2']
    >>> rows.append({"x": 3})
    >>> text.blocks(rows)
    ['1,2', '3']

    Args:
        format_rows: Makes the text of consecutive rows.
    """

    def __init__(self, format_rows: Callable[[Sequence[Row]], str]) -> None:
        self._format_rows = format_rows
        self._blocks: list[str] = []
        self._num_rows = 0
        self._last_row: Row | None = None

    def blocks(self, rows: Sequence[Row]) -> list[str]:
        """The text of `rows` in blocks, one for each call with new rows. Rows must not change once they were passed."""
        if self._num_rows and (len(rows) < self._num_rows or rows[self._num_rows - 1] is not self._last_row):
            self._blocks, self._num_rows = [], 0  # rows were removed
        if new := rows[self._num_rows :]:
            self._blocks.append(self._format_rows(new))
            self._num_rows, self._last_row = len(rows), rows[-1]
        return list(self._blocks)


def json_columns(rows: Sequence[Row]) -> str:
    """Rows as JSON, a list of values for each column. Rows may have different columns."""
    names = dict.fromkeys(name for row in rows for name in row)
    if all(len(row) == len(names) for row in rows):
        return json.dumps({name: [row[name] for row in rows] for name in names})
    return json.dumps(list(rows))


def rows_from_json(blocks: Sequence[str]) -> list[Row]:
    """The rows whose blocks `json_columns` made.

    Raises:
        ValueError: A block is malformed.
    """
    rows: list[Row] = []
    for block in blocks:
        content = json.loads(block)
        if isinstance(content, list):
            rows += content
        else:
            rows += [dict(zip(content, values, strict=True)) for values in zip(*content.values(), strict=True)]
    return rows
