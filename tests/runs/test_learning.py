"""Methods against forgetting reach much higher accuracy than finetuning on the embedded digits."""

from statistics import mean

import pytest

from gr_cli import load_run
from helpers.interruption import only_run


def accuracy(gr_run, *words: str) -> float:
    """Average accuracy of a run with cheap evaluations."""
    code, _, err = gr_run(*words, "evaluate.generated_samples=0", "threads=1", "fresh=true")
    assert code == 0, err
    return mean(load_run(only_run()).matrix.iloc[-1])


# Finetuning remembers the last two of ten classes: a fifth, at most.
FINETUNE = 0.20


def test_finetuning_forgets_all_but_the_last_task(gr_run):
    assert accuracy(gr_run, "strategy=finetune", "train.iterations=60") < FINETUNE + 0.05


@pytest.mark.parametrize(
    ("words", "margin"),
    [
        (["train.iterations=300"], 0.40),
        (["generator=mixture", "train.iterations=100"], 0.65),
        (["strategy=dgr_distill", "train.iterations=250"], 0.40),
        (["strategy=bir", "train.iterations=150"], 0.50),
        (["strategy=generative_classifier", "train.iterations=100"], 0.60),
        (["strategy=er", "train.iterations=80"], 0.60),
        (["strategy=icarl", "train.iterations=80"], 0.55),
        (["strategy=joint", "train.iterations=400"], 0.75),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_methods_beat_finetune_by_a_wide_margin(gr_run, words, margin):
    assert accuracy(gr_run, *words) > FINETUNE + margin
