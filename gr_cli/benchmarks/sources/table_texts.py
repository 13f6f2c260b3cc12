"""Columns of a table that hold texts or Python integers, and should hold numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gr_cli.errors import DataError, truncate

if TYPE_CHECKING:
    from pandas import Series


def check_integers(values: Series[Any], location: str) -> None:
    """Check that a column is not one of whole numbers, some of which have more than 64 bits.

    Raises:
        DataError: It is; pandas reads such numbers as Python integers or texts.
    """
    texts = values.astype(str)
    texts = texts[texts != ""]  # among such numbers, pandas does not take an empty field as missing
    whole = texts.str.fullmatch(r"[+-]?\d{1,400}")
    large = [text for text in texts[whole] if not -(2**63) <= int(text) < 2**63]
    if large and bool(whole.all()):
        raise DataError(
            f"{location}: column {truncate(str(values.name))} has whole numbers beyond 64 bits, such as "
            f"{truncate(large[0])}; write them with a decimal point, name the column in benchmark.source.categories, "
            "or leave it out with benchmark.source.ignore"
        )


def check_no_numbers(values: Series[Any], location: str) -> None:
    """Check that at most half of the texts of a column are numbers, those with a decimal comma included.

    Raises:
        DataError: More are; as categories their order would be lost.
    """
    import pandas as pd

    texts = values.astype(str)
    if pd.to_numeric(texts.str.replace(",", "."), errors="coerce").notna().sum() * 2 <= len(texts):
        return
    others = texts[pd.to_numeric(texts, errors="coerce").isna()]
    example = truncate((texts if others.empty else others).iloc[0])
    raise DataError(
        f"{location}: column {truncate(str(values.name))} has numbers and texts, such as {example!r}; write numbers "
        "with a decimal point, leave missing ones empty, or name the column in benchmark.source.categories"
    )
