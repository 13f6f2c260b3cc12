"""Command line of `gr-report`: compare runs in a table, a page or figures. Imports are lazy, for a fast start."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gr_cli._version import __version__
from gr_cli.config.output_root import default_output_root
from gr_cli.errors import ConfigError, FolderError, GrError, one_line
from gr_cli.system.output import incomplete_output_message, make_output_robust
from gr_cli.terminal.arguments import Parser, output_format

if TYPE_CHECKING:
    from gr_cli.report.groups import Grouping
    from gr_cli.report.run_table import RunTable
    from gr_cli.report.tables import ReportTable
    from gr_cli.results.discovery import DiscoveredRuns

_DESCRIPTION = """\
Compare runs: a table of all runs below some folders, averaged over seeds. Only
runs that differ in nothing but seed, paths and logging are averaged; the
settings that distinguish the others are columns."""

_SUFFIXES = {"markdown": ".md", "csv": ".csv", "latex": ".tex", "json": ".json"}

_EPILOG = """\
examples:
  gr-report                                          everything below outputs/
  gr-report outputs/split_mnist --baseline strategy=finetune
  gr-report outputs/sweeps/0a73b11d --runs           a row per run of a sweep
  gr-report --where strategy=er,dgr 'lr<0.01' --sort -average_accuracy
  gr-report --output table.csv                       or .json, .md, .tex (booktabs)
  gr-report outputs --html page.html --figures figures
  gr-report --watch outputs/sweeps/0a73b11d          progress of a sweep
  gr-report outputs --metrics forgetting --format latex

exit codes: 0; 1 if a folder could not be read and was left out; 2 for a usage
error. --watch: 0 if all runs finished, or after Ctrl-C; 1 if a run did not
finish; 130 after Ctrl-C before there was a run"""


def entry() -> None:
    """The console script `gr-report`."""
    make_output_robust()
    code = main(sys.argv[1:])
    if (message := incomplete_output_message()) is not None:
        print(f"gr-report: {message}", file=sys.stderr)
    sys.exit(code if message is None else code or 1)


def main(arguments: Sequence[str]) -> int:
    """Run `gr-report` with command-line arguments.

    Returns:
        Exit code: 0, 1 if something could not be read, 2 for a usage error, 130 after Ctrl-C.
    """
    try:
        return _report(_parser().parse_args(_joined_sort_keys(arguments)))
    except GrError as error:
        _print_status(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("gr-report: interrupted", file=sys.stderr)
        return 130


def _joined_sort_keys(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--sort -key` as one, because argparse takes `-key` for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--sort" and argument.startswith("-") and not argument.startswith("--"):
            joined[-1] = f"--sort={argument}"
        else:
            joined.append(argument)
    return joined


def _parser() -> argparse.ArgumentParser:
    parser = Parser("gr-report", description=_DESCRIPTION, epilog=_EPILOG)
    add = parser.add_argument
    add(
        "folders",
        nargs="*",
        metavar="FOLDER",
        help="runs, sweeps, or parents of them (default: $GR_OUTPUT_ROOT, or outputs)",
    )
    add(
        "--metrics",
        action="extend",
        nargs="+",
        metavar="NAME",
        help="metrics of metrics.csv, or columns of other tables: sample_quality.recall "
        "(default: average_accuracy forgetting)",
    )
    add(
        "--where",
        action="extend",
        nargs="+",
        metavar="CONDITION",
        help="only runs with these settings or results: strategy=dgr,ewc lr!=0.1 seed=3 'average_accuracy>0.8'",
    )
    add(
        "--baseline",
        action="extend",
        nargs="+",
        metavar="COLUMN=VALUE",
        help="compare with the row that has these values (default: the row with the most seeds)",
    )
    add(
        "--sort",
        action="append",
        metavar="NAME",
        help="sort by a metric, a column, n, seconds or difference; -NAME: descending; may be repeated",
    )
    add("--runs", action="store_true", help="a row per run instead of means over seeds")
    add("--watch", action="store_true", help="show the progress of runs until all are over; no other option with it")
    add("--version", action="version", version=f"gr-report {__version__}")
    _add_outputs(parser.add_argument)
    return parser


def _add_outputs(add: Callable[..., object]) -> None:
    """Add the options that say what is written where."""
    add(
        "--format",
        choices=("table", *_SUFFIXES),
        help="how the table is printed (default: table on a terminal, else markdown); csv and json are unrounded",
    )
    add("--output", metavar="FILE", help="write the table into a file instead, by its ending: .csv, .json, .md, .tex")
    add("--html", metavar="FILE", help="write a page with table, charts and generated samples; one file, no network")
    add("--figures", metavar="DIR", help="write the charts for papers, as SVG and PDF, one column wide")


def _report(options: argparse.Namespace) -> int:
    from gr_cli.results.discovery import discover_runs

    folders = [Path(folder) for folder in options.folders] or [default_output_root()]
    if options.watch:
        return _watch(folders, options)
    _check_arguments(options)
    table_format = output_format(options.format, options.output, _SUFFIXES)
    if options.html is not None:
        from gr_cli.report.page import start_library

        start_library()
    discovered = discover_runs(folders)
    for path, reason in discovered.unreadable.items():
        _print_status(f"{path}: can't be read ({reason}); left out")
    if discovered.runs or discovered.pending:
        _write_outputs(options, table_format, discovered)
    unreadable = [(run.path, reason) for run in discovered.runs for reason in run.unreadable_files.values()]
    for path, reason in unreadable:
        _print_status(f"{path}: {reason}; left out of the charts")
    return 1 if discovered.unreadable or unreadable else 0


def _check_arguments(options: argparse.Namespace) -> None:
    """Refuse folders behind an option that takes several values, and options that don't go together."""
    values = [*(options.metrics or ()), *(options.where or ()), *(options.baseline or ())]
    for value in values if not options.folders else ():
        if Path(value).is_dir():
            raise ConfigError("arguments", value, "is a folder", "name folders before the options")
    if options.runs and options.baseline:
        raise ConfigError("--baseline", " ".join(options.baseline), "can't be combined with --runs; remove one of them")
    for name in ("output", "html", "figures"):
        if getattr(options, name) == "-":
            problem = "must be a name, not standard output"
            raise ConfigError(f"--{name}", "-", problem, "without --output the table is printed, --format says how")


def _print_status(message: object) -> None:
    print(f"gr-report: {one_line(message)}", file=sys.stderr)


def _watch(folders: list[Path], options: argparse.Namespace) -> int:
    """Show the progress of runs, as a table in a terminal, as lines elsewhere."""
    others = [name for name, value in vars(options).items() if value and name not in ("folders", "watch")]
    if others:
        raise ConfigError(
            "--watch",
            " ".join(map(str, folders)),
            f"can't be combined with other options: remove --{others[0]}",
            "make the report when the runs are over",
        )
    from gr_cli.terminal.watch import WatchLines, WatchTable, watch

    if not sys.stdout.isatty():
        return watch(folders, WatchLines())
    with WatchTable() as watch_table:
        return watch(folders, watch_table)


def _selected(options: argparse.Namespace, discovered: DiscoveredRuns, by_run: bool) -> tuple[Grouping, ReportTable]:
    """The selected runs by configuration, and their table; see `select_runs` for `by_run`."""
    from gr_cli.report.groups import group_runs
    from gr_cli.report.selection import select_runs
    from gr_cli.report.sorting import sort_rows
    from gr_cli.report.tables import DEFAULT_METRICS, report_table

    grouping = group_runs(select_runs(discovered, options.where or (), by_run))
    table = report_table(grouping, options.metrics or DEFAULT_METRICS, options.baseline or ())
    return grouping, table if options.runs else sort_rows(table, grouping, options.sort or ())


def _write_outputs(options: argparse.Namespace, table_format: str, discovered: DiscoveredRuns) -> None:
    runs = None
    grouping, table = _selected(options, discovered, by_run=options.runs)
    if options.runs:
        from gr_cli.report.run_table import run_table

        # Before anything is written, because it refuses a wrong --sort.
        runs = run_table(table, grouping, options.sort or ())
        if options.html is not None or options.figures is not None:
            # A page and figures show configurations; a condition on a metric is about these.
            grouping, table = _selected(options, discovered, by_run=False)
    if options.html is not None:
        from gr_cli.report.page import render_page

        save_text(Path(options.html), render_page(grouping, table))
    if options.figures is not None:
        from gr_cli.report.chart_list import save_charts
        from gr_cli.report.scaling import with_prefixes

        num_charts = save_charts(with_prefixes(table)[0], Path(options.figures))
        _print_status(f"{num_charts} figures, each as SVG and PDF, are in {options.figures}")
    if table_format == "table":
        _print_table(table, runs)
    elif options.output is None:
        print(_table_text(table, runs, table_format), end="")
    else:
        save_text(Path(options.output), _table_text(table, runs, table_format))


def _print_table(table: ReportTable, runs: RunTable | None) -> None:
    """Print the table in the width of the terminal."""
    from gr_cli.report.overview import overview, run_overview
    from gr_cli.terminal.fitted_table import print_fitted

    print_fitted(overview(table) if runs is None else run_overview(runs))


def _table_text(table: ReportTable, runs: RunTable | None, table_format: str) -> str:
    """The table of configurations, or that of runs, as Markdown, LaTeX, CSV or JSON."""
    from gr_cli.report import chance, formats, records, run_table, scaling, tables

    if table_format == "csv":
        return formats.csv_file(*(records.csv_table(table) if runs is None else run_table.csv_table(runs)))
    if table_format == "json":
        return formats.json_file(records.json_report(table) if runs is None else run_table.json_report(runs))
    if runs is None:
        shown = chance.with_chance_rows(tables.text_table(scaling.with_prefixes(table)[0]), table)
    else:
        shown = run_table.text_table(runs)
    notes = tables.footnotes(table) if runs is None else runs.notes
    return formats.markdown(shown, notes) if table_format == "markdown" else formats.latex(shown, notes)


def save_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        FolderError: Its folder does not exist.
    """
    from gr_cli.system.files import write_text

    if not path.parent.is_dir():
        raise FolderError(f"{path}: can't be written, there is no folder {path.parent}; make it first")
    write_text(path, text)
