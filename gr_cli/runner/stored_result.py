"""The stored result of a finished run; damaged files of its folder are rewritten."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from gr_cli.config.settings import Settings
from gr_cli.errors import FolderError, GrError
from gr_cli.results.folder import RunFolder
from gr_cli.results.forgotten import notices
from gr_cli.results.record import Record, Result
from gr_cli.runner.checkpoints import check_identity
from gr_cli.system.messages import print_status
from gr_cli.training.experiment import dataset_hash_of


def stored_result(settings: Settings, folder: RunFolder) -> Result | None:
    """Result of the run of `settings` if it is finished; None if it must be started or resumed.

    A run is finished if its status says so and its checkpoint is of the end. Tables that differ from those of the
    checkpoint are rewritten.

    Raises:
        FolderError: The checkpoint is missing, damaged or of another run, or status.json is damaged.
        WriteError: A table can't be written.
    """
    if (folder.status() or {}).get("state") != "finished":
        return None
    saved = folder.load_checkpoint()
    if saved is None:
        raise FolderError(f"{folder.path}: is finished, but its checkpoint is missing; use fresh=true")
    check_identity(saved, settings, folder)
    stage, num_stages = saved["stage"], saved["stages"]
    if stage < num_stages:
        print_status(
            f"{folder.path}: its status.json says that it is finished, but its checkpoint has learned {stage} of "
            f"{num_stages} tasks; the run continues"
        )
        return None
    record = Record.from_state(saved["record"])
    _rewrite_damaged_files(settings, folder, record, saved)
    for notice in notices(saved["forgotten"]):
        print_status(f"{folder.path}: {notice}")
    _warn_if_data_changed(settings, folder, saved["data"])
    return Result(folder.path, record, saved["metrics"])


def _rewrite_damaged_files(settings: Settings, folder: RunFolder, record: Record, saved: Mapping[str, Any]) -> None:
    """Rewrite tables and config.yaml from the checkpoint `saved` if one was damaged, changed or removed."""
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
    names = ", ".join(changed) or "config.yaml"
    print_status(f"{folder.path}: {names} had been damaged or changed; rewritten from the checkpoint")


def _warn_if_data_changed(settings: Settings, folder: RunFolder, trained_hash: str) -> None:
    """Warn if the data set differs from the one the run was trained on; a missing data set is no error."""
    with suppress(GrError):
        if trained_hash != dataset_hash_of(replace(settings, config=settings.config | {"download": False})):
            print_status(
                f"{folder.path}: was trained on other samples or labels than its benchmark has now; "
                "fresh=true trains on these"
            )
