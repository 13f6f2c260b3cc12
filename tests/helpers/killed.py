"""`python -m helpers.killed STAGE ITERATION words` is `gr-run words` that is killed, by SIGKILL, at an iteration of a
stage, before its checkpoint is written; after the stage if ITERATION is `end`. Checkpoints are written after every step
if `GR_TEST_EVERY_STEP` is set."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import gr_cli
from gr_cli.cli.main import main
from gr_cli.runner import step_monitor
from gr_cli.terminal import run_display
from gr_cli.training.observer import RunObserver

_EVERY_STEP = "GR_TEST_EVERY_STEP"


class KillAt(RunObserver):
    """Kills this process."""

    def __init__(self, stage: int, iteration: int | None) -> None:
        self.stage, self.iteration = stage, iteration

    def stepped(self, stage_index, step, losses):
        if (stage_index, step.iteration) == (self.stage, self.iteration):
            os.kill(os.getpid(), signal.SIGKILL)

    def stage_finished(self, stage_index, accuracies):
        if stage_index == self.stage and self.iteration is None:
            os.kill(os.getpid(), signal.SIGKILL)


def kill(*words: str, at: tuple[int, int | str], every_step: bool = False) -> None:
    """Run `gr-run words` in a process that is killed at an iteration of a stage."""
    folders = [str(Path(__file__).parents[1]), str(Path(gr_cli.__file__).parents[1])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(folders)}
    environment |= {_EVERY_STEP: "1"} if every_step else {}
    command = [sys.executable, "-m", "helpers.killed", *map(str, at), *words]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, (ended.returncode, ended.stderr)


if __name__ == "__main__":
    at, words = sys.argv[1:3], sys.argv[3:]
    killer = KillAt(int(at[0]), None if at[1] == "end" else int(at[1]))
    run_display.TerminalObserver = lambda **_: killer
    if os.environ.get(_EVERY_STEP):
        step_monitor._MIN_TRAINING_PER_SAVING = 0
        words.append("checkpoint.every_seconds=1e-9")
    sys.exit(main(words))
