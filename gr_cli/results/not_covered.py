"""What a run writes, or keeps elsewhere, that its claim of privacy does not cover."""

from __future__ import annotations

# Each with the reason: what it holds was computed from samples without a budget, or gives the noise away.
NOT_COVERED = {
    "history.csv": "losses on training samples",
    "accuracy and evaluation tables": "accuracy on held-out samples, and quality compared with samples",
    "timing.csv": "times and memory that follow from the number of samples",
    "status.json": "seed, and hashes of the samples",
    "checkpoints": "seed, tables, and what is not released",
    "figures": "accuracy on held-out samples",
    "files of trackers": "losses and tables",
    "caches": "samples and features",
}
