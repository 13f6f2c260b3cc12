"""A study of Optuna that an interrupted search continues with the same trials.

A sampler is made anew for each trial, seeded by its number, so that a trial depends on the earlier ones only. Trials
without an outcome are launched again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, Literal

from gr_cli.cli.sweepers.search_space import SearchSpace
from gr_cli.errors import ConfigError, FolderError, one_line

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

STUDY_FILE = "study.journal"  # in the sweep's folder
Sampler = Literal["tpe", "random", "grid", "cmaes"]
RunState = Literal["finished", "pruned", "failed"]
_RUNS = "runs"  # user attribute of a trial
_ROUNDING = 1e-6  # of accuracies in tables, at most
_OPTION_NAMES = {
    "space": "a searched setting",
    "objective": "objective",
    "runs": "a setting that is the same for all trials",
}


@dataclass(frozen=True)
class RunOutcome:
    """What a run of a trial gave.

    Attributes:
        run: Seed and identity, which equal runs share.
        folder: Its folder.
        state: How it ended.
        value: The objective; None if it did not finish.
        accuracies: Average accuracy so far, after each task.
    """

    run: str
    folder: str
    state: RunState
    value: float | None
    accuracies: Sequence[float]


@dataclass(frozen=True)
class StudyOptions:
    """What is the same for all trials of a study.

    Attributes:
        sampler: See `OptunaSweeper`, as for `seed` and `startup_trials`.
        objective: The metric.
        direction: Which of its values are better.
        runs: Hash of the settings of a trial's runs.
    """

    sampler: Sampler
    seed: int
    startup_trials: int
    objective: str
    direction: Literal["maximize", "minimize"]
    runs: str


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna from logging inside the block."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


class SearchStudy:
    """The trials of a search.

    Args:
        space: The search space.
        options: What is the same for all trials.
        folder: Folder of the sweep, with the file of the study if there is no other storage.
        storage: URL of a database; None: the file in the folder.
        name: Name of the study in the storage.

    Raises:
        FolderError: The folder has a study with other options, or one that can't be read.
        ConfigError: The storage can't be opened, or has a study of this name with other options.
    """

    def __init__(self, space: SearchSpace, options: StudyOptions, folder: Path, storage: str | None, name: str) -> None:
        import optuna

        self._space, self._options = space, options
        self._distributions = {key: parameter.distribution() for key, parameter in space.parameters.items()}
        try:
            opened = _journal(folder / STUDY_FILE) if storage is None else optuna.storages.get_storage(storage)
            self._study: Study = optuna.create_study(
                storage=opened, study_name=name, direction=options.direction, load_if_exists=True
            )
        except Exception as error:  # of whatever database
            reason = f"{type(error).__name__}: {one_line(error)}"
            if storage is None:
                remedy = "remove it to begin the search anew; finished runs are not trained again"
                raise FolderError(f"{folder / STUDY_FILE}: can't be read ({reason}); {remedy}") from error
            remedy = "give the URL of a database, such as sqlite:///study.db"
            raise ConfigError("hydra.sweeper.storage", storage, f"can't be opened ({reason})", remedy) from error
        if (different := self._different_option()) is None:
            return
        if storage is not None:
            problem = f"has a search with another value of {different}"
            raise ConfigError("hydra.sweeper.study_name", name, problem, "choose another name")
        raise FolderError(
            f"{folder}: has a search with another value of {different}; name another folder with "
            f"hydra.sweep.dir, or remove its {STUDY_FILE}; finished runs are not trained again"
        )

    def _different_option(self) -> str | None:
        """Store the options of a new study; else the first one that differs from those of the study."""
        ours = json.loads(
            json.dumps(asdict(self._options) | {"space": {k: repr(p) for k, p in self._space.parameters.items()}})
        )
        stored = self._study.user_attrs.get("options")
        if stored is None:
            self._study.set_user_attr("options", ours)
            return None
        different = (name for name, value in ours.items() if stored.get(name) != value)
        return next((_OPTION_NAMES.get(name, f"hydra.sweeper.{name}") for name in different), None)

    # --- ask

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials so far."""
        return self._study.get_trials(deepcopy=False)

    @property
    def ended(self) -> list[FrozenTrial]:
        """The trials that have ended."""
        return [trial for trial in self.trials if trial.state.is_finished()]

    def ask(self, batch_size: int, total: int) -> list[FrozenTrial]:
        """The next trials, at most up to the next multiple of `batch_size`: those without an outcome, and new ones.

        Args:
            batch_size: Number of trials that are drawn together.
            total: Number of trials of the search.
        """
        trials = self.trials
        open_trials = [trial for trial in trials if not trial.state.is_finished() and trial.number < total]
        first = open_trials[0].number if open_trials else len(trials)
        end = min(total, (first // batch_size + 1) * batch_size)
        batch = [trial for trial in open_trials if trial.number < end]
        for number in range(len(trials), end):
            self._add_trial(number)
            batch.append(self.trials[number])
        return batch

    def _add_trial(self, number: int) -> None:
        """Add a trial to the study.

        It is drawn in memory and stored at once: a process that is killed meanwhile leaves no trial without values.
        """
        import optuna
        from optuna.trial import TrialState, create_trial

        drawn: dict[str, Any]
        if self._options.sampler == "grid":
            drawn, attrs = self._space.combination(number), {}
        else:
            memory = optuna.create_study(sampler=self._sampler(number), direction=self._options.direction)
            memory.add_trials(self.trials)
            memory.ask(self._distributions)
            trial = memory.get_trials(deepcopy=False)[number]
            drawn, attrs = trial.params, trial.system_attrs
        self._study.add_trial(
            create_trial(state=TrialState.RUNNING, params=drawn, distributions=self._distributions, system_attrs=attrs)
        )

    def _sampler(self, number: int) -> BaseSampler:
        """The sampler of a trial."""
        from optuna import samplers

        from gr_cli.config.settings import short_hash

        options = self._options
        seed = int(short_hash([options.seed, number]), 16)
        if options.sampler == "tpe":
            return samplers.TPESampler(n_startup_trials=options.startup_trials, seed=seed)
        if options.sampler == "cmaes":
            return samplers.CmaEsSampler(
                n_startup_trials=max(1, options.startup_trials),
                independent_sampler=samplers.RandomSampler(seed),
                warn_independent_sampling=False,
                seed=options.seed,
            )
        return samplers.RandomSampler(seed)

    # --- tell

    def tell(self, trial: FrozenTrial, runs: Sequence[RunOutcome]) -> None:
        """End a trial: with the mean of its runs' objectives if all finished, else as failed or pruned."""
        from optuna.trial import Trial, TrialState

        live = Trial(self._study, trial._trial_id)
        live.set_user_attr(_RUNS, [asdict(run) for run in runs])
        for task, accuracies in enumerate(zip(*(run.accuracies for run in runs), strict=False)):
            live.report(fmean(accuracies), task)
        states = {run.state for run in runs}
        if states == {"finished"}:
            self._study.tell(live, fmean(run.value for run in runs if run.value is not None))
        else:
            self._study.tell(live, state=TrialState.FAIL if "failed" in states else TrialState.PRUNED)

    def outcomes(self) -> dict[str, RunOutcome]:
        """The outcomes of the runs of all ended trials, by seed and identity."""
        runs = (run for trial in self.ended for run in runs_of(trial))
        return {run.run: run for run in runs}

    def limits(self, run: int, before: int) -> list[float] | None:
        """Median of the average accuracy so far, after each task, over the complete trials; None if these are too few.

        Optuna's own pruner compares with the best value of a trial at any step, which for accuracies that fall over the
        tasks is nearly always that of the first task.

        Args:
            run: Index of the run within its trial: runs are compared with those of the same seed.
            before: Number of the trial before which the complete trials are.
        """
        complete = [runs_of(trial) for trial in self.trials[:before] if trial.state.name == "COMPLETE"]
        if len(complete) < max(1, self._options.startup_trials):
            return None
        # Tables have six decimals: a run that is as good as the median is not below the limit.
        return [
            max(0.0, round(median(values) - _ROUNDING, 6))
            for values in zip(*(runs[run].accuracies for runs in complete), strict=False)
        ]

    @property
    def best(self) -> FrozenTrial | None:
        """The complete trial with the best value, the first of several; None if no trial is complete."""
        complete = [trial for trial in self.trials if trial.state.name == "COMPLETE" and trial.value is not None]
        sign = 1 if self._options.direction == "maximize" else -1
        return max(complete, key=lambda trial: (sign * (trial.value or 0.0), -trial.number), default=None)


def runs_of(trial: FrozenTrial) -> list[RunOutcome]:
    """The outcomes of the runs of an ended trial."""
    runs: Sequence[Mapping[str, Any]] = trial.user_attrs.get(_RUNS, [])
    return [RunOutcome(**run) for run in runs]


def _journal(path: Path) -> BaseStorage:
    """Optuna's journal in a file. What a killed process left is removed: its lock, and an incomplete last line."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    # The lock of the sweep's folder, which this process holds, keeps other searches out.
    Path(f"{path}.lock").unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if len(complete) < len(content):
            path.write_bytes(complete)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
