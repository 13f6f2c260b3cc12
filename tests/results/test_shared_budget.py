"""Budgets of runs on the same samples add up, whatever their seed, and reports say so."""

from pathlib import Path

import pytest

from gr_cli.results.shared_budget import SIMULATED, shared_budgets
from helpers.extras import needs_optuna
from helpers.run_folders import write_run
from helpers.situations_search import HELD_OUT, LR, SEARCH

MNIST = {"benchmark.source._target_": "Torchvision", "benchmark.source.name": "MNIST", "seed": 0}
BUDGET = {"privacy.epsilon": 1.5, "privacy.delta": 1e-5, "privacy.secure": True}
SPLIT = {"benchmark": "split_mnist"}


def test_budgets_on_the_same_samples_add_up():
    runs = [
        (MNIST | BUDGET | {"benchmark.class_order": "fixed"}, SPLIT),
        (MNIST | BUDGET | {"benchmark.class_order": "shuffled", "privacy.epsilon": 0.25}, SPLIT),
        (MNIST | BUDGET, {"benchmark": "permuted_mnist"}),
        (MNIST | {"privacy.epsilon": None}, SPLIT),
        (MNIST | BUDGET | {"benchmark.source.name": "FashionMNIST"}, {"benchmark": "split_fashion_mnist"}),
    ]
    mnist, fashion = shared_budgets(runs)
    assert (mnist.benchmark, mnist.runs, mnist.epsilon) == ("permuted_mnist and split_mnist", 3, 3.25)
    assert mnist.delta == pytest.approx(3e-5)
    assert (fashion.benchmark, fashion.runs, fashion.epsilon) == ("split_fashion_mnist", 1, 1.5)
    assert "3 runs" in mnist.line and "ε = 3.25" in mnist.line and SIMULATED not in mnist.line
    (simulated,) = shared_budgets([*runs[:2], (MNIST | BUDGET | {"privacy.secure": False}, SPLIT)])
    assert simulated.line.endswith(SIMULATED)


def test_runs_of_one_seed_share_their_noise():
    """Seeded noise at two scales: two releases give the exact sums, whatever their budgets."""
    seeded = MNIST | BUDGET | {"privacy.secure": False}
    (shared,) = shared_budgets([(seeded, SPLIT), (seeded | {"privacy.epsilon": 2.0}, SPLIT)])
    (distinct,) = shared_budgets([(seeded, SPLIT), (seeded | {"seed": 1}, SPLIT)])
    (secure,) = shared_budgets([(MNIST | BUDGET, SPLIT)] * 2)
    assert "runs of one seed share their noise" in shared.line
    assert not distinct.shares_noise and not secure.shares_noise


def test_runs_without_a_budget_have_none():
    assert shared_budgets([(MNIST, SPLIT), (MNIST | {"privacy.epsilon": None}, SPLIT)]) == []


@pytest.mark.parametrize("words", [(), ("--format", "markdown"), ("--html", "page.html")])
def test_a_report_says_what_runs_spend_together_and_that_it_is_not_covered(gr_report, words):
    privacy = {"epsilon": 2.0, "delta": 1e-5, "secure": False}
    for seed in range(3):
        write_run(Path("private"), seed, privacy=privacy)
        write_run(Path("other"), seed)
    code, out, err = gr_report("private", *words)
    text = Path("page.html").read_text(encoding="utf-8") if "--html" in words else " ".join(out.split())
    assert (code, err) == (0, "")
    assert "3 runs on the samples of split_digits may spend ε = 6 at δ = 3e-05 in all" in text
    assert SIMULATED in text and "not covered are this report and history.csv" in text
    assert "ε" not in gr_report("other")[1]


@needs_optuna
@pytest.mark.parametrize("where", ["fixed", "searched"])
def test_a_search_with_a_budget_is_refused_before_it_trains(gr_run, where):
    epsilon = {"fixed": "privacy.epsilon=1", "searched": "privacy.epsilon=interval(1,2)"}[where]
    code, _, err = gr_run(*SEARCH, HELD_OUT, LR, epsilon)
    assert code == 2 and err.startswith(
        "gr-run: hydra/sweeper=optuna: each trial would spend ε = 1 on the same samples"
    )
    assert not list(Path("outputs").rglob("status.json"))
