"""The door of `gr-report`: from folders to a table, a page, figures. Nothing heavy is imported without need."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from gr_cli._version import __version__
from gr_cli.errors import ConfigError, FolderError, GrError, one_line
from gr_cli.system.output import make_unfailing, why_incomplete

if TYPE_CHECKING:
    from gr_cli.report.groups import Grouping
    from gr_cli.report.tables import Table

_ABOUT = """\
Compare runs: a table of all runs below some folders, averaged over seeds. Runs that differ in anything but the seed,
paths and logging are never averaged; what tells them apart makes the columns."""

_MORE = """\
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
    make_unfailing()
    code = main(sys.argv[1:])
    if (why := why_incomplete()) is not None:
        print(f"gr-report: {why}", file=sys.stderr)
    sys.exit(code if why is None else code or 1)


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; the exit code: 0, 1 if something could not be read, 2 for a mistake."""
    try:
        return _report(_parser().parse_args(arguments))
    except GrError as error:
        _tell(error)
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
    parser = _Parser("gr-report", description=_ABOUT, epilog=_MORE, formatter_class=formatter, allow_abbrev=False)
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


def _report(asked: argparse.Namespace) -> int:
    from gr_cli.report.groups import grouped
    from gr_cli.report.tables import DEFAULT_METRICS, tabulated
    from gr_cli.results.discovery import find

    folders = [Path(folder) for folder in asked.folders or ["outputs"]]
    if asked.watch:
        return _watch(folders, asked)
    found = find(folders)
    for path, why in found.unreadable.items():
        _tell(f"{path}: can't be read ({why}); left out")
    if found.runs or found.unborn:
        grouping = grouped(found)
        _write(asked, grouping, tabulated(grouping, asked.metric or DEFAULT_METRICS, asked.baseline or ()))
    broken = [(run.path, why) for run in found.runs for why in run.broken.values()]
    for path, why in broken:
        _tell(f"{path}: {why}; left out of the charts")
    return 1 if found.unreadable or broken else 0


def _tell(what: object) -> None:
    print(f"gr-report: {one_line(what)}", file=sys.stderr)


def _watch(folders: list[Path], asked: argparse.Namespace) -> int:
    """Show runs under way."""
    others = [name for name, value in vars(asked).items() if value and name not in ("folders", "watch")]
    if others:
        raise ConfigError(
            "--watch",
            " ".join(map(str, folders)),
            f"goes alone: remove --{others[0]}",
            "make the report when the runs are over",
        )
    from gr_cli.terminal.watch import Board, Lines, watch

    if not sys.stdout.isatty():
        return watch(folders, Lines())
    with Board() as board:
        return watch(folders, board)


def _write(asked: argparse.Namespace, grouping: Grouping, table: Table) -> None:
    from gr_cli.report import tables
    from gr_cli.system.files import csv_text

    def page() -> str:
        from gr_cli.report.page import html

        return html(grouping, table)

    texts: list[tuple[str | None, Callable[[], str]]] = [
        (asked.csv, lambda: csv_text(*tables.csv_table(table))),
        (asked.latex, lambda: tables.latex(table) + "\n"),
        (asked.html, page),
    ]
    for target, text in texts:
        if target == "-":
            print(text(), end="")
        elif target is not None:
            save(Path(target), text())
    if asked.figures is not None:
        from gr_cli.report.chart_list import save_all

        made = save_all(table, Path(asked.figures))
        _tell(f"{made} figures, each as SVG and PDF, are in {asked.figures}")
    if "-" not in (asked.csv, asked.latex, asked.html):
        print(tables.markdown(table))


def save(path: Path, text: str) -> None:
    """Write a file that the user named, whole or not at all.

    Raises:
        FolderError: its folder is not there.
    """
    from gr_cli.system.files import write_text

    if not path.parent.is_dir():
        raise FolderError(f"{path}: can't be written, there is no folder {path.parent}; make it first")
    write_text(path, text)
