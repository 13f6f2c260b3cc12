"""The ledger: every access of a run to raw samples, written before it takes place."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

FILE_NAME = "privacy_ledger.jsonl"


@dataclass(frozen=True)
class Access:
    """One access to the raw samples of a task, by a mechanism that bounds what it reveals.

    Attributes:
        task: Task, from 0.
        part: What reads the samples: `generator`, `solver`, or `generator.<objective>`.
        classes: Output units of the samples that are read. Accesses to different classes compose in parallel.
        mechanism: `gaussian`, or `subsampled_gaussian` for steps on Poisson samples.
        noise_multiplier: Standard deviation of the noise, divided by the sensitivity.
        sensitivity: Largest L2 distance of the values of two neighbouring data sets.
        sampling_rate: Probability with which a step reads a sample; 1: all are read.
        steps: Number of steps, each with new noise.
        epsilon: ε of this access alone, at `delta`.
        delta: δ of this access alone.
    """

    task: int
    part: str
    classes: tuple[int, ...]
    mechanism: str
    noise_multiplier: float
    sensitivity: float
    sampling_rate: float
    steps: int
    epsilon: float
    delta: float

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise."""
        return self.noise_multiplier * self.sensitivity


class Ledger:
    """The accesses of one run, in a file of its folder, or in memory only.

    Seeded noise is the same when a run repeats an access, so that a repeated entry is recorded once. Noise of the
    system's generator is new, and a repeated entry counts again.

    Args:
        folder: Folder of the run; None: in memory.
        secure: Whether noise is drawn from the system's generator.
    """

    def __init__(self, folder: Path | None = None, secure: bool = False) -> None:
        self._path = None if folder is None else folder / FILE_NAME
        self.secure = secure
        self.accesses: list[Access] = []
        if self._path is not None and self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            self.accesses = [_access_from_json(line) for line in lines]

    def record(self, accesses: Sequence[Access]) -> None:
        """Add accesses before they take place; the file is on the disk when this returns."""
        new = [access for access in accesses if self.secure or access not in self.accesses]
        if new and self._path is not None:
            text = "".join(json.dumps(asdict(access)) + "\n" for access in new)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        self.accesses += new


def _access_from_json(line: str) -> Access:
    values = json.loads(line)
    return Access(**{**values, "classes": tuple(values["classes"])})
