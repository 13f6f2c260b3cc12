"""Files of membership scores: for each candidate sample what solver and generator say of it, after each task."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gr_cli.errors import FolderError
from gr_cli.system.files import write_atomically
from gr_cli.system.reading import open_regular, read_error_reason

_FILE = re.compile(r"membership_scores_(\d{1,6})\.npz", re.ASCII)


@dataclass(frozen=True)
class PartScores:
    """Scores of one attacked part of a run; higher ones speak for membership.

    Attributes:
        kind: What is computed, such as `logit_scaled_confidence`.
        values: A score for each candidate, float32 (N,); NaN where it is undefined.
    """

    kind: str
    values: NDArray[np.float32]


@dataclass(frozen=True)
class MembershipScores:
    """Scores of the candidates of all tasks so far, after a task.

    Attributes:
        after_task: Task that was trained last.
        task: Task of each candidate, (N,).
        sample: Position of each candidate among those of its task, (N,).
        label: Class of each candidate as an output unit, (N,).
        is_member: Whether it is a training sample, bool (N,).
        parts: Scores by attacked part: `solver`, `generator`, ...
    """

    after_task: int
    task: NDArray[np.int32]
    sample: NDArray[np.int32]
    label: NDArray[np.int32]
    is_member: NDArray[np.bool_]
    parts: Mapping[str, PartScores]

    def save(self, folder: Path) -> None:
        """Write them into the folder of a run, whole or not at all; equal scores give equal bytes."""
        columns: dict[str, Any] = {name: getattr(self, name) for name in _COLUMNS}
        columns |= {f"{part}.scores": scores.values for part, scores in self.parts.items()}
        columns |= {f"{part}.kind": np.array(scores.kind) for part, scores in self.parts.items()}
        path = folder / f"membership_scores_{self.after_task}.npz"
        write_atomically(path, lambda file: np.savez_compressed(file, **columns))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that `save` wrote.

        Raises:
            FolderError: It can't be read.
        """
        try:
            match = _FILE.fullmatch(path.name)
            with open_regular(path) as file, np.load(file, allow_pickle=False) as columns:
                names = [name.removesuffix(".scores") for name in columns.files if name.endswith(".scores")]
                parts = {
                    name: PartScores(str(columns[f"{name}.kind"]), columns[f"{name}.scores"].astype(np.float32))
                    for name in names
                }
                values = {name: columns[name] for name in _COLUMNS}
            if match is None or len({column.shape for column in values.values()}) > 1:
                raise ValueError("its columns have different lengths")
            return cls(int(match[1]), parts=parts, **values)
        except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
            raise FolderError(
                f"{path}: holds no membership scores ({read_error_reason(error)}); remove the run's folder, and the "
                "command trains it again"
            ) from error


_COLUMNS = ("task", "sample", "label", "is_member")


def membership_files(folder: Path) -> dict[int, Path]:
    """The files of membership scores in the folder of a run, by the task after which they were computed."""
    matches = ((_FILE.fullmatch(path.name), path) for path in folder.glob("membership_scores_*.npz"))
    return dict(sorted((int(match[1]), path) for match, path in matches if match))
