"""Learning itself, small: on the embedded digits replay must keep what finetuning forgets."""

from statistics import mean

import pytest


def accuracy(gr_run, *words: str) -> float:
    from pathlib import Path

    from gr_cli import load_run

    code, _, err = gr_run(*words, "fresh=true")
    assert code == 0, err
    newest = max(Path("outputs").glob("*/*/*/status.json"), key=lambda path: path.stat().st_mtime_ns)
    return mean(load_run(newest.parent).matrix[-1])


def test_generative_replay_beats_finetune_by_40_points_and_joint_is_above_95_percent(gr_run):
    replay = mean(accuracy(gr_run, f"seed={seed}") for seed in range(2))
    finetune = mean(accuracy(gr_run, "strategy=finetune", f"seed={seed}") for seed in range(2))
    joint = accuracy(gr_run, "strategy=joint")
    assert finetune < 0.25
    assert replay - finetune > 0.40
    assert joint > 0.95


@pytest.mark.parametrize(
    ("words", "margin"),
    [
        (["generator=mixture", "train.iterations=300"], 0.65),
        (["strategy=dgr_distill", "train.iterations=500"], 0.50),
        (["strategy=bir", "train.iterations=500"], 0.50),
        (["strategy=generative_classifier", "train.iterations=300"], 0.60),
        (["strategy=er", "train.iterations=200"], 0.65),
        (["strategy=icarl", "train.iterations=200"], 0.60),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_methods_beat_finetune_by_a_wide_margin(gr_run, words, margin):
    # Finetuning remembers the last two of ten classes: at most a fifth.
    assert accuracy(gr_run, *words) > 0.20 + margin
