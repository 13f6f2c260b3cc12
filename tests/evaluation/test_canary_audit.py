"""Bounds from the score files of runs with canaries."""

import numpy as np

from gr_cli.evaluation.attacks.canaries import largest_epsilon
from gr_cli.evaluation.canary_audit import GUESSED_SHARES, audit_scores
from gr_cli.results.membership_scores import MembershipScores, PartScores, membership_files

PER_TASK, DELTA, ERROR = 200, 1e-5, 0.01
SHARE = ERROR / len(GUESSED_SHARES)


def _scores(tasks: int, values: np.ndarray, is_member: np.ndarray) -> MembershipScores:
    task = np.repeat(np.arange(tasks, dtype=np.int32), PER_TASK)
    label = (2 * task + np.tile([0, 1], len(task) // 2)).astype(np.int32)
    parts = {"solver": PartScores("logit_scaled_confidence", values.astype(np.float32))}
    return MembershipScores(
        tasks - 1, task, np.tile(np.arange(PER_TASK, dtype=np.int32), tasks), label, is_member, parts
    )


def test_scores_that_tell_members_give_the_largest_bound_whatever_the_scale_of_tasks_and_labels() -> None:
    is_member = np.tile([False, False, True, True], PER_TASK // 2)  # half of each label
    scale = np.repeat([1.0, 1000.0], PER_TASK)
    offset = np.tile([0.0, 5000.0], PER_TASK)
    first, second, every = audit_scores(_scores(2, is_member * scale + offset, is_member), DELTA, ERROR)
    assert (first.task, second.task, every.task, every.after_task) == (0, 1, None, 1)
    largest = largest_epsilon(PER_TASK, PER_TASK, DELTA, SHARE)
    assert first.bound.epsilon == second.bound.epsilon == first.bound.largest == largest
    assert every.bound.epsilon == every.bound.largest > largest


def test_scores_that_ignore_membership_give_no_bound() -> None:
    random = np.random.default_rng(1)
    results = list(audit_scores(_scores(3, random.random(600), random.random(600) < 0.5), DELTA, ERROR))
    assert [result.bound.epsilon for result in results] == [0.0] * 4


def test_undefined_scores_are_left_out() -> None:
    values, is_member = np.full(PER_TASK, np.nan), np.ones(PER_TASK, bool)
    assert list(audit_scores(_scores(1, values, is_member), DELTA, ERROR)) == []
    values[:10] = 1.0
    (result,) = audit_scores(_scores(1, values, is_member), DELTA, ERROR)
    assert np.isfinite(result.bound.epsilon)


def test_a_run_with_canaries_writes_scores_of_them(made) -> None:
    words = ("train.iterations=4", "log.every=2", "evaluate.generated_samples=0", "threads=1", "train.tasks=2")
    folder = made(*words, "canaries.count=20")
    scores = MembershipScores.load(membership_files(folder)[1])
    assert np.bincount(scores.task).tolist() == [20, 20] and 0 < scores.is_member.mean() < 1
    assert len(list(audit_scores(scores, DELTA, ERROR))) == 3 * len(scores.parts)
