"""What tuning on first tasks, on all tasks and on test samples gives on other seeds: generative replay, digits.

Each protocol searches learning rate and replay weight in 20 trials, three times with other seeds of the sampler and of
the run; the best settings of each search train five other seeds on all tasks and training samples.

    python scripts/search_protocols.py
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev

import yaml

from gr_cli.cli.main import main as gr_run
from gr_cli.results.discovery import discover_runs

COMMON = ("benchmark.class_order=shuffled", "train.iterations=200", "evaluate.generated_samples=0", "threads=1")
SPACE = ("optimizer.lr=tag(log,interval(1e-4,1e-1))", "strategy.replay_weight=tag(log,interval(0.1,10))")
PROTOCOLS = {
    "the first two tasks, held-out training samples": ("preset=tune_first_tasks",),
    "all tasks, held-out training samples": ("benchmark.validation_share=0.2",),
    "all tasks, test samples": ("objective=average_accuracy",),
}
NUM_SEARCHES, FINAL_SEEDS = 3, "seed=range(100,105)"


def call(*overrides: str) -> None:
    """Call `gr-run`.

    Raises:
        SystemExit: It failed.
    """
    if code := gr_run(["-m", "hydra/launcher=batched", *overrides]):
        raise SystemExit(code)


def final_accuracies(name: str, overrides: Sequence[str]) -> list[float]:
    """Average test accuracy of the final seeds."""
    call(*COMMON, *overrides, FINAL_SEEDS, f"hydra.sweep.dir={name}")
    runs = discover_runs([Path(name)]).runs
    return [run.metrics["average_accuracy"] or 0.0 for run in runs if run.metrics is not None]


def search(number: int, protocol: str, trials: int) -> tuple[float, list[str]]:
    """The best value of a search, and the settings that have it."""
    folder = Path(f"search-{number}-{list(PROTOCOLS).index(protocol)}")
    call("hydra/sweeper=optuna", *COMMON, *PROTOCOLS[protocol], *SPACE, f"seed={number}",
         f"hydra.sweeper.seed={number}", f"hydra.sweeper.n_trials={trials}", "hydra.sweeper.n_jobs=4",
         f"hydra.sweep.dir={folder}")  # fmt: skip
    best = yaml.safe_load((folder / "best.yaml").read_text(encoding="utf-8"))
    return best["value"], [f"{name}={value}" for name, value in best["settings"].items()]


def lines(trials: int) -> Iterator[str]:
    """The table in Markdown."""
    yield "| tuned on | best value in the search (%) | average accuracy on other seeds (%) |"
    yield "| --- | --- | --- |"
    default = final_accuracies("final-default", ())
    yield f"| nothing: the defaults | – | {_mean([default])} |"
    for protocol in PROTOCOLS:
        values, finals = [], []
        for number in range(NUM_SEARCHES):
            value, settings = search(number, protocol, trials)
            values.append(value)
            finals.append(final_accuracies(f"final-{number}-{list(PROTOCOLS).index(protocol)}", settings))
            print(shlex.join(settings), finals[-1])
        yield f"| {protocol} | {_mean([[value] for value in values])} | {_mean(finals)} |"


def _mean(searches: Sequence[Sequence[float]]) -> str:
    """Mean over searches, and the standard error over searches, or over seeds if there is one search."""
    values = [fmean(finals) for finals in searches] if len(searches) > 1 else list(searches[0])
    return f"{100 * fmean(values):.1f} ± {100 * stdev(values) / len(values) ** 0.5:.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20, help="trials of each search")
    table = list(lines(parser.parse_args(arguments).trials))
    print("\n".join(table))


if __name__ == "__main__":
    main()
