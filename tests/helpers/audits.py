"""Raw samples planted in a run's folder for the audit to find."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import torch

from gr_cli.benchmarks import Digits
from gr_cli.cli.main import main
from gr_cli.system.checksums import save_tensors


def run_that_stores_nothing(home: Path) -> Path:
    """The folder, below `home`, of a finished run that stores no raw samples."""
    with chdir(home):
        words = ["strategy=finetune", "model.hidden_sizes=[8]", "train.iterations=3", "threads=1"]
        assert main([*words, "evaluate.generated_samples=0", f"cache_root={home}"]) == 0
    (status,) = home.glob("outputs/*/*/*/status.json")
    return status.parent


def add(folder: Path, value) -> None:
    """Add `value` to the checkpoint's state."""
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    saved["learner"]["strategy"]["corner"] = [{"deep": value}]
    save_tensors(folder / "checkpoint.pt", saved)


def of_task(task: int, n: int) -> torch.Tensor:
    """The first `n` training samples of a task of two classes."""
    data = Digits().load().train
    return data.x[(data.y // 2 == task).nonzero().squeeze(1)[:n]]
