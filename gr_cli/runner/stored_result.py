"""What a run that is over had found, read from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from gr_cli.config.settings import Settings
from gr_cli.errors import FolderError, GrError
from gr_cli.results.folder import RunFolder
from gr_cli.results.record import Record, Result
from gr_cli.runner.checkpoints import check_identity
from gr_cli.system.messages import print_status
from gr_cli.training.experiment import dataset_hash_of


def stored_result(settings: Settings, folder: RunFolder) -> Result | None:
    """What the run of `settings` found, if it is over; None if it has to begin or to go on.

    It is over if its state is that of the end, whatever status.json says. Tables that are not those of its state are
    written anew.

    Raises:
        FolderError: its state is gone or damaged, or is of another run; or status.json is damaged.
        WriteError: a table can't be written.
    """
    if (folder.status() or {}).get("state") != "finished":
        return None
    saved = folder.load_checkpoint()
    if saved is None:
        raise FolderError(f"{folder.path}: is finished, but its checkpoint is gone; use fresh=true")
    check_identity(saved, settings, folder)
    stage, stages = saved["stage"], saved["stages"]
    if stage < stages:
        print_status(
            f"{folder.path}: its status.json says that it is finished, but its checkpoint has learned {stage} of "
            f"{stages} tasks; the run continues"
        )
        return None
    record = Record.from_state(saved["record"])
    _rewrite_damaged_files(settings, folder, record, saved)
    _warn_if_data_changed(settings, folder, saved["data"])
    return Result(folder.path, record, saved["metrics"])


def _rewrite_damaged_files(settings: Settings, folder: RunFolder, record: Record, saved: Mapping[str, Any]) -> None:
    """Write the tables and the configuration anew that were damaged, changed or removed."""
    changed, status = folder.changed_tables(record, saved["metrics"]), folder.status() or {}
    folder.check_status_checksum(status)
    with suppress(OSError, ValueError, FolderError):
        folder.check_file("config.yaml", status)
        if not changed:
            return
    with folder.locked():
        folder.write_config(replace(settings, config=saved["config"]).as_yaml())
        folder.write_tables(record, saved["metrics"])
        folder.write_status(status)
    what = ", ".join(changed) or "config.yaml"
    print_status(f"{folder.path}: {what} had been damaged or changed; written anew from the run's state")


def _warn_if_data_changed(settings: Settings, folder: RunFolder, learnt: str) -> None:
    """Say so, if a finished run learnt something else than what its benchmark holds now. It may be gone, too."""
    with suppress(GrError):
        if learnt != dataset_hash_of(replace(settings, config=settings.config | {"download": False})):
            print_status(
                f"{folder.path}: learnt other samples or labels than its benchmark has now; fresh=true learns these"
            )
