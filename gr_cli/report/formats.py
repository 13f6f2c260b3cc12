"""Tables as Markdown, LaTeX, CSV and JSON, with texts escaped."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from gr_cli.errors import one_line
from gr_cli.report.groups import parse_number
from gr_cli.report.tables import TextTable
from gr_cli.system.files import csv_text


def markdown(shown: TextTable, notes: Sequence[str]) -> str:
    """A table in Markdown with aligned columns, and its footnotes."""
    rows = [[one_line(cell).replace("|", "\\|") for cell in row] for row in [shown.headers, *shown.rows]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    alignments = ["<" if i < shown.text_columns else ">" for i in range(len(widths))]
    formats = [f"{alignment}{width}" for alignment, width in zip(alignments, widths, strict=True)]
    head, *body = ["| " + " | ".join(map(format, row, formats)) + " |" for row in rows]
    ends = ["-" if alignment == "<" else ":" for alignment in alignments]
    rule = "|" + "".join(f"{'-' * (width + 1)}{end}|" for width, end in zip(widths, ends, strict=True))
    return "\n".join([head, rule, *body, "", *(f"- {line}" for line in notes)]) + "\n"


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
_LATEX |= {char: f"\\{char}" for char in "&%$#_{}"} | {
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "−": "$-$",
    "·": r"$\cdot$",
    "≥": r"$\geq$",
}


def latex(shown: TextTable, notes: Sequence[str]) -> str:
    """A table as a LaTeX tabular with rules of the package booktabs, and its footnotes as comments."""
    head, *body = [" & ".join(map(_escape_latex, row)) + r" \\" for row in [shown.headers, *shown.rows]]
    alignments = "l" * shown.text_columns + "r" * (len(shown.headers) - shown.text_columns)
    comments = [f"% {line}" for line in ["needs \\usepackage{booktabs}", *notes]]
    lines = [
        rf"\begin{{tabular}}{{{alignments}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join([*comments, *lines]) + "\n"


def _escape_latex(text: str) -> str:
    latex = re.sub("|".join(map(re.escape, _LATEX)), lambda match: _LATEX[match[0]], one_line(text))
    # At the start of a row, [ and * would be arguments of the command that ends the row before.
    return re.sub(r"^\s*([\[*])", r"{\1}", latex)


def csv_file(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A CSV file whose cells a spreadsheet doesn't evaluate."""
    return csv_text(list(map(spreadsheet_cell, header)), [list(map(spreadsheet_cell, row)) for row in rows])


def spreadsheet_cell(value: Any) -> Any:
    """A value that a spreadsheet doesn't evaluate: text that looks like a formula gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.lstrip()[:1] in _FORMULA_PREFIXES and parse_number(text) is None else text


_FORMULA_PREFIXES = tuple("=+-@＝＋－＠")


def json_file(value: Any) -> str:
    """A JSON file; null for NaN and infinity."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return list(map(_finite, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value
