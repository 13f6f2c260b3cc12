"""The sweeper `hydra/sweeper=optuna`: launches the runs of Optuna's trials, and reports the objective to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf.errors import OmegaConfBaseException

from gr_cli.cli.callback import check_sweep_wide_groups
from gr_cli.cli.folders import sweep_folder
from gr_cli.cli.hydra_errors import describe_error
from gr_cli.cli.job_composer import JobComposer, composing_once
from gr_cli.cli.launchers.selection import runs_in_this_process
from gr_cli.cli.sweep import current_sweep
from gr_cli.cli.sweepers.search_space import SearchSpace, parse_search_space
from gr_cli.cli.sweepers.selection import check_not_private
from gr_cli.cli.sweepers.study import RunOutcome, Sampler, SearchStudy, StudyOptions, quiet_optuna, runs_of
from gr_cli.config.settings import short_hash
from gr_cli.errors import CompositionError, ConfigError, FolderError, GrError
from gr_cli.results.folder import RunFolder
from gr_cli.results.manifest import write_manifest
from gr_cli.system.messages import print_failure, print_status
from gr_cli.types import NonNegativeInt, PositiveInt

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig
    from optuna.trial import FrozenTrial

    from gr_cli.config.settings import Settings

_NOT_SEARCHED = ("objective", "prune_below", "fresh", "inspect")


class OptunaSweeper(Sweeper):
    """Search for the settings with the best `objective`, by Optuna.

    Args:
        n_trials: Number of trials, with those of earlier calls of the same command. A grid has as many at most.
        n_jobs: Trials that are drawn at a time; the launcher gets their runs together.
        sampler: How values are chosen: by a tree-structured Parzen estimator, at random, all combinations (`grid`), or
            by CMA-ES (numbers only).
        seed: Seed of the sampler.
        startup_trials: Trials at random before `tpe` and `cmaes` use results, and complete trials before the pruner
            ends any.
        pruner: `median` ends a run after a task if its average accuracy so far is below the median of the complete
            trials after that task.
        direction: Which values of the objective are better; null: known from the metric.
        storage: URL of a database for the study, such as `sqlite:///study.db`; null: study.journal in the sweep's
            folder.
        study_name: Name of the study in the storage; null: that of the sweep's folder.
        params: Values by setting, as on the command line, which come before the command line's.
    """

    def __init__(
        self,
        n_trials: PositiveInt = 20,
        n_jobs: PositiveInt = 1,
        sampler: Literal["tpe", "random", "grid", "cmaes"] = "tpe",
        seed: NonNegativeInt = 0,
        startup_trials: NonNegativeInt = 10,
        pruner: Literal["none", "median"] = "none",
        direction: Literal["maximize", "minimize"] | None = None,
        storage: str | None = None,
        study_name: str | None = None,
        params: Mapping[str, str] | None = None,
    ) -> None:
        self._n_trials, self._n_jobs, self._direction = n_trials, n_jobs, direction
        self._sampler: Sampler = sampler
        self._seed, self._startup_trials, self._prunes = seed, startup_trials, pruner == "median"
        self._storage, self._study_name, self._params = storage, study_name, params or {}
        self._without_value: ConfigError | None = None  # of the last run that finished without the objective

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what Hydra passes before `sweep`."""
        self._config = config
        self._composer = JobComposer(config, partial(check_sweep_wide_groups, config=config))
        hydra_context = composing_once(hydra_context, self._composer, config)
        self._launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the search."""
        with quiet_optuna():
            self._search(arguments)

    def _search(self, arguments: list[str]) -> None:
        from gr_cli.cli.sweepers.search_results import print_best, print_trials, write_results
        from gr_cli.system.files import make_folder
        from gr_cli.system.locks import is_locked, locked

        space = self._parse([*(f"{key}={value}" for key, value in self._params.items()), *arguments])
        total = self._total(space)
        options = self._check(space)
        objective = options.objective
        sweep, folder = current_sweep(), sweep_folder(self._config)
        if is_locked(folder):
            raise FolderError(f"{folder}: another process runs this search; wait for it")
        make_folder(folder)
        sweep.resources.enter_context(locked(folder))
        study = SearchStudy(space, options, folder, self._storage, self._study_name or folder.name)
        sweep.folder, sweep.in_process = folder, runs_in_this_process(self._config.hydra)
        sweep.remedy = "the search went on without failed ones, and the same command continues one that was interrupted"
        runs_per_trial = max(1, len(space.seeds))
        sweep.progress.total = total * runs_per_trial
        self._folder, self._manifest = folder, self._ended_jobs(study, space)
        for settings, run in self._manifest:
            sweep.add(run, settings.overrides)
        for trial in study.ended:  # by earlier calls of the same command
            sweep.progress.count([nan if trial.state.name == "FAIL" else None] * runs_per_trial)
        if study.ended:
            print(f"search: {len(study.ended)} of {total} trials have ended before, and are not repeated")
        try:
            while batch := study.ask(self._n_jobs, total):
                self._run_batch(study, space, batch, objective)
                print_trials(study, space, objective, [trial.number for trial in batch])
                write_results(folder, study, space, objective)
        finally:
            write_results(folder, study, space, objective)
        print_best(study, space, objective)
        if study.best is None and self._without_value is not None:
            raise self._without_value

    def _parse(self, overrides: Sequence[str]) -> SearchSpace:
        """The search space of the overrides."""
        try:
            parsed = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise CompositionError(describe_error(error, overrides)) from error
        for override in parsed:
            if override.is_sweep_override() and override.key_or_group in _NOT_SEARCHED:
                value = override.get_value_string()
                raise ConfigError(override.key_or_group, value, "is the same for all trials", "give one value")
        return parse_search_space(parsed)

    def _total(self, space: SearchSpace) -> int:
        """Number of trials."""
        if self._sampler != "grid":
            return self._n_trials
        combinations = space.num_combinations()
        if combinations > self._n_trials:
            print(f"search: the first {self._n_trials} of {combinations} combinations (hydra.sweeper.n_trials)")
        return min(self._n_trials, combinations)

    def _check(self, space: SearchSpace) -> StudyOptions:
        """Check before any training that the values are allowed, and that the runs will have the objective."""
        from gr_cli.evaluation.objective import check_objective, objective_direction, uses_test_samples
        from gr_cli.training.experiment import prepare

        checked: set[str] = set()
        for values in space.examples():
            settings = self._settings(space.jobs(values)[0])
            if settings.config["inspect"]:
                raise ConfigError(
                    "inspect", "true", "shows one benchmark, and can't be used in a search", "leave out -m"
                )
            # What decides which metrics there are; numbers don't.
            deciding = repr(
                [settings.choices, settings.config["train"]["tasks"]]
                + [settings.config[name] for name in ("evaluate", "benchmark", "scenario")]
            )
            if deciding not in checked:
                checked.add(deciding)
                check_objective(prepare(settings))
        objective = settings.config["objective"]
        better = objective_direction(objective)
        if self._direction is None and better == "none":
            known = f"which values of objective={objective} are better is not known"
            raise ConfigError("hydra.sweeper.direction", None, known, "set it to maximize or minimize")
        if uses_test_samples(objective):
            print_status(
                f"objective={objective} is measured on test samples, so that its best value is no estimate for new "
                "data; objectives on held-out training samples begin with validation_"
            )
        direction = self._direction or ("minimize" if better == "lower" else "maximize")
        runs = [_run_key(self._settings(overrides)) for overrides in space.jobs(next(space.examples()))]
        return StudyOptions(self._sampler, self._seed, self._startup_trials, objective, direction, short_hash(runs))

    def _ended_jobs(self, study: SearchStudy, space: SearchSpace) -> list[tuple[Settings, RunFolder]]:
        """The runs of trials that have ended."""
        jobs: dict[str, tuple[Settings, RunFolder]] = {}
        for trial in study.ended:
            for run, overrides in zip(runs_of(trial), space.jobs(trial.params), strict=False):
                if run.folder and run.run not in jobs:
                    jobs[run.run] = self._settings(overrides), RunFolder(Path(run.folder))
        return list(jobs.values())

    def _settings(self, overrides: list[str]) -> Settings:
        """The settings of a run.

        Raises:
            CompositionError, ConfigError: They are not allowed.
        """
        try:
            settings = self._composer.settings(overrides)
        except (HydraException, OmegaConfBaseException) as error:
            raise CompositionError(describe_error(error, overrides)) from error
        check_not_private("optuna", settings.config["privacy"]["epsilon"])
        return settings

    def _run_batch(self, study: SearchStudy, space: SearchSpace, batch: Sequence[FrozenTrial], objective: str) -> None:
        """Launch the runs of some trials, and store their outcomes. A run that an earlier trial had is not repeated."""
        outcomes, launched = study.outcomes(), dict[str, _Job]()
        first_number = batch[0].number * max(1, len(space.seeds))
        runs_of_trial: dict[int, list[str]] = {}
        for trial in batch:
            try:
                jobs = self._jobs_of(study, space, trial)
            except GrError as error:
                print_failure(None, error)
                current_sweep().progress.count([nan] * max(1, len(space.seeds)))
                continue
            runs_of_trial[trial.number] = [job.run for job in jobs]
            for job in jobs:
                if job.run not in outcomes and job.run not in launched:
                    launched[job.run] = job
                    self._add(job, first_number + len(launched) - 1)
        write_manifest(self._folder, self._manifest)
        overrides = [job.launched.overrides for job in launched.values()]
        returns = self._launcher.launch(overrides, first_number) if launched else []
        for (run, job), job_return in zip(launched.items(), returns, strict=True):
            outcomes[run] = self._outcome(run, job.folder.path, job_return, objective)
        for trial in batch:
            runs = [outcomes[run] for run in runs_of_trial.get(trial.number, [])]
            study.tell(trial, runs or [RunOutcome("", "", "failed", None, [])])

    def _outcome(self, run: str, path: Path, job_return: JobReturn, objective: str) -> RunOutcome:
        """What a run gave. One that finished without a value of the objective has failed."""
        from gr_cli.results.accuracy import read_accuracy_so_far

        value = job_return.return_value
        if value is not None and isnan(value):
            return RunOutcome(run, str(path), "failed", None, [])
        accuracies = read_accuracy_so_far(path)
        if value is not None:
            return RunOutcome(run, str(path), "finished", float(value), accuracies)
        if RunFolder(path).state() == "pruned":
            return RunOutcome(run, str(path), "pruned", None, accuracies)
        remedy = "choose a metric that has one in its metrics.csv"
        self._without_value = ConfigError("objective", objective, f"has no value in {path}", remedy)
        print_failure(path, self._without_value)
        current_sweep().progress.failed += 1
        return RunOutcome(run, str(path), "failed", None, accuracies)

    def _jobs_of(self, study: SearchStudy, space: SearchSpace, trial: FrozenTrial) -> list[_Job]:
        """The jobs of a trial.

        Raises:
            CompositionError, ConfigError: Its values don't fit together.
        """
        jobs = []
        batch_start = trial.number - trial.number % self._n_jobs  # also if a part of the batch has ended before
        for i, overrides in enumerate(space.jobs(trial.params)):
            limits = study.limits(i, batch_start) if self._prunes else None
            extra = [] if limits is None else [f"prune_below=[{','.join(map(str, limits))}]"]
            jobs.append(_Job(self._settings(overrides), self._settings([*overrides, *extra])))
        return jobs

    def _add(self, job: _Job, number: int) -> None:
        """Add a job that is launched to the sweep, with its folder."""
        sweep = current_sweep()
        job.folder = self._composer.folder(job.launched, number)
        sweep.add(job.folder, job.settings.overrides)
        sweep.add(job.folder, job.launched.overrides, job.launched)
        self._manifest.append((job.settings, job.folder))


@dataclass
class _Job:
    """A run of a trial.

    Attributes:
        settings: Its settings, as the command that repeats it has them.
        launched: The same with the limits of the pruner.
        folder: Its folder, once it is launched.
    """

    settings: Settings
    launched: Settings
    folder: RunFolder = field(init=False)

    @property
    def run(self) -> str:
        """Key of the run: equal for two trials with the same values."""
        return _run_key(self.settings)


def _run_key(settings: Settings) -> str:
    return f"seed{settings.seed}-{settings.identity}"
