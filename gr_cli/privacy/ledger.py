"""The ledger: every access of a run to raw samples, written before it takes place."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gr_cli.errors import ConfigError, FolderError
from gr_cli.privacy.access import Access
from gr_cli.privacy.composition import Spent, spent_in_total, within
from gr_cli.privacy.settings import PrivacySettings

__all__ = ["FILE_NAME", "Access", "Ledger"]

FILE_NAME = "privacy_ledger.jsonl"


class Ledger:
    """The accesses of one run, in a file of its folder, or in memory only.

    Seeded noise is the same when a run repeats an access, so that a repeated entry is recorded once. Noise of the
    system's generator is new, and a repeated entry counts again.

    Args:
        privacy: Budget of the run.
        folder: Folder of the run; None: in memory.

    Attributes:
        privacy: As above.
        accesses: All accesses so far.

    Raises:
        FolderError: The file is damaged.
    """

    def __init__(self, privacy: PrivacySettings, folder: Path | None = None) -> None:
        self._path = None if folder is None else folder / FILE_NAME
        self.privacy = privacy
        self.accesses: list[Access] = []
        self._stopped_at: tuple[int, int] | None = None  # if that is the last entry
        if self._path is not None and self._path.exists():
            try:
                for line in _complete_lines(self._path):
                    self._add(json.loads(line))
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                raise FolderError(
                    f"{self._path}: can't be read, so that it is unknown what was spent; start again with fresh=true"
                ) from error

    @property
    def spent(self) -> Spent:
        """What all accesses so far have spent on one sample."""
        return spent_in_total(self.accesses, self.privacy)

    def record(self, accesses: Sequence[Access], stage: int = 0, iteration: int = 0) -> None:
        """Add the accesses of a task before they take place; the file is on the disk when this returns.

        Args:
            accesses: The accesses.
            stage: Stage of training that begins or is resumed.
            iteration: Iteration within the stage; above 0 if it is resumed.

        Raises:
            ConfigError: The accesses would spend more than the budget.
        """
        if self.privacy.secure and iteration > 0 and self._stopped_at == (stage, iteration):
            # The run was stopped right after it was saved: nothing is done again.
            self._append([{"resumed_at": [stage, iteration]}])
            return
        new = [access for access in accesses if self.privacy.secure or access not in self.accesses]
        total = spent_in_total([*self.accesses, *new], self.privacy)
        if not (within(total.epsilon, self.privacy.epsilon) and within(total.delta, self.privacy.delta)):
            reason = ", because what an interrupted run does again has new noise" if self.privacy.secure else ""
            raise ConfigError(
                "privacy.epsilon",
                f"{self.privacy.epsilon:g}",
                f"the accesses of this task would spend an epsilon of {total.epsilon:.6g} at a delta of "
                f"{total.delta:.6g} in all{reason}",
                "start a new run with fresh=true, which spends a budget of its own",
            )
        self._append([{"access": asdict(access)} for access in new])

    def require(self, accesses: Sequence[Access]) -> None:
        """Check that accesses of earlier tasks are in the ledger.

        Raises:
            FolderError: One is missing: the file was removed or changed.
        """
        if missing := [access for access in accesses if access not in self.accesses]:
            raise FolderError(
                f"{self._path or FILE_NAME}: has no entry for task {missing[0].task}, which is trained already; "
                "start again with fresh=true"
            )

    def record_stop(self, stage: int, iteration: int) -> None:
        """Note that training stopped at a checkpoint: a run that resumes there does nothing again.

        With seeded noise it need not be known.
        """
        if self.privacy.secure:
            self._append([{"stopped_at": [stage, iteration]}])

    def _append(self, entries: Sequence[Mapping[str, Any]]) -> None:
        if entries and self._path is not None:
            is_new = not self._path.exists()
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(entry) + "\n" for entry in entries)
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                _sync_folder(self._path.parent)
        for entry in entries:
            self._add(entry)

    def _add(self, entry: Mapping[str, Any]) -> None:
        stopped_at = entry.get("stopped_at")
        self._stopped_at = None if stopped_at is None else (int(stopped_at[0]), int(stopped_at[1]))
        if "access" in entry:
            self.accesses.append(Access(**{**entry["access"], "classes": tuple(entry["access"]["classes"])}))


def _sync_folder(folder: Path) -> None:
    """Write the name of a new file to the disk, where a folder can be opened."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _complete_lines(path: Path) -> list[bytes]:
    """The lines of a ledger. One that was being written when the process was killed is removed: no access followed."""
    content = path.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    if len(complete) < len(content):
        os.truncate(path, len(complete))
    return complete.splitlines()
