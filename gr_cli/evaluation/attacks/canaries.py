"""Privacy auditing with one run: a lower bound on ε from canaries that were included by independent coin flips.

After training, the attacker guesses for some canaries whether they were included. Differential privacy limits the
number of correct guesses; more of them than that reject the claimed ε (Steinke, Nasr and Jagielski 2023,
arXiv:2305.08846). What m canaries can show is limited: by the number of guesses, ln(error) / guesses is the logarithm
of the accuracy that all correct guesses show, and by the term of δ, which grows with m.

Neighbouring data sets differ by one sample that is added or removed: the coin flip of one canary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_MAX_EPSILON = 60.0  # no number of canaries gives a larger bound
_HALVINGS = 40


@dataclass(frozen=True)
class Guesses:
    """Guesses of the membership of canaries.

    Attributes:
        canaries: Number of canaries, included by independent coin flips.
        total: Number of guesses; the attacker abstains from the other canaries.
        correct: Number of correct guesses.
    """

    canaries: int
    total: int
    correct: int


def guess_membership(scores: Tensor, included: Tensor, num_guesses: int) -> Guesses:
    """Guess that the canaries with the highest scores were included, and those with the lowest were not.

    Args:
        scores: A score of each canary (m,), higher for canaries that seem to be included.
        included: Outcome of the coin flips, bool (m,).
        num_guesses: Number of guesses, at most m, chosen without looking at `included`; half of them, rounded up, that
            canaries were included.
    """
    if not 0 <= num_guesses <= len(scores):
        raise ValueError(f"num_guesses={num_guesses}: must be from 0 to {len(scores)}, the number of canaries")
    order = scores.argsort(stable=True)  # ties by position, on which the coin flips have no influence
    num_excluded = num_guesses // 2
    num_included = num_guesses - num_excluded
    highest, lowest = order[len(order) - num_included :], order[:num_excluded]
    correct = int(included[highest].sum()) + int((~included[lowest]).sum())
    return Guesses(len(scores), num_guesses, correct)


def p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Largest probability of as many correct guesses for an (ε, δ) mechanism (Steinke et al. 2023).

    For δ = 0 no mechanism allows more correct guesses than randomized response, of which each is correct with the
    probability q = 1 / (1 + exp(-ε)). With f(v) = P[Binomial(r, q) >= v], m canaries and r guesses, v of them correct,
    the value is f(v) + 2 m δ max over i in 1..v of (f(v - i) - f(v)) / i.
    """
    if guesses.correct == 0:
        return 1.0
    pmf = _binomial_pmf(guesses.total, 1 / (1 + math.exp(-epsilon)))
    tail = float(pmf[guesses.correct :].flip(0).cumsum(0)[-1])  # from the smallest numbers on
    if delta == 0:
        return min(1.0, tail)
    gains = pmf[: guesses.correct].flip(0).cumsum(0)  # f(v - i) - f(v) for i = 1, 2, ...
    per_canary = float((gains / torch.arange(1, guesses.correct + 1, dtype=torch.float64)).max())
    return min(1.0, tail + 2 * guesses.canaries * delta * per_canary)


def epsilon_lower_bound(guesses: Guesses, delta: float, error: float) -> float:
    """A bound that the ε of a mechanism exceeds with a probability of at least 1 - `error`.

    Args:
        guesses: The guesses, whose number was chosen beforehand.
        delta: δ at which ε is bounded.
        error: Largest probability of a bound above ε.
    """
    return _largest(lambda epsilon: p_value(guesses, epsilon, delta) <= error, _MAX_EPSILON)


def largest_epsilon(canaries: int, num_guesses: int, delta: float, error: float) -> float:
    """The largest value of `epsilon_lower_bound` for a number of guesses: all are correct."""
    return epsilon_lower_bound(Guesses(canaries, num_guesses, num_guesses), delta, error)


def _binomial_pmf(n: int, probability: float) -> Tensor:
    """P[Binomial(n, p) = k] for k = 0..n, float64 (n + 1,)."""
    k = torch.arange(n + 1, dtype=torch.float64)
    choose = math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    log_p, log_q = math.log(probability), math.log1p(-probability) if probability < 1 else -math.inf
    failures = torch.where(k < n, (n - k) * log_q, 0.0)  # no 0 * -inf
    return (choose + k * log_p + failures).exp()


# --- an audit


@dataclass(frozen=True)
class CanaryBound:
    """A lower bound on ε.

    Attributes:
        guesses: The guesses from which it follows.
        epsilon: The lower bound.
        largest: The largest bound that so many canaries can give with the numbers of guesses that were tried.
        delta: δ at which ε is bounded.
        error: Largest probability of a bound above ε.
    """

    guesses: Guesses
    epsilon: float
    largest: float
    delta: float
    error: float


def audit_canaries(
    scores: Tensor, included: Tensor, num_guesses: Sequence[int], delta: float, error: float
) -> CanaryBound:
    """The best lower bound on ε over some numbers of guesses, each at its share of `error` (union bound).

    Args:
        scores: A score of each canary (m,), higher for canaries that seem to be included.
        included: Outcome of the coin flips, bool (m,).
        num_guesses: Numbers of guesses to try, chosen without looking at `included`.
        delta: δ at which ε is bounded.
        error: Largest probability of a bound above ε.
    """
    share = error / len(num_guesses)
    tried = [guess_membership(scores, included, number) for number in num_guesses]
    bounds = [epsilon_lower_bound(guesses, delta, share) for guesses in tried]
    best = max(range(len(tried)), key=lambda index: bounds[index])
    largest = max(largest_epsilon(len(scores), number, delta, share) for number in num_guesses)
    return CanaryBound(tried[best], bounds[best], largest, delta, error)


def _largest(rejected: Callable[[float], bool], limit: float) -> float:
    """A value that is rejected, found by bisection up to `limit`; 0 if none is.

    A mechanism that keeps the claim for some value keeps it for every larger one, so that each rejected value bounds.
    """
    low, high = 0.0, limit
    if not rejected(low):
        return 0.0
    if rejected(high):
        return high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low
