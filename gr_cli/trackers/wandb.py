"""Weights & Biases: offline unless asked otherwise, in the run's folder, to be sent with `wandb sync`."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from gr_cli.trackers.base import Log, Tracked, Tracker

_BLOCK = 2**15
StepAxis = Mapping[str, set[int]]


class WandB(Tracker):
    """Keeps runs in a project of Weights & Biases: `online`, or `offline` in files below the run's folder."""

    library = "wandb"

    def __init__(
        self, mode: Literal["offline", "online"] = "offline", project: str = "gr", entity: str | None = None
    ) -> None:
        self._mode, self._project, self._entity = mode, project, entity

    @property
    def place(self) -> str:
        return " ".join(["wandb", self._mode, *([self._entity] if self._entity else []), self._project])

    @property
    def sends_to(self) -> str | None:
        return "wandb:" + "/".join(filter(None, (self._entity, self._project))) if self._mode == "online" else None

    def log(self, run: Tracked, known: str | None, step: int) -> Log:
        import wandb

        # Online, Weights & Biases itself knows how far it is, and takes down no step again.
        kept = _kept(run.folder, known) if known is not None and self._mode == "offline" else {}
        told = wandb.init(
            project=self._project,
            entity=self._entity,
            mode=self._mode,
            dir=str(run.folder.absolute()),  # its other process may be elsewhere
            id=known or secrets.token_hex(8),  # its own way of making one is not ours to seed
            resume="allow",
            name=run.title,
            group=None if run.sweep is None else run.sweep.name,
            config=dict(run.config),
            tags=[f"{name}={value}"[:64] for name, value in run.tags.items()],
            reinit="create_new",  # runs that are trained together are told side by side
            settings=wandb.Settings(silent=True, console="off", save_code=False, x_disable_stats=True),
        )
        return _Stream(told, kept)


class _Stream(Log):
    """`kept`: the steps of which earlier processes took something down, by its name: they may have been killed before
    that was noted."""

    def __init__(self, run: Any, kept: StepAxis) -> None:
        self.id, self._run, self._kept = str(run.id), run, kept

    def rows(self, rows: Mapping[int, Mapping[str, float]]) -> None:
        for step, values in rows.items():
            if fresh := {name: value for name, value in values.items() if step not in self._kept.get(name, ())}:
                self._run.log(fresh, step=step)

    def picture(self, name: str, path: Path, step: int) -> None:
        import wandb

        if step not in self._kept.get(name, ()):
            self._run.log({name: wandb.Image(str(path), caption=path.stem)}, step=step)

    def flush(self) -> None:
        """Another process writes it down."""

    def end(self, state: str, metrics: Mapping[str, float], step: int) -> None:
        self._run.summary.update({**metrics, "state": state})
        self._run.finish(exit_code=0 if state == "finished" else 1)

    def close(self) -> None:
        self._run.finish(exit_code=1)


def _kept(folder: Path, run: str) -> StepAxis:
    """The steps that the offline files below `folder` have of a run, by name. Its library reads none of them; of a file
    that is of a newer kind, or ends where a process was killed, counts what can be understood."""
    found: dict[str, set[int]] = {}
    for path in (folder / "wandb").glob(f"offline-run-*/run-{run}.wandb"):
        with suppress(Exception):
            proto: Any = import_module("wandb.proto.wandb_internal_pb2")
            for data in _records(path.read_bytes()):
                items = {
                    (*item.nested_key, item.key)[0]: item.value_json
                    for item in proto.Record.FromString(data).history.item
                }
                step = int(items.pop("_step", -1))
                for name in items:
                    found.setdefault(name, set()).add(step)
    return found


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a log as LevelDB writes it: behind a header of 7 bytes parts of records, none of which crosses the
    border of a block of 32 KiB. A part has a head: checksum, size, and whether it is whole, first, middle or last."""
    at, record = 7, b""
    while at + 7 <= len(data):
        left = -at % _BLOCK
        if 0 < left < 7:  # no room for a head
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield record
            record = b""
