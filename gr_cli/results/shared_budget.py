"""What runs with budgets of privacy on the same samples may spend together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gr_cli.errors import one_line

SIMULATED = "simulated: ε holds only while the seed is secret"


@dataclass(frozen=True)
class SharedBudget:
    """Budgets of runs on the same samples.

    Attributes:
        benchmark: Option of the config group `benchmark`.
        runs: Number of runs.
        epsilon: Sum of their ε.
        delta: Sum of their δ.
        is_simulated: Whether one of them draws noise from its seed.
        shares_noise: Whether two of them draw it from the same seed: the same numbers, at other scales.
    """

    benchmark: str
    runs: int
    epsilon: float
    delta: float
    is_simulated: bool
    shares_noise: bool

    @property
    def line(self) -> str:
        """A line for a reader."""
        many = f"{self.runs} runs" if self.runs > 1 else "1 run"
        text = (
            f"privacy: {many} on the samples of {self.benchmark} may spend ε = {self.epsilon:.6g} at "
            f"δ = {self.delta:.6g} in all: budgets on the same samples add up, those of other seeds too"
        )
        if self.shares_noise:
            text += "; runs of one seed share their noise, and reveal more than that together"
        return one_line(f"{text}; {SIMULATED}" if self.is_simulated else text)


def shared_budgets(runs: Iterable[tuple[Mapping[str, Any], Mapping[str, str]]]) -> list[SharedBudget]:
    """The budgets of runs, summed over those on the same samples.

    Samples are the same if the source of the benchmark is: how it is divided into tasks, and in which order, follows
    from the seed and other settings. An unfinished run counts with its budget, which it can't exceed.

    Args:
        runs: Of each run its settings by dotted name, and the option that was chosen in each config group.
    """
    by_source: dict[tuple[str, ...], list[tuple[Mapping[str, Any], str]]] = {}
    for settings, choices in runs:
        if settings.get("privacy.epsilon") is not None:
            by_source.setdefault(_source(settings), []).append((settings, choices.get("benchmark", "benchmark")))
    return [
        SharedBudget(
            benchmark=" and ".join(sorted({name for _, name in members})),
            runs=len(members),
            epsilon=sum(float(settings["privacy.epsilon"]) for settings, _ in members),
            delta=sum(float(settings["privacy.delta"]) for settings, _ in members),
            is_simulated=bool(seeds := _noise_seeds(settings for settings, _ in members)),
            shares_noise=len(set(seeds)) < len(seeds),
        )
        for members in by_source.values()
    ]


def _noise_seeds(runs: Iterable[Mapping[str, Any]]) -> list[Any]:
    """The seeds of the runs that draw noise from theirs."""
    return [settings.get("seed") for settings in runs if not settings.get("privacy.secure")]


def _source(settings: Mapping[str, Any]) -> tuple[str, ...]:
    names = [name for name in settings if name.startswith("benchmark.source.")]
    names = names or [name for name in settings if name.startswith("benchmark.")]  # of a stream passed from Python
    return tuple(f"{name}={settings[name]}" for name in sorted(names))
