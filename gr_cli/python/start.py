"""Start runs and sweeps from Python."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from gr_cli.errors import ConfigError, Interrupted, Stop
from gr_cli.python.overrides import overrides_of
from gr_cli.python.own_parts import passed, split_parts
from gr_cli.python.run_result import Run
from gr_cli.python.sweep_result import Sweep

# Runs change settings of torch's process, such as its number of threads, while they train.
_one_at_a_time = threading.RLock()


def run(*overrides: str, config_dir: str | Path | None = None, progress: bool = True, **settings: Any) -> Run:
    """Train a run, as `gr-run` does with the same overrides: same folder, same result.

    An unfinished run is continued, and of a finished one the stored result is returned. Ctrl-C saves the run before it
    raises KeyboardInterrupt; the same call continues it. Calls from several threads wait for each other.

        >>> import gr_cli
        >>> run = gr_cli.run("strategy=er", "train.iterations=20", seed=1, progress=False)
        >>> run.matrix.shape
        (5, 5)

    Args:
        overrides: Overrides as on the command line.
        config_dir: A folder of options of your own, as `--config-dir` names it.
        progress: Show progress.
        settings: Settings by name; a mapping holds settings of a group, `train={"iterations": 100}`.

    Raises:
        GrError: A setting is not allowed, or the run failed; status.json has the reason.
        KeyboardInterrupt: After Ctrl-C, and the state is saved.
    """
    from gr_cli.cli.folders import compose_run

    own, parts, plain = split_parts(settings)
    words = [*own, *overrides_of(overrides, plain)]
    with _one_at_a_time, _quiet(progress):
        with passed(parts):
            composed, folder = compose_run(words, None if config_dir is None else Path(config_dir))
        if composed.config["inspect"]:
            raise ConfigError("inspect", "true", "is for the command line", "leave it out")
        from gr_cli.runner.run import run as train
        from gr_cli.terminal.run_display import TerminalObserver
        from gr_cli.trackers.observer import TrackerObserver
        from gr_cli.training.observer import Observers

        try:
            train(composed, folder, Observers(TerminalObserver(summary=False), TrackerObserver(None)))
        except Interrupted as error:
            message = f"{error}, or by the same call" if not parts else "interrupted; the same call continues the run"
            raise KeyboardInterrupt(message) from None
    return Run(folder.path, composed)


def sweep(*overrides: str, config_dir: str | Path | None = None, progress: bool = True, **settings: Any) -> Sweep:
    """Train the runs of a sweep, as `gr-run -m` does with the same overrides.

    A run that fails does not end the others: its state is `failed`. One that fails before it starts, as a model of your
    own may, is left out with a warning. The launcher is chosen as on the command line:
    `hydra/launcher=batched` trains runs that differ in numbers only as one program.

        >>> import gr_cli
        >>> runs = gr_cli.sweep("train.iterations=20", strategy=["finetune", "er"], seed=range(2), progress=False)
        >>> len(runs), runs.results.index.names
        (4, ['folder'])

    Args:
        overrides: Overrides as on the command line; `strategy=er,dgr` and `seed=range(3)` give several values.
        config_dir: A folder of options of your own, as `--config-dir` names it.
        progress: Show progress.
        settings: Settings by name; a list, tuple or range gives several values.

    Raises:
        GrError: A setting is not allowed; nothing was trained then.
        KeyboardInterrupt: After Ctrl-C, and the state of the runs is saved; the same call continues them.
    """
    from gr_cli.cli.isolation import isolated_hydra
    from gr_cli.cli.main import compose_and_run
    from gr_cli.cli.sweep import begin_sweep, current_sweep

    own, parts, plain = split_parts(settings)
    words = [*own, *overrides_of(overrides, plain, sweep=True)]
    flags = [] if config_dir is None else ["--config-dir", str(config_dir)]
    with _one_at_a_time, _quiet(progress), isolated_hydra(), _hidden_main_module(), passed(parts):
        try:
            compose_and_run(["-m", *flags, *words])
            jobs, folder = dict(current_sweep().jobs), current_sweep().folder
        except (KeyboardInterrupt, Stop) as stop:
            if isinstance(stop, Stop) and not isinstance(stop.error, Interrupted):
                raise stop.error from None
            raise KeyboardInterrupt("interrupted; the same call continues the sweep") from None
        finally:
            begin_sweep()
    runs = Sweep(list(jobs), folder, parts)
    if len(runs) < len(jobs):
        count = f"{len(jobs) - len(runs)} of {len(jobs)} runs failed before they started"
        warnings.warn(f"{count}; the same call with progress=True prints the reasons", stacklevel=2)
    return runs


@contextmanager
def _quiet(progress: bool) -> Iterator[None]:
    """Hide what is printed inside the block, unless `progress`; errors are raised."""
    with ExitStack() as stack:
        if not progress:
            stream = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(stream))
            stack.enter_context(redirect_stderr(stream))
        yield


@contextmanager
def _hidden_main_module() -> Iterator[None]:
    """Keep worker processes from executing the caller's script, which would start the sweep once more in each."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
