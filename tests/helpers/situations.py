"""How a message is brought about: by what is typed, or by a function. The tables are in `situations_*.py`."""

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
    """What a situation may use. `finished`: a folder in which a tiny run is over, to be copied from."""

    gr_run: Callable[..., tuple[int, str, str]]
    monkeypatch: pytest.MonkeyPatch
    finished: Path

    def again(self, *words: str) -> tuple[int, str, str]:
        """The tiny run, begun or gone on with here."""
        return self.gr_run(*TINY, *words)

    def over(self) -> Path:
        """The folder of a tiny run that is over, where the same command would put it."""
        shutil.copytree(self.finished / "outputs", "outputs")
        (status,) = Path("outputs").glob("*/*/*/status.json")
        return status.parent

    def left(self, **status: Any) -> Path:
        """The same as if it was not over yet, and whatever else its status says."""
        folder = self.over()
        told = json.loads((folder / "status.json").read_text())
        (folder / "status.json").write_text(json.dumps(told | {"state": "interrupted"} | status))
        return folder


Situation = Callable[[Hands], object]
# What is said or its unmistakable part, in the source's own words with {} for what changes; what brings it about; and
# what is said where nothing of it is constant, and the name of a function stands for it.
Entry = tuple[str, Situation] | tuple[str, Situation, str]
Table = dict[str, list[Entry]]


def typed(words: str) -> Situation:
    """`gr-run` with these words."""
    return lambda hands: hands.gr_run(*words.split())


def mistake(words: str) -> Situation:
    """A command line that `test_cli` knows, with all that is said of it."""
    assert words in dict(MISTAKES), words
    return typed(words)


def of_vectors(words: str, values: int = 6) -> Situation:
    """`gr-run` with these words on 20 random vectors of four classes."""

    def do(hands: Hands) -> object:
        np.savez("set.npz", x=np.random.default_rng(0).random((20, values)), y=np.arange(20) % 4)
        return hands.gr_run("benchmark=arrays", "benchmark.source.path=set.npz", *TINY[1:3], *words.split())

    return do


def failing(error: Exception) -> Callable[..., Any]:
    """A function that fails, to be put in the place of another."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail
