"""Lower bounds on ε from coin flips: published figures, hand computations, and coverage by exact probabilities."""

import math

import pytest
import torch

from gr_cli.evaluation.attacks.canaries import (
    Guesses,
    audit_canaries,
    epsilon_lower_bound,
    guess_membership,
    largest_epsilon,
    p_value,
)


def _binomial(n: int, probability: float) -> list[float]:
    return [math.comb(n, k) * probability**k * (1 - probability) ** (n - k) for k in range(n + 1)]


def _accuracy(epsilon: float) -> float:
    """Share of coin flips that randomized response of a budget answers truthfully."""
    return 1 / (1 + math.exp(-epsilon))


def test_highest_scores_are_guessed_as_included_and_lowest_as_excluded() -> None:
    scores = torch.tensor([0.9, 0.1, 0.5, 0.8, 0.2])
    included = torch.tensor([True, False, True, False, True])
    assert guess_membership(scores, included, 2) == Guesses(5, 2, 2)
    assert guess_membership(scores, included, 3) == Guesses(5, 3, 2)  # 0.9 and 0.8 included, 0.1 not
    assert guess_membership(scores, included, 4) == Guesses(5, 4, 2)
    assert guess_membership(scores, included, 0) == Guesses(5, 0, 0)
    with pytest.raises(ValueError, match="num_guesses=6"):
        guess_membership(scores, included, 6)


@pytest.mark.parametrize(
    "included", [torch.tensor([True, False, True, True]), torch.tensor([False, True, False, True])]
)
def test_coin_flips_do_not_break_ties(included: torch.Tensor) -> None:
    expected = int(~included[0]) + int(included[3])
    assert guess_membership(torch.zeros(4), included, 2).correct == expected


def test_p_value_without_delta_is_a_binomial_tail() -> None:
    for correct in range(8):
        tail = sum(_binomial(7, _accuracy(0.6))[correct:])
        assert p_value(Guesses(20, 7, correct), 0.6, 0.0) == pytest.approx(tail, rel=1e-12)


def test_p_value_with_delta_by_hand() -> None:
    # Two guesses at q = 1/2: f(2) = 1/4, f(1) = 3/4, f(0) = 1; the largest gain per canary is (f(1) - f(2)) / 1 = 1/2.
    assert p_value(Guesses(10, 2, 2), 0.0, 0.01) == pytest.approx(0.25 + 2 * 10 * 0.01 * 0.5)
    # One correct guess: f(1) = 3/4, and the gain is f(0) - f(1) = 1/4.
    assert p_value(Guesses(10, 2, 1), 0.0, 0.01) == pytest.approx(0.75 + 2 * 10 * 0.01 * 0.25)


def test_bound_of_correct_guesses_only_in_closed_form() -> None:
    accuracy = 0.05 ** (1 / 10)
    assert largest_epsilon(30, 10, 0.0, 0.05) == pytest.approx(math.log(accuracy / (1 - accuracy)), rel=1e-9)


@pytest.mark.parametrize(("error", "epsilon"), [(0.05, 3.4791953936219215), (0.01, 3.023197554051876)])
def test_published_figures(error: float, epsilon: float) -> None:
    """From audits of 500 canaries that were published with all of 100 guesses correct, at δ = 1e-5."""
    assert epsilon_lower_bound(Guesses(500, 100, 100), 1e-5, error) == pytest.approx(epsilon, abs=1e-6)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("error", [0.05, 0.0005])
def test_bound_covers_randomized_response(epsilon: float, error: float) -> None:
    """The exact probability of a bound above the true ε: at most the error, and not far below it."""
    total = 200
    probabilities = _binomial(total, _accuracy(epsilon))
    exceeding = [epsilon_lower_bound(Guesses(total, total, v), 0.0, error) > epsilon for v in range(total + 1)]
    failure = sum(p for p, exceeds in zip(probabilities, exceeding, strict=True) if exceeds)
    next_number = probabilities[exceeding.index(True) - 1]
    assert failure <= error < failure + next_number


@pytest.mark.parametrize("revealed", [1, 5, 50, 100])
def test_bound_covers_mechanisms_that_reveal_canaries_with_probability_delta(revealed: int) -> None:
    """A mechanism that sometimes reveals many canaries at once, each with probability δ, is (ε, δ) private."""
    total, epsilon, delta, error = 100, 1.0, 1e-3, 0.05
    chance = total * delta / revealed
    usual = _binomial(total, _accuracy(epsilon))
    rare = [0.0] * revealed + _binomial(total - revealed, _accuracy(epsilon))
    bounds = [epsilon_lower_bound(Guesses(total, total, v), delta, error) for v in range(total + 1)]
    failure = sum((1 - chance) * u + chance * r for u, r, b in zip(usual, rare, bounds, strict=True) if b > epsilon)
    assert failure <= error


def test_delta_lowers_the_bound_and_canaries_without_guess_too() -> None:
    bounds = [epsilon_lower_bound(Guesses(m, 100, 95), d, 0.05) for m, d in [(100, 0.0), (100, 1e-3), (400, 1e-3)]]
    assert bounds[0] > bounds[1] > bounds[2] > 0


def test_several_numbers_of_guesses_share_the_error() -> None:
    scores = torch.arange(100.0)
    included = scores >= 50
    audit = audit_canaries(scores, included, [10, 100], 0.0, 0.05)
    assert audit.guesses == Guesses(100, 100, 100)
    assert audit.epsilon == audit.largest == largest_epsilon(100, 100, 0.0, 0.025)
    wrong = audit_canaries(-scores, included, [10, 100], 0.0, 0.05)
    assert wrong.epsilon == 0.0 and wrong.largest == audit.largest
