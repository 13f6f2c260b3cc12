"""The groups of options in conf/."""

from __future__ import annotations

from pathlib import Path

OUTPUTS = Path("outputs")
NESTED = ("benchmark/features", "generator/optimizer", "strategy/regularizer")
GROUPS = ("benchmark", "model", "generator", "strategy", "optimizer", "tracker", "preset", *NESTED)
