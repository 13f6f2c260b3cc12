"""Results of a search: trials.csv, best.yaml, and the commands for the best trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from gr_cli.cli.sweep import current_sweep
from gr_cli.cli.sweepers.search_space import SearchSpace
from gr_cli.cli.sweepers.study import SearchStudy, runs_of
from gr_cli.config.options import Options, flatten
from gr_cli.config.override_text import override_of
from gr_cli.errors import ConfigError, one_line
from gr_cli.system.files import csv_text, write_text

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

TRIALS_FILE, BEST_FILE = "trials.csv", "best.yaml"
_STATES = {
    "COMPLETE": "finished",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "unfinished",
    "WAITING": "unfinished",
}
# Settings of a search that the final runs leave out.
_FOR_TUNING = ("train.tasks", "benchmark.validation_share", "objective")
_FINAL_SEEDS = 5


def write_results(folder: Path, study: SearchStudy, space: SearchSpace, objective: str) -> None:
    """Write trials.csv with all trials, and best.yaml."""
    rows = [_row(trial, space) for trial in study.trials if trial.params]
    write_text(folder / TRIALS_FILE, csv_text(["trial", "state", objective, *space.parameters, "runs"], rows))
    if (best := study.best) is not None:
        content: dict[str, Any] = {
            "objective": objective,
            "value": best.value,
            "trial": best.number,
            "settings": {key: _value(space, best, key) for key in space.parameters},
            "command": repeat_command(space, best),
            "final": final_command(space, best),
        }
        write_text(folder / BEST_FILE, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000))


def _row(trial: FrozenTrial, space: SearchSpace) -> list[Any]:
    value = trial.value if trial.state.name == "COMPLETE" else None
    folders = " ".join(run.folder for run in runs_of(trial))
    values = (_value_text(space, trial, key) for key in space.parameters)
    return [trial.number, _STATES[trial.state.name], value, *values, folders]


def _value_text(space: SearchSpace, trial: FrozenTrial, key: str) -> str:
    return space.parameters[key].override(trial.params[key]).partition("=")[2]


def _value(space: SearchSpace, trial: FrozenTrial, key: str) -> Any:
    """The value of a setting as Hydra reads it, for which 1e-5 is a number as it is not in YAML."""
    override = OverridesParser.create().parse_override(space.parameters[key].override(trial.params[key]))
    return override.value()


def print_trials(study: SearchStudy, space: SearchSpace, objective: str, numbers: Sequence[int]) -> None:
    """Print a line for each of some trials, with the best one so far."""
    best = study.best
    so_far = "" if best is None else f"; best so far {best.value:.4f} in trial {best.number}"
    for trial in (study.trials[number] for number in numbers):
        state = _STATES[trial.state.name]
        value = f"{objective} {trial.value:.4f}" if state == "finished" else state
        settings = " ".join(space.parameters[key].override(trial.params[key]) for key in space.parameters)
        print(one_line(f"trial {trial.number}: {value} with {settings}{so_far}"))


def print_best(study: SearchStudy, space: SearchSpace, objective: str) -> None:
    """Print the best trial, with the command that repeats it and the one for the final runs."""
    counts = Counter(_STATES[trial.state.name] for trial in study.trials)
    outcome = ", ".join(f"{number} {state}" for state, number in counts.items())
    if (best := study.best) is None:
        print(f"search: no trial is complete ({outcome})")
        return
    print(f"best of {len(study.trials)} trials ({outcome}): {objective} {best.value:.4f} in trial {best.number}")
    print(f"repeat it: {repeat_command(space, best)}")
    print(f"final runs, with other seeds: {final_command(space, best)}")


def repeat_command(space: SearchSpace, trial: FrozenTrial) -> str:
    """The command that shows the results of a trial's runs, and trains them if their folders are missing.

    Runs in folders that the user named have a command each, joined by `&&`.
    """
    sweep, jobs = current_sweep(), space.jobs(trial.params)
    if not sweep.keeps_own_folders:
        folders = [override_of("hydra.run.dir", run.folder) for run in runs_of(trial)]
        return " && ".join(sweep.command(*job, folder) for job, folder in zip(jobs, folders, strict=True))
    if len(jobs) == 1:
        return sweep.command(*jobs[0])
    seeds = ",".join(job[-1].partition("=")[2] for job in jobs)  # the seed is the last override
    return sweep.command("-m", *jobs[0][:-1], f"seed={seeds}")


def final_command(space: SearchSpace, best: FrozenTrial) -> str:
    """The command that trains with the best settings on all tasks and training samples, with other seeds."""
    overrides = [override for override in space.jobs(best.params)[0] if not _is_for_tuning(override)]
    used = [seed.partition("=")[2] for seed in space.seeds]
    used += [o.partition("=")[2] for o in space.fixed if o.lstrip("+").startswith("seed=")]
    first = max((int(seed) for seed in used if seed.isdecimal()), default=0) + 1
    kept = [o for o in overrides if not o.lstrip("+").startswith("seed=")]
    return current_sweep().command("-m", *kept, f"seed=range({first},{first + _FINAL_SEEDS})")


def _is_for_tuning(override: str) -> bool:
    """Whether an override, or all settings of the preset it chooses, are for the search alone."""
    name, _, value = override.lstrip("+").partition("=")
    if name != "preset":
        return name in _FOR_TUNING
    try:
        preset = Options().read("preset", value)
    except ConfigError:  # one of the user's own folder
        return False
    settings = dict(flatten(preset.values))
    return bool(settings) and all(setting in _FOR_TUNING for setting in settings)
