"""Command line of `gr-report`: compare runs in a table, a page or figures. Imports are lazy, for a fast start."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from gr_cli._version import __version__
from gr_cli.errors import ConfigError, FolderError, GrError, one_line
from gr_cli.system.output import incomplete_output_message, make_output_robust

if TYPE_CHECKING:
    from gr_cli.report.groups import Grouping
    from gr_cli.report.tables import ReportTable

_DESCRIPTION = """\
Compare runs: a table of all runs below some folders, averaged over seeds. Only
runs that differ in nothing but seed, paths and logging are averaged; the
settings that distinguish the others are columns."""

_EPILOG = """\
examples:
  gr-report                                          everything below outputs/
  gr-report outputs/split_mnist --baseline strategy=finetune
  gr-report outputs/sweeps/0a73b11d --csv table.csv  a sweep
  gr-report outputs --html page.html --figures figures
  gr-report --watch outputs/sweeps/0a73b11d          progress of a sweep
  gr-report outputs --metrics forgetting --latex -    LaTeX (booktabs)

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
        return _report(_parser().parse_args(arguments))
    except GrError as error:
        _print_status(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("gr-report: interrupted", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise a ConfigError, which `main` prints in one line."""
        raise ConfigError("arguments", " ".join(sys.argv[1:]), message, "see gr-report --help")


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        "gr-report", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=formatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("folders", nargs="*", metavar="FOLDER", help="runs, sweeps, or parents of them (default: outputs)")
    add(
        "--metrics",
        action="extend",
        nargs="+",
        metavar="NAME",
        help="metrics of metrics.csv (default: average_accuracy forgetting)",
    )
    add(
        "--baseline",
        action="append",
        metavar="COLUMN=VALUE",
        help="compare with the row that has this value (default: the first row); repeat the option for several values",
    )
    add("--csv", metavar="FILE", help="write the table as CSV, unrounded; - prints it instead")
    add("--latex", metavar="FILE", help="write the table as LaTeX; - prints it instead")
    add("--html", metavar="FILE", help="write a page with table, charts and generated samples; one file, no network")
    add("--figures", metavar="DIR", help="write the charts for papers, as SVG and PDF, one column wide")
    add("--watch", action="store_true", help="show the progress of runs until all are over; no other option with it")
    add("--version", action="version", version=f"gr-report {__version__}")
    return parser


def _report(options: argparse.Namespace) -> int:
    from gr_cli.report.groups import group_runs
    from gr_cli.report.tables import DEFAULT_METRICS, report_table
    from gr_cli.results.discovery import discover_runs

    folders = [Path(folder) for folder in options.folders or ["outputs"]]
    if options.watch:
        return _watch(folders, options)
    discovered = discover_runs(folders)
    for path, reason in discovered.unreadable.items():
        _print_status(f"{path}: can't be read ({reason}); left out")
    if discovered.runs or discovered.pending:
        grouping = group_runs(discovered)
        _write_outputs(
            options, grouping, report_table(grouping, options.metrics or DEFAULT_METRICS, options.baseline or ())
        )
    unreadable = [(run.path, reason) for run in discovered.runs for reason in run.unreadable_files.values()]
    for path, reason in unreadable:
        _print_status(f"{path}: {reason}; left out of the charts")
    return 1 if discovered.unreadable or unreadable else 0


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


def _write_outputs(options: argparse.Namespace, grouping: Grouping, table: ReportTable) -> None:
    from gr_cli.report import formats
    from gr_cli.system.files import csv_text

    def page() -> str:
        from gr_cli.report.page import render_page

        return render_page(grouping, table)

    texts: list[tuple[str | None, Callable[[], str]]] = [
        (options.csv, lambda: csv_text(*formats.csv_table(table))),
        (options.latex, lambda: formats.latex(table) + "\n"),
        (options.html, page),
    ]
    for target, text in texts:
        if target == "-":
            print(text(), end="")
        elif target is not None:
            save_text(Path(target), text())
    if options.figures is not None:
        from gr_cli.report.chart_list import save_charts

        num_charts = save_charts(table, Path(options.figures))
        _print_status(f"{num_charts} figures, each as SVG and PDF, are in {options.figures}")
    if "-" not in (options.csv, options.latex, options.html):
        print(formats.markdown(table))


def save_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        FolderError: Its folder does not exist.
    """
    from gr_cli.system.files import write_text

    if not path.parent.is_dir():
        raise FolderError(f"{path}: can't be written, there is no folder {path.parent}; make it first")
    write_text(path, text)
