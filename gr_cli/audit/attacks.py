"""The attacks of `gr-audit`: one table. An attack is a function from the shadow runs to rows.

A new attack is a function here, or in a module beside, and an entry of `ATTACKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gr_cli.audit.shadows import Shadows
from gr_cli.errors import FolderError
from gr_cli.evaluation.attacks.likelihood_ratio import log_likelihood_ratios, offline_scores
from gr_cli.evaluation.attacks.rates import estimates
from gr_cli.results.membership_scores import MembershipScores, membership_files
from gr_cli.results.tables import ALL_TASKS

FALSE_POSITIVE_RATES = (0.001, 0.01)


class AttackRow(NamedTuple):
    """A figure of an attack.

    Attributes:
        after_task: Task that was trained last.
        task: Task of the attacked samples, or `all`: all tasks so far.
        part: What is attacked: `solver`, `generator`, ...
        attack: Name of the attack.
        metric: `auc`, `tpr_at_fpr_0.01`, ...
        value: None where it is undefined, or too few samples were attacked.
        low, high: Ends of the interval of 95 %.
        n: Number of guesses.
    """

    after_task: int
    task: int | str
    part: str
    attack: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class StackedScores:
    """Scores of the candidates under all S shadows, after a task.

    Attributes:
        task: Task of each candidate, (N,).
        is_member: Whether a shadow was trained on it, bool (S, N).
        parts: Scores (S, N) by attacked part.
        kinds: What is computed, by attacked part.
    """

    task: NDArray[np.int32]
    is_member: NDArray[np.bool_]
    parts: Mapping[str, NDArray[np.float32]]
    kinds: Mapping[str, str]

    def of_tasks(self) -> Iterator[tuple[int | str, NDArray[np.bool_]]]:
        """Each task, and all of them, with the mask (N,) of its candidates."""
        for task in np.unique(self.task).tolist():
            yield task, self.task == task
        yield ALL_TASKS, np.ones(len(self.task), np.bool_)


class Attacked:
    """The finished shadows of a run; each is in turn the target of an attack.

    Args:
        shadows: The shadows.
    """

    def __init__(self, shadows: Shadows) -> None:
        self.shadows = shadows
        self._stacked: dict[int, StackedScores] = {}

    @property
    def groups(self) -> NDArray[np.int64]:
        """The pair of complementary draws to which each shadow belongs, (S,)."""
        return np.array(self.shadows.draws) // 2

    @cached_property
    def _files(self) -> list[dict[int, Any]]:
        return [membership_files(folder.path) for folder in self.shadows.folders]

    @property
    def after_tasks(self) -> list[int]:
        """The tasks after which there are scores of all shadows."""
        return sorted(set.intersection(*map(set, self._files)))

    def scores(self, after_task: int) -> StackedScores:
        """The scores of all shadows after a task.

        Raises:
            FolderError: A file can't be read, or they are not of the same samples.
        """
        if after_task not in self._stacked:
            loaded = [MembershipScores.load(files[after_task]) for files in self._files]
            first = loaded[0]
            for scores, folder in zip(loaded, self.shadows.folders, strict=True):
                same = np.array_equal(scores.task, first.task) and np.array_equal(scores.sample, first.sample)
                if not same or list(scores.parts) != list(first.parts):
                    raise FolderError(
                        f"{folder.path}: its membership scores are of other samples than those of the other shadows; "
                        "remove this folder, and the command trains it again"
                    )
            parts = {name: np.stack([scores.parts[name].values for scores in loaded]) for name in first.parts}
            kinds = {name: part.kind for name, part in first.parts.items()}
            is_member = np.stack([scores.is_member for scores in loaded])
            self._stacked = {after_task: StackedScores(first.task, is_member, parts, kinds)}
        return self._stacked[after_task]


@dataclass(frozen=True)
class Attack:
    """An attack.

    Attributes:
        name: Its name in the table.
        description: What the attacker knows and does, for readers of the table.
        rows: Its figures after one task.
    """

    name: str
    description: str
    rows: Callable[[Attacked, int], Iterator[AttackRow]]


Statistic = Callable[[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]], NDArray[Any]]


def score_attack(name: str, description: str, statistic: Statistic) -> Attack:
    """An attack that guesses from a statistic (S, N) of the scores of all shadows."""

    def rows(attacked: Attacked, after_task: int) -> Iterator[AttackRow]:
        stacked = attacked.scores(after_task)
        for part, scores in stacked.parts.items():
            values = statistic(scores, stacked.is_member, attacked.groups)
            for task, mask in stacked.of_tasks():
                found = estimates(values[:, mask], stacked.is_member[:, mask], FALSE_POSITIVE_RATES)
                for metric, estimate in found.items():
                    yield AttackRow(
                        after_task, task, part, name, metric, estimate.value, estimate.low, estimate.high, estimate.n
                    )

    return Attack(name, description, rows)


ATTACKS: Sequence[Attack] = (
    score_attack(
        "likelihood_ratio",
        "ratio of the likelihoods of a sample's score under runs with and without it (Carlini et al. 2022, online)",
        log_likelihood_ratios,
    ),
    score_attack(
        "likelihood_ratio_offline",
        "how unlikely a sample's score is under runs without it (Carlini et al. 2022, offline)",
        offline_scores,
    ),
    score_attack(
        "threshold",
        "one threshold on the score, without other runs (Yeom et al. 2018)",
        lambda scores, is_member, groups: scores,
    ),
)


def attack_rows(shadows: Shadows) -> list[AttackRow]:
    """The figures of all attacks after every task.

    Raises:
        FolderError: The scores of a shadow are missing or can't be read.
    """
    attacked = Attacked(shadows)
    if not attacked.after_tasks:
        raise FolderError(f"{shadows.folder}: its shadows have no membership scores; remove it, and repeat the command")
    return [row for after in attacked.after_tasks for attack in ATTACKS for row in attack.rows(attacked, after)]
