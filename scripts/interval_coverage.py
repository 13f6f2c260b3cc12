"""Coverage of 95 % confidence intervals for the mean accuracy over few seeds, by simulation.

A seed's accuracy is drawn from a beta distribution, then measured on 360 test samples (binomial). An interval covers if
it contains the mean of the distribution. Compared are Student's t, the interval of gr-report (Student's t on the logit
scale), and the percentile bootstrap. The same draws in every run.

    python scripts/interval_coverage.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gr_cli.results.statistics import UNIT_INTERVAL, summarize

NUM_TEST_SAMPLES = 360
NUM_RESAMPLES = 1000
SITUATIONS = ((0.5, 0.05), (0.5, 0.2), (0.98, 0.005), (0.98, 0.02))  # mean and standard deviation over seeds
SIZES = (3, 5, 10)
HEADERS = ("mean", "deviation", "seeds", "t", "t beyond 0 or 100 %", "logit scale", "bootstrap")


def draw_accuracies(
    random: np.random.Generator, mean: float, deviation: float, shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Measured accuracies of seeds, in rows of one experiment each."""
    concentration = mean * (1 - mean) / deviation**2 - 1
    accuracy = random.beta(mean * concentration, (1 - mean) * concentration, shape)
    return random.binomial(NUM_TEST_SAMPLES, accuracy) / NUM_TEST_SAMPLES


def bootstrap_interval(random: np.random.Generator, values: NDArray[np.float64]) -> tuple[float, float]:
    """The interval between the 2.5 % and the 97.5 % percentile of the means of resampled seeds."""
    means = values[random.integers(len(values), size=(NUM_RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def coverages(mean: float, deviation: float, size: int, repetitions: int) -> list[float]:
    """Shares of experiments: t covers, t leaves [0, 1], logit covers, bootstrap covers."""
    random = np.random.default_rng([round(1000 * mean), round(1000 * deviation), size])
    counts = np.zeros(4)
    for values in draw_accuracies(random, mean, deviation, (repetitions, size)):
        seeds = values.tolist()
        plain, bounded = (
            summary.interval for summary in (summarize(seeds), summarize(seeds, UNIT_INTERVAL)) if summary
        )
        assert plain is not None and bounded is not None
        intervals = (plain, bounded, bootstrap_interval(random, values))
        t, logit, bootstrap = (low <= mean <= high for low, high in intervals)
        counts += (t, plain[0] < 0 or plain[1] > 1, logit, bootstrap)
    return list(counts / repetitions)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=20_000, help="experiments per row (default: %(default)s)")
    repetitions = parser.parse_args(arguments).repetitions
    print("| " + " | ".join(HEADERS) + " |")
    print("|" + " --- |" * len(HEADERS))
    for mean, deviation in SITUATIONS:
        for size in SIZES:
            shares = [f"{100 * share:.1f}" for share in coverages(mean, deviation, size, repetitions)]
            print("| " + " | ".join([f"{100 * mean:g} %", f"{100 * deviation:g} %", str(size), *shares]) + " |")


if __name__ == "__main__":
    main()
