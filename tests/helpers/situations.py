"""How each error message is produced: by a command line or by a function. The tables are in `situations_*.py`."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.mistakes import MISTAKES

# A run that takes no time, of two tasks.
TINY = (
    "strategy=finetune",
    "train.iterations=3",
    "log.every=3",
    "model.hidden_sizes=[8]",
    "benchmark.classes_per_task=5",
    "threads=1",
)


@dataclass
class Hands:
    """What a situation may use. `finished`: the folder of a finished tiny run, to be copied from."""

    gr_run: Callable[..., tuple[int, str, str]]
    gr_audit: Callable[..., tuple[int, str, str]]
    monkeypatch: pytest.MonkeyPatch
    finished: Path

    def again(self, *words: str) -> tuple[int, str, str]:
        """Run or resume the tiny run here."""
        return self.gr_run(*TINY, *words)

    def over(self) -> Path:
        """The folder of a finished tiny run, where the same command would put it."""
        shutil.copytree(self.finished / "outputs", "outputs")
        (status,) = Path("outputs").glob("*/*/*/status.json")
        return status.parent

    def left(self, **status: Any) -> Path:
        """The same folder with an unfinished status, and further changes to its status."""
        folder = self.over()
        stored = json.loads((folder / "status.json").read_text())
        (folder / "status.json").write_text(json.dumps(stored | {"state": "interrupted"} | status))
        return folder


Situation = Callable[[Hands], object]
# What is said or its unmistakable part, in the source's own words with {} for what changes; what brings it about; and
# what is said where nothing of it is constant, and the name of a function stands for it.
Entry = tuple[str, Situation] | tuple[str, Situation, str]
Table = dict[str, list[Entry]]


def typed(words: str) -> Situation:
    """Call `gr-run` with these overrides."""
    return lambda hands: hands.gr_run(*words.split())


def mistake(words: str) -> Situation:
    """A command line listed in `mistakes`, with the line it prints."""
    assert words in dict(MISTAKES), words
    return typed(words)


def of_vectors(words: str, values: int = 6) -> Situation:
    """Call `gr-run` with these overrides on 20 random vectors of four classes."""

    def do(hands: Hands) -> object:
        np.savez("set.npz", x=np.random.default_rng(0).random((20, values)), y=np.arange(20) % 4)
        return hands.gr_run("benchmark=arrays", "benchmark.source.path=set.npz", *TINY[1:3], *words.split())

    return do


def failing(error: Exception) -> Callable[..., Any]:
    """A function that raises `error`, to replace another."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail
