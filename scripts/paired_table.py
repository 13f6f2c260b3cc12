"""Paired differences between two methods that ran with the same seeds, for `reproduce.py`."""

from dataclasses import dataclass
from pathlib import Path
from statistics import mean


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        seed: Its seed.
        accuracy: Average accuracy in percent.
        seconds: Seconds of training and evaluation.
        frechet: Fréchet distance of generated samples of all tasks after the last one; None: not measured.
    """

    seed: int
    accuracy: float
    seconds: float
    frechet: float | None = None


def read_result(folder: Path, seed: int) -> Result:
    """The result of a finished run from its tables."""
    from gr_cli.system.reading import read_table

    metrics = {row["metric"]: row["value"] for row in read_table(folder / "metrics.csv")}
    timing = read_table(folder / "timing.csv")
    seconds = sum(float(row[name]) for row in timing for name in row if name.endswith("_seconds"))
    quality = read_table(folder / "sample_quality.csv") if (folder / "sample_quality.csv").exists() else []
    pooled = [row["frechet"] for row in quality if row["task"] == "all"]  # the last one is after the last task
    frechet = float(pooled[-1]) if pooled and pooled[-1] else None
    return Result(seed, 100.0 * float(metrics["average_accuracy"]), seconds, frechet)


@dataclass(frozen=True)
class Comparison:
    """A row of the table of paired differences, method - baseline, over n common seeds.

    Attributes:
        method: The compared method.
        baseline: What it is compared with.
        measure: `accuracy` in percent, or `frechet`, of which less is better.
        n: Number of common seeds.
        baseline_mean: Mean of the baseline.
        method_mean: Mean of the method.
        difference: Mean of the differences.
        low: Lower end of their 95 % interval; None for one seed.
        high: Upper end.
    """

    method: str
    baseline: str
    measure: str
    n: int
    baseline_mean: float
    method_mean: float
    difference: float
    low: float | None
    high: float | None


def compare(method: str, results: list[Result], baseline: str, others: list[Result]) -> list[Comparison]:
    """The rows of a method beside its baseline, for each measure that common seeds have."""
    from gr_cli.results.statistics import paired_summary

    by_seed, rows = {result.seed: result for result in others}, []
    for measure in ("accuracy", "frechet"):
        common = [(by_seed[result.seed], result) for result in results if result.seed in by_seed]
        pairs = [(getattr(a, measure), getattr(b, measure)) for a, b in common]
        pairs = [pair for pair in pairs if None not in pair]
        if statistics := paired_summary([b - a for a, b in pairs]):
            means = mean(a for a, _ in pairs), mean(b for _, b in pairs)
            interval = statistics.interval or (None, None)
            rows.append(Comparison(method, baseline, measure, len(pairs), *means, statistics.mean, *interval))
    return rows


def comparison_markdown(rows: list[Comparison]) -> str:
    """The table of paired differences as Markdown."""
    text = ["| measure | baseline | method | difference (95 % interval) | seeds |", "|" + " --- |" * 5]
    for r in rows:
        digits = 2 if r.measure == "accuracy" else 3
        interval = "" if r.low is None or r.high is None else f" ({r.low:+.{digits}f} to {r.high:+.{digits}f})"
        text.append(
            f"| {r.measure} | `{r.baseline}` {r.baseline_mean:.{digits}f} | `{r.method}` {r.method_mean:.{digits}f} "
            f"| {r.difference:+.{digits}f}{interval} | {r.n} |"
        )
    return "\n".join(text) + "\n"
