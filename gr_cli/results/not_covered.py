"""What a run writes, or keeps elsewhere, that its claim of privacy does not cover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Metrics of runs with a budget: with noise that can't be repeated, and with seeded noise.
EPSILON_METRICS = ("privacy_epsilon", "simulated_epsilon")
# Each with the reason: what it holds was computed from samples without a budget, or gives the noise away.
NOT_COVERED = {
    "history.csv": "losses on training samples",
    "accuracy and evaluation tables": "accuracy on held-out samples, and quality compared with samples",
    "scores of membership and canaries": "computed from single samples",
    "timing.csv": "times and memory that follow from the number of samples",
    "status.json": "seed, and hashes of the samples",
    "checkpoints": "seed, tables, and what is not released",
    "figures": "accuracy on held-out samples",
    "files of trackers": "losses and tables",
    "caches": "samples and features",
}


def not_covered_files(status: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What the claim of a run does not cover, from its status.json; nothing where the run claims nothing."""
    files = ((status or {}).get("privacy") or {}).get("not_covered") or ()
    return tuple(map(str, files))
