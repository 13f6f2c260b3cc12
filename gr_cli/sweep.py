"""A sweep: all its jobs are checked and written down before the first one trains, and accounted for at the end."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from gr_cli.compose import OUTPUTS, settings_from
from gr_cli.errors import CompositionError, GrError, Stop, WriteError

if TYPE_CHECKING:
    from omegaconf import DictConfig

# The jobs of the sweep that this process runs, by folder; empty where there is no sweep.
_jobs: dict[Path, list[str]] = {}


def identity(overrides: Sequence[str]) -> str:
    """A short name for a sweep: the same overrides give the same."""
    return hashlib.blake2b(json.dumps(list(overrides)).encode(), digest_size=4).hexdigest()


class CheckFirst(Callback):
    """Hydra calls this before the first job of a sweep. Other sweepers than the basic one find jobs as they go."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
        from hydra.core.global_hydra import GlobalHydra
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        from gr_cli.experiment import folder_of
        from gr_cli.explain import explain
        from gr_cli.results.files import write_json

        if not str(config.hydra.sweeper._target_).endswith("BasicSweeper"):
            return
        loader = GlobalHydra.instance().config_loader()
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(config.hydra.overrides.task))
        _jobs.clear()
        for overrides in BasicSweeper.split_arguments(parsed, None)[0]:
            # Hydra makes warnings of what a callback raises, but for a `Stop`.
            try:
                composed = loader.load_sweep_config(config, list(overrides))
                settings = settings_from(composed, composed.hydra)
            except (HydraException, OmegaConfBaseException) as error:
                raise Stop(CompositionError(explain(error, list(overrides)))) from error
            except GrError as error:
                raise Stop(error) from error
            _jobs[folder_of(settings, OUTPUTS).path] = list(overrides)
        manifest = Path(config.hydra.sweep.dir) / "sweep.json"
        try:
            manifest.parent.mkdir(parents=True, exist_ok=True)
            write_json(manifest, {"jobs": {str(path): overrides for path, overrides in _jobs.items()}})
        except OSError as error:
            raise Stop(WriteError(f"{manifest.parent}: can't be made ({error.strerror})")) from error
        except GrError as error:
            raise Stop(error) from error


def forget() -> None:
    """There is no sweep (any more)."""
    _jobs.clear()


def report() -> int:
    """Say what became of the sweep's jobs; 1 if any failed, else 0."""
    if not _jobs:
        return 0
    from gr_cli.results.folder import RunFolder

    states = {path: (RunFolder(path).status() or {}).get("state", "never begun") for path in _jobs}
    missing = {path: state for path, state in states.items() if state != "finished"}
    for path, state in missing.items():
        print(f"gr-run: {state}: {path}  (again: {shlex.join(['gr-run', *_jobs[path]])})", file=sys.stderr)
    if missing:
        print(
            f"gr-run: {len(missing)} of {len(states)} runs did not finish; the same command repeats these",
            file=sys.stderr,
        )
    return 1 if missing else 0
