"""The table of a report as CSV, JSON, Markdown and LaTeX."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from gr_cli.errors import one_line
from gr_cli.report.groups import NO_VALUE, Group, format_seeds, parse_number
from gr_cli.report.tables import ReportRow, ReportTable, footnotes, text_table
from gr_cli.results.statistics import Summary


def csv_table(table: ReportTable) -> tuple[list[str], list[list[Any]]]:
    """Header and rows with all statistics of each metric, unrounded; fractions in [0, 1]."""
    statistics = ("mean", "sem", "ci95_low", "ci95_high", "n")
    columns = ["configuration"] + [column.label for column in table.columns] + ["runs", "seeds", "unfinished_seeds"]
    columns += [f"{metric}_{name}" for metric in table.metrics for name in statistics]
    columns += ["baseline"] + [f"difference_{name}" for name in (*statistics, "p_holm")]
    columns += ["seconds_mean", "seconds_sem", "peak_memory_mib", "warnings"]
    rows: list[list[Any]] = []
    for row in table.rows:
        finished, unfinished = set(row.group.finished), row.group.seeds - set(row.group.finished)
        seconds = row.seconds
        rows.append(
            [
                row.label,
                *("" if label == NO_VALUE else label for label in row.labels),
                row.n,
                " ".join(map(str, sorted(finished))),
                " ".join(map(str, sorted(unfinished))),
                *(value for metric in table.metrics for value in _statistics_cells(row.metrics[metric])),
                _overrides_text(row.baseline, table),
                *_statistics_cells(row.difference),
                row.p_value,
                seconds and seconds.mean,
                seconds and seconds.sem,
                row.peak_memory_mib,
                "; ".join(missing_seeds_warning(row) + row.warnings),
            ]
        )
    return list(map(_spreadsheet_cell, columns)), [[_spreadsheet_cell(value) for value in row] for row in rows]


def missing_seeds_warning(row: ReportRow) -> list[str]:
    """The warning that a row lacks seeds that comparable rows have, if it does."""
    return [f"no run of {format_seeds(row.missing_seeds)}, which others have"] if row.missing_seeds else []


def json_report(table: ReportTable) -> str:
    """The table as JSON, unrounded, with the values of all seeds; null for undefined values and NaN.

    `rows` has for each configuration its settings, seeds, statistics by metric, and difference from the baseline.
    """
    labels = {id(row.group): row.label for row in table.rows}
    rows = [
        {
            "configuration": row.label,
            "settings": {column.name: row.group.values.get(column.name) for column in table.columns},
            "seeds": sorted(row.group.finished),
            "unfinished_seeds": sorted(row.group.seeds - set(row.group.finished)),
            "metrics": {
                metric: _statistics_node(row.metrics[metric], list(row.group.metric(metric)))
                for metric in table.metrics
            },
            "baseline": labels.get(id(row.baseline)),
            "difference": _difference_node(row, table.metrics[0]),
            "seconds": _statistics_node(row.seconds, list(row.group.finished)),
            "peak_memory_mib": _json_number(row.peak_memory_mib),
            "warnings": missing_seeds_warning(row) + row.warnings,
        }
        for row in table.rows
    ]
    report = {
        "metrics": {metric: {"unit": table.units[metric]} for metric in table.metrics},
        "comparisons": table.num_comparisons,
        "set_in_every_run": table.common_overrides,
        "rows": rows,
    }
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _statistics_node(summary: Summary | None, seeds: Sequence[int]) -> dict[str, Any] | None:
    if summary is None:
        return None
    return {
        "mean": _json_number(summary.mean),
        "sem": _json_number(summary.sem),
        "ci95": None if summary.interval is None else [_json_number(end) for end in summary.interval],
        "n": summary.n,
        "values": {str(seed): _json_number(value) for seed, value in zip(seeds, summary.values, strict=True)},
    }


def _difference_node(row: ReportRow, metric: str) -> dict[str, Any] | None:
    if row.difference is None or row.baseline is None:
        return None
    seeds = sorted(row.group.metric(metric).keys() & row.baseline.metric(metric).keys())
    return {**(_statistics_node(row.difference, seeds) or {}), "p_holm": _json_number(row.p_value)}


def _json_number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _spreadsheet_cell(value: Any) -> Any:
    """A value that a spreadsheet doesn't evaluate: text that looks like a formula gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.lstrip()[:1] in _FORMULA_PREFIXES and parse_number(text) is None else text


_FORMULA_PREFIXES = tuple("=+-@＝＋－＠")


def _statistics_cells(summary: Summary | None) -> list[Any]:
    if summary is None:
        return [None] * 4 + [0]
    low, high = summary.interval or (None, None)
    return [summary.mean, summary.sem, low, high, summary.n]


def _overrides_text(group: Group | None, table: ReportTable) -> str:
    """A group as overrides: `strategy=ewc scenario=class`."""
    values = [] if group is None else [(column.label, column.text_for(group)) for column in table.columns]
    return " ".join(f"{name}={value}" for name, value in values if value != NO_VALUE)


# --- Markdown and LaTeX: rounded


def markdown(table: ReportTable) -> str:
    """The table in Markdown with aligned columns, and its footnotes."""
    shown = text_table(table)
    rows = [[one_line(cell).replace("|", "\\|") for cell in row] for row in [shown.headers, *shown.rows]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    alignments = ["<" if i < shown.text_columns else ">" for i in range(len(widths))]
    formats = [f"{alignment}{width}" for alignment, width in zip(alignments, widths, strict=True)]
    head, *body = ["| " + " | ".join(map(format, row, formats)) + " |" for row in rows]
    ends = ["-" if alignment == "<" else ":" for alignment in alignments]
    rule = "|" + "".join(f"{'-' * (width + 1)}{end}|" for width, end in zip(widths, ends, strict=True))
    return "\n".join([head, rule, *body, "", *(f"- {line}" for line in footnotes(table))])


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
_LATEX |= {char: f"\\{char}" for char in "&%$#_{}"} | {
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "−": "$-$",
    "·": r"$\cdot$",
    "≥": r"$\geq$",
}


def latex(table: ReportTable) -> str:
    """The table as a LaTeX tabular with rules of the package booktabs, and its footnotes as comments."""
    shown = text_table(table)
    head, *body = [" & ".join(map(_escape_latex, row)) + r" \\" for row in [shown.headers, *shown.rows]]
    alignments = "l" * shown.text_columns + "r" * (len(shown.headers) - shown.text_columns)
    comments = [f"% {line}" for line in ["needs \\usepackage{booktabs}", *footnotes(table)]]
    lines = [
        rf"\begin{{tabular}}{{{alignments}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join([*comments, *lines])


def _escape_latex(text: str) -> str:
    latex = re.sub("|".join(map(re.escape, _LATEX)), lambda match: _LATEX[match[0]], one_line(text))
    # At the start of a row, [ and * would be arguments of the command that ends the row before.
    return re.sub(r"^\s*([\[*])", r"{\1}", latex)
