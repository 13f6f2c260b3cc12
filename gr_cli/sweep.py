"""A sweep: all its jobs are checked and written down before the first one trains, and accounted for at the end."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from math import isnan
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from gr_cli.compose import OUTPUTS, settings_from, typed
from gr_cli.errors import CompositionError, ConfigError, Stop, one_line
from gr_cli.signals import lifeline

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

    from gr_cli.settings import Settings

# What a sweep's folder says of it.
_MANIFEST = "sweep.json"

# The jobs of the sweep that this process runs, by folder; empty where there is no sweep.
_jobs: dict[Path, list[str]] = {}
# What each of them is, by its overrides.
_settings: dict[tuple[str, ...], Settings] = {}

# Whether a launcher of this process runs them.
_here = True
# What is held until the sweep is over: its folder.
_held = ExitStack()


@dataclass
class Tally:
    """How far the sweep of this process is. `total`: its jobs, None where the sweeper finds them as it goes."""

    total: int | None = None
    over: int = 0
    failed: int = 0
    trained: float = 0.0
    _began: float | None = None

    def count(self, scores: Sequence[float | None]) -> None:
        """So many jobs are over; what they returned, NaN where they failed."""
        self.over += len(scores)
        self.failed += sum(score is not None and isnan(score) for score in scores)

    def begin(self) -> None:
        """The first job that has something to train begins; those that were finished before took no time."""
        self._began = self._began or monotonic()

    def left(self, current: float) -> float | None:
        """Seconds until the sweep is over, if it goes on as before, and `current` jobs' worth of those under way is
        done. None: nobody knows."""
        if self.total is None or self._began is None or not self.trained:
            return None
        return max(0.0, self.total - self.over - current) * (monotonic() - self._began) / self.trained


_tally = Tally()


def tally() -> Tally:
    """How far the sweep of this process is."""
    return _tally


_OURS = "gr_cli.launchers.batched.BatchedLauncher"
# What to install for the launchers, by their package in `hydra_plugins`.
_EXTRAS = {"hydra_ray_launcher": "ray", "hydra_joblib_launcher": "joblib", "hydra_submitit_launcher": "slurm"}


def quiet() -> None:
    """Our `hydra/launcher/*.yaml` are checked against the plugins' own of the same name on purpose: no warnings.

    What Hydra only warns of, and goes on as if it had not been typed, is a mistake here.
    """
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")
    for mistake in (r"provider=hydra.searchpath .* is not available", r"\s*Running Hydra app with --multirun, over"):
        warnings.filterwarnings("error", message=mistake)


quiet()  # for the processes of a launcher, which import this module with the job they are handed


def identity(overrides: Any) -> str:
    """A short name for a sweep: the same overrides, as Hydra holds them, give the same."""
    from gr_cli.settings import short_hash

    return short_hash(typed(overrides))


class CheckFirst(Callback):
    """Hydra calls this before the first job of a sweep. Other sweepers than the basic one find jobs as they go."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        # Hydra makes warnings of what a callback raises, but for a `Stop`.
        try:
            _check_launcher(config)
            if str(config.hydra.sweeper._target_).endswith("BasicSweeper"):
                _check_jobs(config)
            if _in_processes(config.hydra):
                _held.enter_context(lifeline())
        except Exception as error:
            raise Stop(error) from error


def _check_jobs(config: DictConfig) -> None:
    """Compose and check all jobs, and write down which there are."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from gr_cli.experiment import folder_of
    from gr_cli.explain import explain
    from gr_cli.results.files import not_made, write_json
    from gr_cli.results.folder import held

    loader = GlobalHydra.instance().config_loader()
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(typed(config.hydra.overrides.task))
    forget()
    global _here
    _here = in_this_process(config.hydra)
    for override in parsed:
        _check_values(override)
    for overrides in BasicSweeper.split_arguments(parsed, None)[0]:
        try:
            composed = loader.load_sweep_config(config, list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise CompositionError(explain(error, list(overrides))) from error
        settings = settings_from(composed, composed.hydra)
        if settings.config["inspect"]:
            raise ConfigError("inspect", "true", "looks at one benchmark, not at a sweep's", "leave out -m")
        _jobs[folder_of(settings, OUTPUTS).path] = list(overrides)
        _settings[tuple(overrides)] = settings
        _tally.total = 1 + (_tally.total or 0)
    folder = Path(config.hydra.sweep.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_made(folder, error) from error
    _held.enter_context(held(folder))
    listed = {str(path): overrides for path, overrides in _jobs.items()}
    write_json(folder / _MANIFEST, {"jobs": listed, "programs": planned(folder)})
    if _trained_elsewhere(config.hydra):
        from gr_cli.onlooker import shown

        _held.enter_context(shown(list(_jobs), Tally(total=len(_jobs))))


def _check_values(override: Override) -> None:
    """Refuse what can't be listed: a sweep over sweeps, an interval, or nothing at all."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if not override.is_sweep_override():
        return
    try:
        values = list(override.sweep_string_iterator())
    except (HydraException, OmegaConfBaseException):
        values = []
    if not values:
        name, _, value = str(override.input_line).partition("=")
        raise ConfigError(name, value, "must give values, none of them a sweep itself", "list them, or use range(0,5)")


def planned(folder: Path) -> list[list[str]]:
    """The runs that the sweep in `folder` trains as one each time, by their folders, as far as that was decided."""
    from gr_cli.results.regular import read_json

    with suppress(OSError, ValueError, TypeError):
        found = read_json(folder / _MANIFEST)
        return [list(map(str, program)) for program in found.get("programs", [])]
    return []


def plan(folder: Path, programs: Sequence[Sequence[Path]]) -> None:
    """Write down what the sweep in `folder` trains as one, if its jobs are written down at all."""
    from gr_cli.results.files import write_json
    from gr_cli.results.regular import read_json

    manifest = folder / _MANIFEST
    if manifest.exists():
        found = read_json(manifest)
        write_json(manifest, found | {"programs": [list(map(str, program)) for program in programs]})


def in_this_process(hydra: Any) -> bool:
    """Whether the jobs of the sweep run one after another in the process of the command itself."""
    return str(hydra.launcher._target_).endswith(("BasicLauncher", "BatchedLauncher"))


def _trained_elsewhere(hydra: Any) -> bool:
    """Whether other processes than that of the command train the jobs of the sweep."""
    from omegaconf import OmegaConf

    processes, where = (
        OmegaConf.select(hydra, f"launcher.{name}", default=default)
        for name, default in (("processes", 1), ("where", "here"))
    )
    return not in_this_process(hydra) or processes > 1 or where != "here"


def _in_processes(hydra: Any) -> bool:
    """Whether these other processes are of this machine, and started by that of the command."""
    target = str(hydra.launcher._target_)
    return _trained_elsewhere(hydra) and (
        target.endswith("JoblibLauncher") or (in_this_process(hydra) and hydra.launcher.where == "here")
    )


def _check_launcher(config: DictConfig) -> None:
    """Refuse, in one line, a launcher whose package is not there."""
    from hydra.core.plugins import Plugins
    from omegaconf import OmegaConf

    from gr_cli.build import check_node

    name, node = config.hydra.runtime.choices.get("hydra/launcher"), OmegaConf.select(config, "hydra.launcher")
    if not OmegaConf.is_dict(node):
        raise ConfigError("hydra/launcher", name, "must name a launcher", "see gr-run --help")
    target = str(node.get("_target_"))
    if target not in Plugins.instance().class_name_to_class:
        extra = _EXTRAS.get(target.split(".")[1] if "." in target else "")
        remedy = f"install it with: pip install 'gr-cli[{extra}]'" if extra else f"there is no {target}"
        raise CompositionError(f"hydra/launcher={name}: its package is not installed; {remedy}")
    if target.startswith("hydra_plugins.gr_cli."):
        ours: Any = OmegaConf.to_container(node, resolve=True)
        ours["_target_"] = _OURS
        check_node(ours, "hydra.launcher", ())
        if ours.get("where") == "ray" and find_spec("ray") is None:
            raise CompositionError(
                "hydra.launcher.where=ray: is not installed; install it with: pip install 'gr-cli[ray]'"
            )


def over() -> None:
    """No further job of the sweep will begin, and no other process is looked at."""
    _held.close()


def forget() -> None:
    """There is no sweep (any more)."""
    global _tally
    over()
    _jobs.clear()
    _settings.clear()
    _tally = Tally()


def checked(overrides: Sequence[str]) -> Settings | None:
    """The settings of a job, if they were composed and checked already."""
    return _settings.get(tuple(overrides))


def elsewhere() -> bool:
    """Whether this process runs a sweep by a launcher that is not ours."""
    return bool(_jobs) and not _here


def report() -> int:
    """Say what became of the sweep's jobs; 1 if any failed, else 0."""
    if not _jobs:
        return 0
    from gr_cli.results.folder import RunFolder

    states = {path: RunFolder(path).state() for path in _jobs}
    missing = {path: state for path, state in states.items() if state != "finished"}
    for path, state in missing.items():
        again = shlex.join(["gr-run", *_jobs[path]])
        print(one_line(f"gr-run: {state}: {path}  (again: {again})"), file=sys.stderr)
    if missing:
        print(
            f"gr-run: {len(missing)} of {len(states)} runs did not finish; the same command repeats these",
            file=sys.stderr,
        )
    return 1 if missing else 0
