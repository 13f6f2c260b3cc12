"""The entry point `gr-run`: from the command line to settings, from errors to one line and an exit code.

Nothing heavy is imported before a run begins, so that `--help`, `--version` and completion are fast.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, cast

from gr_cli._version import __version__
from gr_cli.cli.compose import composed_once, plain_overrides, settings_from_config
from gr_cli.cli.folder_commands import folder_command
from gr_cli.cli.sweep import begin_sweep, current_sweep
from gr_cli.errors import (
    CompositionError,
    GrError,
    Interrupted,
    Pruned,
    Stop,
    as_failure,
    one_line,
)
from gr_cli.system.messages import print_failure
from gr_cli.system.output import incomplete_output_message, make_output_robust
from gr_cli.system.process import exit_process, import_torch, pause_garbage_collection, resume_garbage_collection
from gr_cli.system.signals import exit_if_worker, join_lifeline, signals_as_keyboard_interrupts

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from gr_cli.config.settings import Settings


def entry() -> None:
    """The console script `gr-run`.

    Output that can't be written does not end a training run; for commands that only print, it is an error.
    """
    pause_garbage_collection()
    make_output_robust()
    code = main(sys.argv[1:])
    if (why := incomplete_output_message()) is not None:
        print(f"gr-run: {why}", file=sys.stderr)
        code = code or int(any(word.partition("=")[0] in _DISPLAY_FLAGS for word in sys.argv[1:]))
    exit_process(code)


# Arguments of commands that only print.
_DISPLAY_FLAGS = ("-h", "--help", "--version", "--cfg", "-c", "--info", "-i", "--hydra-help", "-sc", "inspect")


def main(arguments: Sequence[str]) -> int:
    """Execute a command line.

    Returns:
        The exit code: 0, 1 for a failed run, 2 for invalid input, 3 for a run that can't be repeated exactly,
        130 for Ctrl-C.
    """
    argv = list(arguments)
    if "--version" in argv:
        print(f"gr-run {__version__}")
        return 0
    if query := next((word for word in argv if word.startswith("query=")), None):
        from gr_cli.cli.completion import print_completions

        print_completions(shell=query.partition("=")[2])
        return 0
    try:
        if any(word in ("-h", "--help") or word.startswith("--help=") for word in argv):
            from gr_cli.cli.help import help_text

            print(help_text(argv))
            return 0
        with signals_as_keyboard_interrupts():
            code = folder_command(argv, _run)
            return compose_and_run(argv) if code is None else code
    except Stop as stop:
        if not isinstance(stop.error, GrError):
            raise stop.error from None
        return _print_error(stop.error)
    except GrError as error:
        return _print_error(error)
    except KeyboardInterrupt:
        print("gr-run: interrupted", file=sys.stderr)
        return 130


def _print_error(error: GrError) -> int:
    print(f"gr-run: {one_line(error)}", file=sys.stderr)
    return error.exit_code


# --- a run, or a sweep, from its configuration


def compose_and_run(argv: list[str]) -> int:
    """Let Hydra compose the configuration and call `_job`, once or for each job of a sweep.

    Returns:
        The exit code.

    Raises:
        GrError: The command line is invalid.
        Stop: A run failed, or was interrupted.
    """
    import hydra

    from gr_cli.cli.folders import with_home_expanded
    from gr_cli.cli.hydra_errors import describe_error
    from gr_cli.cli.overrides import expand_sweeper_params, validate_overrides

    begin_sweep()
    argv = with_home_expanded(argv)
    _prepare_hydra(argv)
    command = sys.argv
    sys.argv = ["gr-run", *argv]
    try:
        validate_overrides(argv)
        sys.argv = ["gr-run", *expand_sweeper_params(argv)]
        with _cfg_output(argv), composed_once(argv):
            hydra.main(version_base="1.3", config_path="pkg://gr_cli.conf", config_name="config")(_job)()
    except GrError:
        raise
    except Exception as error:
        if current_sweep().uses_foreign_launcher:
            # The launcher lost a process: print its error, then the outcome of the runs.
            lines = str(error).strip().splitlines() or [""]
            print(f"gr-run: the launcher failed: {type(error).__name__}: {one_line(lines[0])}", file=sys.stderr)
        elif _raised_by_this_program(error):
            current_sweep().print_outcome()
            raise
        else:
            raise CompositionError(describe_error(error, [word for word in argv if "=" in word])) from error
    except KeyboardInterrupt:
        current_sweep().print_outcome()
        raise
    finally:
        sys.argv = command
        current_sweep().resources.close()
    return current_sweep().print_outcome()


def _prepare_hydra(argv: list[str]) -> None:
    """Register what this program adds to Hydra: the schema, resolvers, launchers and sweepers."""
    from hydra.core.config_store import ConfigStore

    from gr_cli.cli.callback import silence_hydra_warnings
    from gr_cli.cli.folders import register_resolvers
    from gr_cli.cli.register import register
    from gr_cli.config.schema import RunConfig

    silence_hydra_warnings()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    ConfigStore.instance().store("schema", RunConfig)
    register_resolvers()
    register(argv)


@contextmanager
def _cfg_output(argv: Sequence[str]) -> Iterator[None]:
    """Add comments to the configuration that `--cfg` prints.

    Raises:
        CompositionError: Hydra refuses to print it, as for an unknown `--package`.
    """
    if not any(word in ("-c", "--cfg") or word.startswith("--cfg=") for word in argv):
        yield
        return
    from gr_cli.config.comments import with_comments

    out, err = StringIO(), StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            yield
    except SystemExit as exit:
        if exit.code != 1:
            raise
        raise CompositionError(f"--package: {err.getvalue().strip()}; leave it out to see all") from exit
    sys.stderr.write(err.getvalue())
    package = re.match(r"# @package ([\w.]+)\n", out.getvalue())
    sys.stdout.write(with_comments(out.getvalue(), package[1] if package else ""))


def _raised_by_this_program(error: Exception) -> bool:
    """Whether an error was raised by this program below Hydra; otherwise Hydra refused the command line."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames]
    return "hydra" in packages and "gr_cli" in packages[packages.index("hydra") :]


def _job(config: DictConfig) -> float | None:
    """Train one run; the failure of a run of a sweep is printed, and the sweep continues.

    Returns:
        The value of the objective: NaN for a failed run, None for a pruned one, or if it has no value.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from gr_cli.cli.folders import job_folder, names_job_folders
    from gr_cli.cli.launchers.selection import runs_in_this_process

    hydra = HydraConfig.get()
    single = hydra.mode != RunMode.MULTIRUN
    in_process = single or runs_in_this_process(hydra)
    if not in_process:
        make_output_robust()
        join_lifeline()
    score: float | None = float("nan")
    folder: Path | None = None
    try:
        overrides = plain_overrides(hydra.overrides.task)
        validated = current_sweep().validated(overrides)
        settings = validated[0] if validated else settings_from_config(config, hydra, in_process)
        import_torch(announce=in_process)
        if single:
            score = _run(settings)
        else:
            run = validated[1] if validated else job_folder(settings, hydra)
            current_sweep().add(run, overrides)
            folder = run.path
            score = _run(settings, folder, live=in_process, sweep=Path(hydra.sweep.dir))
    except Exception as error:
        if single:
            raise Stop(error) from error
        if isinstance(error, Interrupted) and (in_process or current_sweep().uses_foreign_launcher):
            raise Stop(Interrupted([])) from error  # the sweep is resumed as a whole
        print_failure(folder, as_failure(error))
        score = None if isinstance(error, Pruned) else score
        if folder is not None and names_job_folders(hydra):
            with suppress(OSError):
                folder.rmdir()  # Hydra has created it; a run that has not started leaves no empty folder
        if isinstance(error, Interrupted):
            exit_if_worker()
    except KeyboardInterrupt:
        exit_if_worker()
        raise
    current_sweep().progress.count([score])
    return score


def _run(settings: Settings, path: Path | None = None, live: bool = True, sweep: Path | None = None) -> float | None:
    from hydra.core.hydra_config import HydraConfig

    from gr_cli.cli.sweepers.selection import check_foreign_sweeper
    from gr_cli.terminal.run_display import TerminalObserver

    epsilon = settings.config["privacy"]["epsilon"]
    if sweep is not None:
        # The sweep was checked with its common settings; this job may be the first with a budget.
        check_foreign_sweeper(cast("DictConfig", HydraConfig.instance().cfg), epsilon)
    if settings.config["inspect"]:
        from gr_cli.evaluation.inspection import inspect_benchmark

        resume_garbage_collection()
        TerminalObserver().show_inspection(inspect_benchmark(settings, settings.output_root))
        return None
    from gr_cli.results.availability import run_folder
    from gr_cli.results.folder import RunFolder
    from gr_cli.runner.run import run
    from gr_cli.trackers.observer import TrackerObserver
    from gr_cli.training.observer import Observers

    folder = run_folder(settings, current_sweep().run_folder) if path is None else RunFolder(path)
    terminal = TerminalObserver(live=live, sweep_progress=None if sweep is None else current_sweep().progress)
    resume_garbage_collection()
    result = run(settings, folder, Observers(terminal, TrackerObserver(sweep)))
    if epsilon is not None:
        return None  # metrics are read from samples without budget: nothing may be chosen by them
    return result.value(settings.config["objective"])
