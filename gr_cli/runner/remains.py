"""What else than the checkpoint holds samples, or generated ones, that a run has forgotten: deleted, or listed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from gr_cli.config.settings import Settings
from gr_cli.privacy.ledger import FILE_NAME as LEDGER_FILE
from gr_cli.results.folder import AUDIT_FOLDER, CONFIG_FILE, CURRENT, TABLES_FILE, RunFolder
from gr_cli.results.membership_scores import membership_files
from gr_cli.runner.release import default_folder
from gr_cli.system.files import remove_file
from gr_cli.system.locks import LOCK_FILE
from gr_cli.system.reading import read_json

_TRACKER_FILE = "tracker.json"
_OWN_FILES = {CONFIG_FILE, CURRENT, LEDGER_FILE, LOCK_FILE, TABLES_FILE, _TRACKER_FILE, "status.json"}
_OWN_FIGURES = {"accuracy_matrix.png", "accuracy_curves.png"}


def delete_remains(folder: RunFolder, first_task: int) -> tuple[Path, ...]:
    """Delete the figures of samples generated after `first_task` or later; return them."""
    figures = [path for task, path in folder.sample_figures().items() if task >= first_task]
    for path in figures:
        remove_file(path)
    return tuple(figures)


def remaining_copies(folder: RunFolder, settings: Settings) -> dict[str, str]:
    """Files and services that may hold what was forgotten, with a reason each; this program does not change them."""
    tables, scores = {*folder.result_files(), "timing.csv"}, membership_files(folder.path).values()
    remaining: dict[str, str] = {}
    for path in sorted(folder.path.iterdir()):
        if path.name == AUDIT_FOLDER:
            remaining[str(path)] = "shadow runs of gr-audit, trained on these samples, too, and their scores"
        elif path in scores:
            remaining[str(path)] = "scores of single samples, for gr-audit"
        elif path.name not in _OWN_FILES | tables and path != folder.figures:
            remaining[str(path)] = "not written by the run itself, and may hold samples or weights"
    for path in sorted(folder.figures.iterdir()):
        if path.name not in _OWN_FIGURES and path not in folder.sample_figures().values():
            remaining[str(path)] = "a figure not written by the run itself"
    if os.path.lexists(release := default_folder(settings, folder.path)):
        remaining[str(release)] = "a release of the run, as it was before"
    with suppress(OSError, ValueError):
        for destination in read_json(folder.path / _TRACKER_FILE):
            remaining[destination] = "the run's tracker, which has figures of generated samples"
    for path in sorted(Path(settings.config["cache_root"]).glob("*")):
        if path.is_dir() and any(path.iterdir()):
            remaining[str(path)] = "the cache of all runs, which may hold these images or their features"
    return remaining
