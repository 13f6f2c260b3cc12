"""Runs that are killed, by SIGKILL, at an iteration of a stage, before its checkpoint is written."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from gr_cli.cli.main import main
from gr_cli.runner import step_monitor
from gr_cli.terminal import run_display
from gr_cli.training.observer import RunObserver

# The processes are forked from one that has imported these, which takes longer than such a run.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["dp_accounting", "gr_cli.runner.run", __name__])


class KillAt(RunObserver):
    """Kills this process, after the stage if there is no iteration."""

    def __init__(self, stage: int, iteration: int | None) -> None:
        self.stage, self.iteration = stage, iteration

    def stepped(self, stage_index, step, losses):
        if (stage_index, step.iteration) == (self.stage, self.iteration):
            os.kill(os.getpid(), signal.SIGKILL)

    def stage_finished(self, stage_index, accuracies):
        if stage_index == self.stage and self.iteration is None:
            os.kill(os.getpid(), signal.SIGKILL)


def kill(*words: str, at: tuple[int, int | str], every_step: bool = False) -> None:
    """Run `gr-run words` in a process that is killed at an iteration of a stage, or at its `end`.

    Checkpoints are written after every step if `every_step`.
    """
    printed = Path("killed.txt").absolute()
    process = _CONTEXT.Process(target=_run, args=(words, at, every_step, Path.cwd(), dict(os.environ), printed))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL, (process.exitcode, printed.read_text(encoding="utf-8"))
    printed.unlink()


def _run(
    words: tuple[str, ...],
    at: tuple[int, int | str],
    every_step: bool,
    folder: Path,
    environment: Mapping[str, str],
    printed: Path,
) -> None:
    import torch

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    with printed.open("w", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    stage, iteration = at
    killer = KillAt(stage, None if iteration == "end" else int(iteration))
    run_display.TerminalObserver = lambda **_: killer
    if every_step:
        step_monitor._MIN_TRAINING_PER_SAVING = 0
        words = (*words, "checkpoint.every_seconds=1e-9")
    sys.exit(main(list(words)))
