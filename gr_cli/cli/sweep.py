"""A sweep: all its jobs are checked and written down before the first one trains, and accounted for at the end."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from gr_cli.cli.compose import settings_from, typed
from gr_cli.config.groups import OUTPUTS
from gr_cli.errors import CompositionError, ConfigError, Stop, one_line
from gr_cli.system.messages import tell
from gr_cli.system.signals import lifeline
from gr_cli.terminal.sweep_progress import Tally

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig

    from gr_cli.config.settings import Settings

# What a sweep's folder says of it.
_MANIFEST = "sweep.json"

# The runs of the sweep that this process runs: the overrides of each by its folder; empty where there is no sweep.
_jobs: dict[Path, list[str]] = {}
# What each of them is, by its overrides.
_settings: dict[tuple[str, ...], Settings] = {}

# Whether a launcher of this process runs them.
_here = True
# What is held until the sweep is over: its folder.
_held = ExitStack()


_tally = Tally()


def tally() -> Tally:
    """How far the sweep of this process is."""
    return _tally


_DAMAGED = "damaged"
# The parts of Hydra's own configuration that a job can't have for itself.
_OF_SWEEP = ("launcher", "sweeper", "sweep")
_OURS = "gr_cli.cli.launchers.batched.BatchedLauncher"
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


def identity(overrides: Any, params: Any = None) -> str:
    """A short name for a sweep: the same overrides, as Hydra holds them, and sweeper's parameters give the same."""
    from omegaconf import OmegaConf

    from gr_cli.config.settings import short_hash

    given = dict(OmegaConf.to_container(params, resolve=False)) if params else {}  # type: ignore[arg-type]
    return short_hash([*typed(overrides), *([given] if given else [])])


class CheckFirst(Callback):
    """Hydra calls this before the first job of a sweep. Other sweepers than the basic one find jobs as they go."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        # Hydra makes warnings of what a callback raises, but for a `Stop`.
        try:
            _check_launcher(config)
            if _sweeper(config).endswith("BasicSweeper"):
                _check_jobs(config)
            if _in_processes(config.hydra):
                _held.enter_context(lifeline())
        except Exception as error:
            raise Stop(error) from error

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        # Hydra keeps what each job returned until the sweep is over; nothing reads its configurations again.
        job_return.cfg = job_return.hydra_cfg = None


def _sweeper(config: DictConfig) -> str:
    """The class of the sweeper."""
    from omegaconf import OmegaConf

    node = OmegaConf.select(config, "hydra.sweeper")
    if not OmegaConf.is_dict(node) or "_target_" not in node:
        choice = config.hydra.runtime.choices.get("hydra/sweeper")
        raise ConfigError("hydra/sweeper", choice, "must name a sweeper", "leave it out for combinations of values")
    return str(node["_target_"])


def _check_jobs(config: DictConfig) -> None:
    """Compose and check all jobs, and write down which runs they are."""
    from hydra.core.plugins import Plugins

    from gr_cli.cli.launchers.sweeper import CheckedSweeper
    from gr_cli.config.arguments import check
    from gr_cli.runner.run import folder_of
    from gr_cli.system.files import not_made, write_json
    from gr_cli.system.locks import held
    from gr_cli.types import PositiveInt

    check(config.hydra.sweeper.max_batch_size, PositiveInt | None, "hydra.sweeper.max_batch_size")
    forget()
    global _here
    _here = in_this_process(config.hydra)
    jobs = _listed(config)
    same: tuple[list[str], list[str]] | None = None
    firsts: dict[tuple[Any, ...], list[str]] = {}
    for overrides in jobs:
        settings = _checked_job(config, overrides)
        path = folder_of(settings, OUTPUTS).path
        first = firsts.setdefault((path.parent, settings.seed, settings.identity), overrides)
        if first is not overrides:
            same = same or (first, overrides)
            continue
        _jobs[path] = overrides
        _settings[tuple(overrides)] = settings
    if same:
        runs = "1 run" if len(_jobs) == 1 else f"{len(_jobs)} runs"
        print(f"{len(jobs)} jobs are {runs}, each trained once: {_shown(*same)} are the same run")
    _tally.total = len(_jobs)
    folder = Path(config.hydra.sweep.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_made(folder, error) from error
    _held.enter_context(held(folder))
    write_json(folder / _MANIFEST, {"jobs": {str(path): overrides for path, overrides in _jobs.items()}})
    Plugins.instance().class_name_to_class[config.hydra.sweeper._target_] = CheckedSweeper
    if _trained_elsewhere(config.hydra):
        tell(f"other processes train these runs; to watch them: gr-report --watch {shlex.quote(str(folder))}")


def _listed(config: DictConfig) -> list[list[str]]:
    """The overrides of each job that Hydra's own sweeper makes of its parameters and of the command line."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from gr_cli.cli.hydra_errors import explain

    words = typed(config.hydra.overrides.task)
    try:
        words = [*BasicSweeper(None, config.hydra.sweeper.params)._parse_config(), *words]
        parsed = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(words)
    except (HydraException, OmegaConfBaseException) as error:
        raise CompositionError(explain(error, words)) from error
    for override in parsed:
        _check_values(override)
    return [list(overrides) for overrides in BasicSweeper.split_arguments(parsed, None)[0]]


def _checked_job(config: DictConfig, overrides: list[str]) -> Settings:
    """The settings of a job of the sweep that `config` describes."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from gr_cli.cli.hydra_errors import explain

    try:
        composed = GlobalHydra.instance().config_loader().load_sweep_config(config, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise CompositionError(explain(error, overrides)) from error
    for part in _OF_SWEEP:
        here, there = (OmegaConf.to_container(node.hydra[part], resolve=False) for node in (composed, config))
        if here != there:
            choice = composed.hydra.runtime.choices.get(f"hydra/{part}")
            raise ConfigError(
                shlex.join(overrides),
                f"(hydra/{part}={choice})",
                f"sets hydra.{part}, which holds for the whole sweep and not for one of its jobs",
                f"name it on the command line: hydra/{part}={choice}",
            )
    settings = settings_from(composed, composed.hydra)
    if settings.config["inspect"]:
        raise ConfigError("inspect", "true", "looks at one benchmark, not at a sweep's", "leave out -m")
    return settings


def _shown(one: list[str], other: list[str]) -> str:
    """Two jobs by the overrides in which they differ."""
    differing = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
    if not differing:
        return f"{shlex.join(one)} twice"
    return " and ".join(shlex.join(words) for words in zip(*differing, strict=True))


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

    from gr_cli.config.instantiate import check_node

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
    """No further job of the sweep will begin."""
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


def runs() -> list[list[str]]:
    """The overrides of each run of the sweep."""
    return list(_jobs.values())


def began(path: Path, overrides: Sequence[str]) -> None:
    """Take note of a run that a sweeper found as it went."""
    _jobs.setdefault(path, list(overrides))


def report() -> int:
    """Print what became of the sweep's runs; 1 if any failed, else 0."""
    if not _jobs:
        return 1 if _tally.failed else 0
    states = {path: _state(path) for path in _jobs}
    missing = {path: state for path, state in states.items() if state != "finished"}
    for path, state in missing.items():
        again = shlex.join(["gr-run", *_jobs[path], *(["fresh=true"] if state == _DAMAGED else [])])
        print(one_line(f"gr-run: {state}: {path}  (again: {again})"), file=sys.stderr)
    if missing:
        print(
            f"gr-run: {len(missing)} of {len(states)} runs did not finish; the same command repeats these",
            file=sys.stderr,
        )
    return 1 if missing or _tally.failed else 0


def _state(path: Path) -> str:
    """What became of a run; `damaged` where its own files can't be read, which its job has reported."""
    from gr_cli.errors import GrError
    from gr_cli.results.folder import RunFolder
    from gr_cli.results.stored_config import check_config

    folder = RunFolder(path)
    try:
        state = folder.state()
        if state == "finished":
            check_config(path)
            folder.metrics()
            if folder.load_checkpoint() is None:
                return _DAMAGED
    except (GrError, OSError, ValueError, LookupError):
        return _DAMAGED
    return state
