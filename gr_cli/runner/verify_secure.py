"""What can be verified of a run whose noise was drawn from the operating system's generator: it can't be repeated."""

from __future__ import annotations

from gr_cli.config.settings import Settings
from gr_cli.errors import ConfigError, FolderError
from gr_cli.privacy.ledger import FILE_NAME
from gr_cli.results.folder import RunFolder
from gr_cli.results.record import Record
from gr_cli.runner.checkpoints import State
from gr_cli.runner.claim import check_claim

NOT_REPEATABLE = "not repeatable: noise was drawn from the operating system's generator (privacy.secure=true)"


def is_repeatable(settings: Settings) -> bool:
    """Whether all random numbers of a run follow from its seed."""
    privacy = settings.config["privacy"]
    return privacy["epsilon"] is None or not privacy["secure"]


def stored_consistency(settings: Settings, folder: RunFolder, saved: State) -> tuple[list[str], bool]:
    """Compare the tables of a finished run with its checkpoint, and its ledger with its claim.

    Args:
        settings: Settings of the run.
        folder: Its folder.
        saved: Its checkpoint.

    Returns:
        A line for each table and for the ledger; and whether all of them fit.
    """
    changed = folder.changed_tables(Record.from_state(saved["record"]), saved["metrics"])
    names = dict.fromkeys([*folder.result_files(), *changed])
    lines = [f"{name}: {'differs from' if name in changed else 'as in'} the checkpoint" for name in names]
    try:
        claim = check_claim(settings, folder)
    except (ConfigError, FolderError) as error:
        return [*lines, str(error)], False
    spent = f"{len(claim.accesses)} accesses, ε = {claim.spent.epsilon:.6g} at δ = {claim.spent.delta:.6g}"
    return [*lines, f"{FILE_NAME}: {spent}, within the budget and as in privacy.csv"], not changed
