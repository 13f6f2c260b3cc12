"""The folders of runs and sweeps: those that hydra.run.dir and hydra.sweep name, or this program's own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gr_cli.cli.compose import composed_config, plain_overrides, settings_from_config
from gr_cli.cli.overrides import describe_difference
from gr_cli.errors import ConfigError, FolderError, OccupiedFolderError
from gr_cli.results.availability import check_available, run_folder

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from gr_cli.config.settings import Settings
    from gr_cli.results.folder import RunFolder

# The shipped values call these resolvers; with any other value, the user names the folder.
_OWN_NAME = re.compile(r"\$\{gr_\w+:")

_SUBDIR, _SUBDIR_REMEDY = "hydra.sweep.subdir", "leave it out, or try ${hydra.job.num} or ${hydra.job.override_dirname}"


def register_resolvers() -> None:
    """Register the resolvers by which the shipped configuration leaves folders to this program."""
    from omegaconf import OmegaConf

    # Hydra creates what hydra.run.dir and hydra.sweep.subdir name: the current directory and the sweep's folder exist.
    OmegaConf.register_new_resolver("gr_folder", lambda: ".", replace=True)
    OmegaConf.register_new_resolver("gr_sweep", _own_sweep_folder, replace=True, use_cache=True)


def _own_sweep_folder(output_root: str, overrides: Any, params: Any = None) -> str:
    """The folder of a sweep, named by a hash of the overrides and the sweeper's parameters."""
    from omegaconf import OmegaConf

    from gr_cli.config.settings import short_hash

    plain_params: Any = OmegaConf.to_container(params, resolve=False) if params else {}
    name = short_hash([*plain_overrides(overrides), *([plain_params] if plain_params else [])])
    return str(Path(os.path.expanduser(output_root), "sweeps", name))


def with_home_expanded(argv: Sequence[str]) -> list[str]:
    """The command line with `~` for the home folder in Hydra's folders, which its grammar does not have."""
    home = re.compile(r"^(\+*(?:hydra\.(?:run|sweep)\.dir|output_root)=['\"]?)~(?=/|['\"]?$)")
    return [home.sub(r"\1${oc.env:HOME}", word) for word in argv]


def compose_run(overrides: Sequence[str], config_dir: Path | None = None) -> tuple[Settings, RunFolder]:
    """Settings and folder of the run that `gr-run` starts with these overrides, for use from Python.

    Args:
        overrides: The overrides.
        config_dir: A folder of options of one's own, as `--config-dir` names it.

    Raises:
        CompositionError: The overrides can't be composed.
        ConfigError: A value is not allowed.
    """
    with composed_config(with_home_expanded(overrides), config_dir) as config:
        register_resolvers()
        path = single_run_folder(config)
        settings = settings_from_config(config, config.hydra)
    return settings, run_folder(settings, path)


def single_run_folder(config: DictConfig) -> Path | None:
    """The folder that `hydra.run.dir` names for a single run; None if this program names it.

    Hydra would create it before anything is checked, so it gets the current directory instead.

    Raises:
        ConfigError: It is no folder, or the command line names the folder of a sweep.
        OmegaConfBaseException: An interpolation can't be resolved.
    """
    from omegaconf import read_write

    _check_mode(config, "hydra.sweep", "hydra.run.dir, or -m for a sweep")
    if _is_own_name(config.hydra.run, "dir"):
        return None
    with hydra_config(config) as hydra:
        path = _named_folder("hydra.run.dir", hydra.run.dir)
    with read_write(config.hydra):
        config.hydra.run.dir = "."
    return path


def sweep_folder(config: DictConfig) -> Path:
    """The folder of a sweep.

    Raises:
        ConfigError: `hydra.sweep.dir` is no folder, or the command line names that of a single run.
        OmegaConfBaseException: An interpolation can't be resolved.
    """
    _check_mode(config, "hydra.run", "hydra.sweep.dir")
    return _sweep_folder(config.hydra)


def _sweep_folder(hydra: Any) -> Path:
    text = hydra.sweep.dir
    if str(text).startswith("~"):  # from a file: `with_home_expanded` sees the command line only
        raise ConfigError("hydra.sweep.dir", text, "can't begin with ~", "write ${oc.env:HOME}")
    path = _named_folder("hydra.sweep.dir", text)
    if os.path.lexists(path) and not path.is_dir():
        raise ConfigError("hydra.sweep.dir", text, "is not a folder", "name a new or empty one")
    return path


def names_sweep_folder(hydra: Any) -> bool:
    """Whether `hydra.sweep.dir` names the folder of the sweep."""
    return not _is_own_name(hydra.sweep, "dir")


def names_job_folders(hydra: Any) -> bool:
    """Whether `hydra.sweep.subdir` names the folders of jobs."""
    return not _is_own_name(hydra.sweep, "subdir")


def keeps_own_folders(hydra: Any) -> bool:
    """Whether this program names both the folder of the sweep and those of its jobs."""
    return not names_sweep_folder(hydra) and not names_job_folders(hydra)


def job_folder(settings: Settings, hydra: Any) -> RunFolder:
    """The folder of a job of a sweep.

    Args:
        settings: Settings of the job.
        hydra: Hydra's part of its configuration, with its number.

    Raises:
        ConfigError: `hydra.sweep.subdir` is no folder inside that of the sweep.
        OmegaConfBaseException: An interpolation can't be resolved.
    """
    if keeps_own_folders(hydra):
        return run_folder(settings)
    sweep = _sweep_folder(hydra)
    if not names_job_folders(hydra):
        return run_folder(settings, settings.folder(sweep))
    subdir = hydra.sweep.subdir
    path = Path(os.path.normpath(sweep / str(subdir)))
    if Path(os.path.abspath(sweep)) not in Path(os.path.abspath(path)).parents:
        raise ConfigError(_SUBDIR, subdir, f"must name a folder inside that of the sweep, {sweep}", _SUBDIR_REMEDY)
    return run_folder(settings, path)


def check_job_folders(jobs: Sequence[tuple[Settings, RunFolder]], sweep: Path) -> None:
    """Check the folders of all jobs of a sweep. Nothing is written.

    Raises:
        ConfigError: Two are the same, one lies in another, or one lies elsewhere than the sweep.
        OccupiedFolderError: One holds another run or other files; what is damaged is reported by the run itself.
    """
    overrides_of: dict[Path, tuple[str, ...]] = {}
    for settings, folder in jobs:
        path = Path(os.path.realpath(folder.path))
        if path in overrides_of:
            two = describe_difference(overrides_of[path], settings.overrides)
            raise ConfigError(_SUBDIR, folder.path, f"is the folder of two jobs, {two}", _SUBDIR_REMEDY)
        overrides_of[path] = settings.overrides
    for settings, folder in jobs:
        for parent in Path(os.path.realpath(folder.path)).parents:
            if parent in overrides_of:
                raise ConfigError(_SUBDIR, folder.path, f"lies in the folder of another job, {parent}", _SUBDIR_REMEDY)
        if os.path.relpath(folder.path, sweep).startswith(os.path.join("..", "..", "..")):
            raise ConfigError(
                "output_root", settings.output_root, "can be set for the whole sweep only", "give it once"
            )
        try:
            check_available(folder, settings)
        except OccupiedFolderError:
            raise
        except FolderError:
            continue


@contextmanager
def hydra_config(config: DictConfig) -> Iterator[Any]:
    """Hydra's part of a configuration inside the block, whose interpolations may use `${hydra:...}` as in a job."""
    from hydra.core.hydra_config import HydraConfig

    instance: Any = HydraConfig.instance()
    before = instance.cfg
    instance.set_config(config)
    try:
        yield instance.cfg.hydra
    finally:
        instance.cfg = before


def _is_own_name(node: Any, key: str) -> bool:
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(node, resolve=False)
    return bool(_OWN_NAME.search(str(plain[key])))


def _named_folder(field: str, text: Any) -> Path:
    """The path that a setting names."""
    if text is None or not str(text).strip():
        raise ConfigError(field, text, "must name a folder", "leave it out for a folder of its own below output_root")
    try:
        return Path(os.path.normpath(Path(str(text)).expanduser()))
    except RuntimeError as error:
        raise ConfigError(field, text, "is in an unknown user's home folder", "name a folder") from error


def _check_mode(config: DictConfig, unused: str, remedy: str) -> None:
    """Check that the command line sets no folder that has no effect, as Hydra would ignore it.

    Raises:
        ConfigError: It sets `hydra.run` in a sweep, or `hydra.sweep` in a single run.
    """
    for word in plain_overrides(config.hydra.overrides.hydra):
        name, _, value = word.lstrip("+").partition("=")
        if name.startswith(f"{unused}."):
            mode = "single run" if unused == "hydra.sweep" else "sweep"
            raise ConfigError(name, value, f"has no effect in a {mode}", f"use {remedy}")
