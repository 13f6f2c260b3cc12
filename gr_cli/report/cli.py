"""The door of `gr-report`: from folders to a table, a page, figures. Nothing heavy is imported without need."""

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
Compare runs: a table of all runs below some folders, averaged over seeds. Runs that differ in anything but the seed,
paths and logging are never averaged; what tells them apart makes the columns."""

_EPILOG = """\
examples:
  gr-report                                           everything below outputs/
  gr-report outputs/split_mnist --baseline strategy=finetune
  gr-report outputs/sweeps/0a73b11d --csv table.csv   a sweep, with what is missing of it
  gr-report outputs --html page.html --figures figures
  gr-report --watch outputs/sweeps/0a73b11d           a sweep under way, until it is over
  gr-report outputs --metric forgetting --latex -     LaTeX (booktabs) instead of Markdown

exit codes: 0; 1 if a folder could not be read, and was left out; 2 for a mistake
--watch: 0 if all runs are finished in the end, or Ctrl-C came before; 1 if any is not; 130 if Ctrl-C came before there
was any run"""


def entry() -> None:
    """The console script."""
    make_output_robust()
    code = main(sys.argv[1:])
    if (why := incomplete_output_message()) is not None:
        print(f"gr-report: {why}", file=sys.stderr)
    sys.exit(code if why is None else code or 1)


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; the exit code: 0, 1 if something could not be read, 2 for a mistake."""
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
        """One line, as all mistakes get."""
        raise ConfigError("arguments", " ".join(sys.argv[1:]), message, "see gr-report --help")


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        "gr-report", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=formatter, allow_abbrev=False
    )
    say = parser.add_argument
    say("folders", nargs="*", metavar="FOLDER", help="runs, sweeps, or parents of them (outputs)")
    say(
        "--metric",
        action="append",
        metavar="NAME",
        help="of metrics.csv (average_accuracy, forgetting); several: again",
    )
    say("--baseline", action="append", metavar="COLUMN=VALUE", help="the row others are compared with (the first)")
    say("--csv", metavar="FILE", help="write the table as CSV, metrics as fractions; - prints it instead")
    say("--latex", metavar="FILE", help="write the table as LaTeX; - prints it instead")
    say("--html", metavar="FILE", help="write a page: the table, charts, dreams; one file that needs no network")
    say("--figures", metavar="DIR", help="draw the charts as SVG and PDF for papers, as wide as a column")
    say("--watch", action="store_true", help="show runs under way until none is; nothing else goes beside it")
    say("--version", action="version", version=f"gr-report {__version__}")
    return parser


def _report(options: argparse.Namespace) -> int:
    from gr_cli.report.groups import group_runs
    from gr_cli.report.tables import DEFAULT_METRICS, report_table
    from gr_cli.results.discovery import discover_runs

    folders = [Path(folder) for folder in options.folders or ["outputs"]]
    if options.watch:
        return _watch(folders, options)
    found = discover_runs(folders)
    for path, why in found.unreadable.items():
        _print_status(f"{path}: can't be read ({why}); left out")
    if found.runs or found.pending:
        grouping = group_runs(found)
        _write_outputs(
            options, grouping, report_table(grouping, options.metric or DEFAULT_METRICS, options.baseline or ())
        )
    broken = [(run.path, why) for run in found.runs for why in run.unreadable_files.values()]
    for path, why in broken:
        _print_status(f"{path}: {why}; left out of the charts")
    return 1 if found.unreadable or broken else 0


def _print_status(what: object) -> None:
    print(f"gr-report: {one_line(what)}", file=sys.stderr)


def _watch(folders: list[Path], options: argparse.Namespace) -> int:
    """Show runs under way."""
    others = [name for name, value in vars(options).items() if value and name not in ("folders", "watch")]
    if others:
        raise ConfigError(
            "--watch",
            " ".join(map(str, folders)),
            f"goes alone: remove --{others[0]}",
            "make the report when the runs are over",
        )
    from gr_cli.terminal.watch import WatchLines, WatchTable, watch

    if not sys.stdout.isatty():
        return watch(folders, WatchLines())
    with WatchTable() as board:
        return watch(folders, board)


def _write_outputs(options: argparse.Namespace, grouping: Grouping, table: ReportTable) -> None:
    from gr_cli.report import tables
    from gr_cli.system.files import csv_text

    def page() -> str:
        from gr_cli.report.page import render_page

        return render_page(grouping, table)

    texts: list[tuple[str | None, Callable[[], str]]] = [
        (options.csv, lambda: csv_text(*tables.csv_table(table))),
        (options.latex, lambda: tables.latex(table) + "\n"),
        (options.html, page),
    ]
    for target, text in texts:
        if target == "-":
            print(text(), end="")
        elif target is not None:
            save_text(Path(target), text())
    if options.figures is not None:
        from gr_cli.report.chart_list import save_charts

        made = save_charts(table, Path(options.figures))
        _print_status(f"{made} figures, each as SVG and PDF, are in {options.figures}")
    if "-" not in (options.csv, options.latex, options.html):
        print(tables.markdown(table))


def save_text(path: Path, text: str) -> None:
    """Write a file that the user named, whole or not at all.

    Raises:
        FolderError: its folder is not there.
    """
    from gr_cli.system.files import write_text

    if not path.parent.is_dir():
        raise FolderError(f"{path}: can't be written, there is no folder {path.parent}; make it first")
    write_text(path, text)
