"""The claim of privacy of a finished run: whether it holds, and what was spent, by the ledger in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose

from gr_cli.config.settings import Settings
from gr_cli.errors import ConfigError, FolderError
from gr_cli.privacy.access import Access
from gr_cli.privacy.claims import ADJACENCY, SIMULATED, check_settings
from gr_cli.privacy.composition import Spent, within
from gr_cli.privacy.ledger import FILE_NAME, Ledger
from gr_cli.privacy.settings import PrivacySettings
from gr_cli.results.folder import RunFolder
from gr_cli.results.record import Record
from gr_cli.results.tables import TableRow
from gr_cli.runner.load import load_learner, load_state
from gr_cli.training.private_training import check_private_components, private_accesses


@dataclass(frozen=True)
class Claim:
    """What a run may claim of the files that are released from it.

    Attributes:
        privacy: Budget of the run.
        accesses: All accesses to its training samples.
        spent: What they have spent on one sample.
    """

    privacy: PrivacySettings
    accesses: tuple[Access, ...]
    spent: Spent

    @property
    def text(self) -> str:
        """The claim in a sentence."""
        if not self.privacy.secure:
            return SIMULATED
        budget = f"({self.spent.epsilon:.6g}, {self.spent.delta:.6g})"
        return f"{budget}-differential privacy of one training {self.privacy.unit}, {ADJACENCY}"

    def mechanisms(self, part: str) -> set[str]:
        """The mechanisms by which a network and its objectives read samples."""
        return {access.mechanism for access in self.accesses if access.part.partition(".")[0] == part}


def check_claim(settings: Settings, folder: RunFolder) -> Claim:
    """The claim of a finished run, checked against its settings, its ledger and its tables.

    Raises:
        ConfigError: The run claims no privacy, or its settings void the claim.
        FolderError: It is not finished, or its ledger or a table does not fit the claim.
    """
    path, section = folder.path, settings.config["privacy"]
    if section["epsilon"] is None:
        problem = f"the run in {path} claims no privacy, so that nothing of it can be released"
        raise ConfigError("privacy.epsilon", None, problem, "train a run with privacy.epsilon=1")
    if (state := folder.state()) != "finished":
        raise FolderError(f"{path}: is {state}, and only a finished run is released; finish it with resume={path}")
    saved = load_state(settings, folder)
    learner = load_learner(settings, saved)
    privacy = PrivacySettings.from_config(section, len(learner.task_units))
    assert privacy is not None
    check_settings(settings.config)
    check_private_components(settings, learner)
    ledger = read_ledger(folder, privacy)
    expected = [access for task in range(len(learner.task_units)) for access in private_accesses(learner, task)]
    ledger.require(expected)
    record = Record.from_state(saved["record"])
    if changed := folder.changed_tables(record, saved["metrics"]):
        raise FolderError(f"{path}: {changed[0]} was damaged or changed; the run's command rewrites it")
    if not _is_total(record.tables["privacy"].rows[-1], ledger.spent):
        raise FolderError(
            f"{path}: its {FILE_NAME} and its privacy.csv differ in what was spent in all, so that one of them was "
            "changed, and the claim is void; train the run again with fresh=true"
        )
    return Claim(privacy, tuple(ledger.accesses), ledger.spent)


def read_ledger(folder: RunFolder, privacy: PrivacySettings) -> Ledger:
    """The ledger of a run.

    Raises:
        FolderError: It is missing or damaged, or more was spent than the budget.
    """
    path = folder.path / FILE_NAME
    if not path.exists():
        raise FolderError(f"{path}: is missing, so that it is unknown what was spent; train the run with fresh=true")
    ledger = Ledger(privacy, folder.path)
    spent = ledger.spent
    if not (within(spent.epsilon, privacy.epsilon) and within(spent.delta, privacy.delta)):
        raise FolderError(
            f"{path}: an epsilon of {spent.epsilon:.6g} at a delta of {spent.delta:.6g} was spent, more than the "
            "budget, and the claim is void; train the run again with fresh=true"
        )
    return ledger


def _is_total(row: TableRow, spent: Spent) -> bool:
    """Whether a row of privacy.csv, whose ε is rounded up to six decimals, has what was spent."""
    epsilon = float(row["epsilon"] or 0)
    return row["delta"] == f"{spent.delta:.6g}" and isclose(epsilon, spent.epsilon, rel_tol=1e-8, abs_tol=1.01e-6)
