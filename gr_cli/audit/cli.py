"""Command line of `gr-audit`: search runs for raw samples, and attack them. Imports are lazy, for a fast start."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from gr_cli._version import __version__
from gr_cli.errors import AuditError, ConfigError, DataError, FolderError, GrError, IncompleteAuditError, Stop, one_line
from gr_cli.system.output import incomplete_output_message, make_output_robust
from gr_cli.terminal.arguments import Parser, output_format

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gr_cli.audit.attacks import AttackRow
    from gr_cli.results.tables import MeasuredTable

_DESCRIPTION = """\
What an attacker learns about the training samples of a run. First its folder
is searched for raw samples; then shadow runs are trained, its configuration on
other halves of its samples, and membership inference is measured on solver and
generator, for each task after every task. Shadows and tables are in the run's
folder, below audit/; the same command continues them."""

_SUFFIXES = {"csv": ".csv", "json": ".json", "markdown": ".md"}

_EPILOG = """\
examples:
  gr-audit outputs/split_digits/er/seed0-1a2b3c4d
  gr-audit outputs/sweeps/0a73b11d                all runs of a sweep
  gr-audit RUN --raw-samples                      only search for raw samples
  gr-audit RUN --attacks --shadows 32 --output membership.csv
  gr-audit RUN --attacks -- train.iterations=500  shadows with another budget
  gr-audit RUN --generated --memorised pairs.png  by generated samples alone
  gr-audit RUN --canaries                         a run with canaries.count=500

exit codes: 0; 1 if samples were found that the run claims not to store, a
shadow failed, or one of several runs could not be read and was left out; 2 for
a usage error; 3 if files could not be searched; 130 after Ctrl-C"""


def entry() -> None:
    """The console script `gr-audit`."""
    from gr_cli.system.process import exit_process

    make_output_robust()
    code = main(sys.argv[1:])
    if (message := incomplete_output_message()) is not None:
        print(f"gr-audit: {message}", file=sys.stderr)
    exit_process(code if message is None else code or 1)


def main(arguments: Sequence[str]) -> int:
    """Run `gr-audit` with command-line arguments.

    Returns:
        Exit code, see `--help`.
    """
    from gr_cli.system.signals import signals_as_keyboard_interrupts

    try:
        with signals_as_keyboard_interrupts():
            return _audit(_parsed(arguments))
    except Stop as stop:
        if not isinstance(stop.error, GrError):
            raise stop.error from None
        print("gr-audit: interrupted; repeat the command", file=sys.stderr)
        return stop.error.exit_code
    except GrError as error:
        _print_status(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("gr-audit: interrupted; repeat the command", file=sys.stderr)
        return 130


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options; what follows `--` are overrides of the shadows."""
    words = list(arguments)
    split = words.index("--") if "--" in words else len(words)
    options = _parser().parse_args(words[:split])
    options.overrides = words[split + 1 :]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = Parser("gr-audit", description=_DESCRIPTION, epilog=_EPILOG)
    add = parser.add_argument
    add("folders", nargs="+", metavar="FOLDER", help="runs, sweeps, or parents of them")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--raw-samples", action="store_true", help="only search for raw samples")
    only.add_argument("--attacks", action="store_true", help="only attack")
    only.add_argument("--generated", action="store_true", help="only compare generated with training samples")
    only.add_argument("--canaries", action="store_true", help="only bound epsilon by the canaries of a run")
    add(
        "--memorised",
        metavar="FILE",
        help="with --generated: a picture of the most memorised samples above their originals, for the data owner only",
    )
    add("--confidence", type=float, default=0.99, metavar="P", help="of each bound of --canaries (default: 0.99)")
    add("--shadows", type=int, default=16, metavar="N", help="shadow runs of each run, an even number (default: 16)")
    add("--candidates", type=int, metavar="N", help="attacked samples of each class of a task (default: all)")
    add("--format", choices=("table", *_SUFFIXES), help="how the figures are printed (default: table on a terminal)")
    add("--output", metavar="FILE", help="write all figures into a file, by its ending: .csv, .json, .md")
    add("--trust", default="", metavar="NAMES", help="code of other packages that the runs may import, with commas")
    add("--config-dir", metavar="DIR", help="folder of your own options, whose code is trusted")
    add("--version", action="version", version=f"gr-audit {__version__}")
    parser.usage = "gr-audit [options] FOLDER ... [-- OVERRIDE ...]"
    return parser


def _audit(options: argparse.Namespace) -> int:
    from gr_cli.cli.folder_commands import trusted_names

    table_format = output_format(options.format, options.output, _SUFFIXES)
    config_dirs = [Path(options.config_dir)] if options.config_dir else []
    trust = trusted_names([name for name in options.trust.split(",") if name], config_dirs)
    if options.overrides and (options.raw_samples or options.generated or options.canaries):
        problem = "are settings of shadow runs, and none are trained"
        raise ConfigError("overrides", " ".join(options.overrides), problem, "leave them out, or use --attacks")
    if options.generated or options.canaries or options.memorised:
        return _measure(options, table_format, trust)
    _check_attacks(options)
    codes: set[int] = set()
    figures: dict[str, list[AttackRow]] = {}

    def audit_run(name: str, folder: Path) -> None:
        if not options.attacks:
            codes.add(_search(folder, trust, sys.stdout if options.raw_samples else sys.stderr))
        if not options.raw_samples:
            figures[name] = _attack(folder, options, trust)

    codes.add(_for_each_run(options.folders, audit_run))
    if figures:
        _write(figures, table_format, options)
    return 1 if 1 in codes else max(codes)


def _measure(options: argparse.Namespace, table_format: str, trust: Sequence[str]) -> int:
    """The tables of `--generated` and `--canaries`."""
    from gr_cli.audit import measured

    _check_measured(options)
    picture = None if options.memorised is None else Path(options.memorised).absolute()
    tables: dict[str, MeasuredTable] = {}

    def measure_run(name: str, folder: Path) -> None:
        if options.canaries:
            from gr_cli.audit.canaries import canary_table

            tables[name] = canary_table(folder, tuple(trust), options.confidence)
        else:
            tables[name] = _generated(folder, picture, trust)

    code = _for_each_run(options.folders, measure_run)
    if table_format == "table":
        from gr_cli.terminal.fitted_table import print_fitted

        for table in measured.fitted_tables(tables):
            print_fitted(table)
    elif tables:
        _save(measured.TEXTS[table_format](tables), options.output)
    return code


def _check_attacks(options: argparse.Namespace) -> None:
    """Refuse a number of shadows before the search, which can take minutes."""
    if not options.raw_samples:
        _import_torch()
        from gr_cli.audit.shadows import check_number

        check_number(options.shadows)


def _check_measured(options: argparse.Namespace) -> None:
    if options.memorised is not None and not options.generated:
        raise ConfigError("--memorised", options.memorised, "is a picture of generated samples", "add --generated")
    if options.memorised is not None and len(options.folders) > 1:
        raise ConfigError("--memorised", options.memorised, "is a picture of one run", "name a single folder")
    if options.memorised is not None and Path(options.memorised).suffix != ".png":
        raise ConfigError("--memorised", options.memorised, "must end in .png")
    if not 0 < options.confidence < 1:
        raise ConfigError("--confidence", options.confidence, "must be above 0 and below 1")


def _generated(folder: Path, picture: Path | None, trust: Sequence[str]) -> MeasuredTable:
    """The attacks by generated samples, and the picture of memorised ones."""
    from gr_cli.audit.generated import draw_memorised, generated_table, generator_of_run

    run = generator_of_run(folder, tuple(trust))
    if picture is not None:
        draw_memorised(run, folder, picture)
        _print_status(f"{picture}: contains training samples, for the owner of the data only")
    return generated_table(run)


def _for_each_run(folders: Sequence[str], audit: Callable[[str, Path], None]) -> int:
    """Call `audit` with the name and the folder of each run; one of several that can't be read is left out.

    Returns:
        1 if a run was left out, else 0.

    Raises:
        FolderError, DataError: The only run can't be read.
    """
    from gr_cli.cli.folder_commands import in_start_directory

    runs, left_out = _run_folders(folders)
    for path in runs:
        try:
            with in_start_directory(path) as folder:
                audit(str(path), folder)
        except (FolderError, DataError) as error:
            if len(runs) + left_out == 1:
                raise
            _print_status(f"{error}; left out" if str(path) in str(error) else f"{path}: {error}; left out")
            left_out += 1
    return int(left_out > 0)


def _run_folders(folders: Sequence[str]) -> tuple[list[Path], int]:
    """The folders of runs among and below some folders, and how many could not be read.

    Raises:
        FolderError: A folder is a release, or there is no run below it.
    """
    from gr_cli.results.discovery import discover_runs
    from gr_cli.results.release_manifest import MANIFEST

    runs: list[Path] = []
    unreadable: dict[Path, str] = {}
    for path in map(Path, folders):
        if (path / MANIFEST).is_file() and not (path / "status.json").exists():
            raise FolderError(
                f"{path}: is a release, without a training run to audit; name the run that it was written from: "
                "gr-audit <run>"
            )
        if not path.is_dir() or (path / "config.yaml").exists() or (path / "status.json").exists():
            runs.append(path)
            continue
        discovered = discover_runs([path])
        unreadable |= discovered.unreadable
        runs += [run.path for run in discovered.runs]
    for path, reason in unreadable.items():
        _print_status(f"{path}: can't be read ({reason}); left out")
    return list(dict.fromkeys(runs)), len(unreadable)


def _search(path: Path, trust: Sequence[str], stream: TextIO) -> int:
    """Search a run's folder for raw samples; print what was found, and return the exit code."""
    _import_torch()
    from gr_cli.evaluation.audit import audit

    result = audit(path, trust)
    print("\n".join(map(one_line, str(result).splitlines())), file=stream)
    try:
        if result.violated:
            raise AuditError(f"{path}: {result.verdict}")
        if result.incomplete:
            unread_path, reason = min(result.unread.items())
            raise IncompleteAuditError(
                f"{path}: {len(result.unread)} of its parts could not be read, such as {unread_path} ({reason}); "
                "remove them, or make them readable"
            )
    except GrError as error:
        _print_status(error)
        return error.exit_code
    return 0


def _attack(path: Path, options: argparse.Namespace, trust: Sequence[str]) -> list[AttackRow]:
    """Train the missing shadows of a run, attack them, and write table and picture beside them, if not done before."""
    from gr_cli.audit.attacks import attack_rows
    from gr_cli.audit.shadows import has_tables, plan_shadows, provenance, train_shadows
    from gr_cli.audit.tables import csv_text, read_rows, save_figure
    from gr_cli.results.audits import AUDIT_FILE, MEMBERSHIP_FILE
    from gr_cli.system.files import write_json, write_text

    shadows = plan_shadows(path, options.shadows, options.candidates, options.overrides, trust)
    table = shadows.folder / MEMBERSHIP_FILE
    if not has_tables(shadows):
        train_shadows(shadows)
        rows = attack_rows(shadows)
        write_text(table, csv_text({str(path): rows}))
        save_figure(rows, shadows.folder / "membership")
        write_json(shadows.folder / AUDIT_FILE, provenance(shadows))  # last: with it the tables are complete
    _print_status(f"shadows, membership.csv and picture: {shadows.folder}")
    return read_rows(table)


def _write(figures: Mapping[str, Sequence[AttackRow]], table_format: str, options: argparse.Namespace) -> None:
    """Print the figures, or write them into the file of `--output`."""
    from gr_cli.audit import tables

    if table_format == "table":
        from gr_cli.terminal.fitted_table import print_fitted

        for name, rows in figures.items():
            print_fitted(tables.fitted_table(rows, [name], tables.notes(options.shadows, options.overrides)))
        return
    notes = tables.notes(options.shadows, options.overrides)
    text = {
        "csv": lambda: tables.csv_text(figures),
        "json": lambda: tables.json_text(figures),
        "markdown": lambda: "\n".join(tables.markdown_text(rows, [name, *notes]) for name, rows in figures.items()),
    }[table_format]()
    _save(text, options.output)


def _save(text: str, output: str | None) -> None:
    """Print a text, or write it into a file."""
    if output is None:
        print(text, end="")
    else:
        from gr_cli.report.cli import save_text

        save_text(Path(output), text)


def _import_torch() -> None:
    from gr_cli.system.process import import_torch

    if "torch" not in sys.modules:
        _print_status("loading torch …")
    import_torch(announce=False)


def _print_status(message: object) -> None:
    print(f"gr-audit: {one_line(message)}", file=sys.stderr)
