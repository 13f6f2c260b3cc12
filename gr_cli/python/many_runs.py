"""Results of many runs as data frames: a row per run, or a table of all runs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gr_cli.config.output_root import default_output_root
from gr_cli.errors import FolderError
from gr_cli.report.groups import Group, Grouping, format_value, group_runs
from gr_cli.results.discovery import DiscoveredRun, discover_runs
from gr_cli.results.metrics import all_metrics

if TYPE_CHECKING:
    from gr_cli.results.frames import DataFrame

_COSTS = ("seconds", "peak_memory_mib")
_Identified = list[tuple[dict[str, Any], DiscoveredRun]]


def load_results(*folders: str | Path) -> DataFrame:
    """One row per run: the settings in which runs differ, seed, state, metrics, seconds and memory.

    The index is the absolute path of the folder, for `load_run`. Metrics of unfinished runs are NaN. Folders that can't
    be read are left out, with a warning.

    Args:
        folders: Runs, sweeps, or parents of them. Default: $GR_OUTPUT_ROOT, or outputs.

    Raises:
        FolderError: There is no run.
    """
    from gr_cli.results.frames import rows_frame

    identified, _ = _identified(folders)
    # Those of the accuracy matrix even if no run has finished, for programs that watch a sweep.
    metrics = dict.fromkeys([*all_metrics([], None), *(name for _, run in identified for name in run.metrics or ())])
    rows = []
    for values, run in identified:
        cost = {name: run.cost and getattr(run.cost, name) for name in _COSTS}
        rows.append({**values, "state": run.state, **metrics, **(run.metrics or {}), **cost})
    return rows_frame(rows, "folder", numeric=[*metrics, *_COSTS])


def load_evaluations(*folders: str | Path) -> DataFrame:
    """Accuracy and loss of many runs on each task after each training, in long form.

    The first columns identify the run: folder, settings in which runs differ, seed.

    Args:
        folders: Runs, sweeps, or parents of them. Default: $GR_OUTPUT_ROOT, or outputs.

    Raises:
        FolderError: There is no run.
    """
    return _table("evaluations", *_identified(folders))


def load_histories(*folders: str | Path) -> DataFrame:
    """Losses of many runs by task and iteration; columns as those of `load_evaluations`.

    Args:
        folders: Runs, sweeps, or parents of them. Default: $GR_OUTPUT_ROOT, or outputs.

    Raises:
        FolderError: There is no run.
    """
    return _table("history", *_identified(folders))


def load_tables(name: str, *folders: str | Path) -> DataFrame:
    """A table of many runs, such as `per_class`; columns as those of `load_evaluations`.

    Runs without this table are left out, with a warning if it can't be read. A setting has the prefix `setting.` where
    the table has a column of its name.

    Args:
        name: Name of the table, without `.csv`.
        folders: Runs, sweeps, or parents of them. Default: $GR_OUTPUT_ROOT, or outputs.

    Raises:
        FolderError: There is no run, or no finished run has this table.
    """
    return _table(name, *_identified(folders))


def _table(name: str, identified: _Identified, identifying: Sequence[str]) -> DataFrame:
    from gr_cli.results.frames import long_frame, table_frame, table_names

    tables, others = [], []
    for values, run in identified:
        try:
            if name in table_names(run.folder):
                tables.append((values, table_frame(run.folder, name)))
            else:
                others.append(run)
        except FolderError as error:
            warnings.warn(f"{error}; left out", stacklevel=3)
    finished = [run for run in others if run.state == "finished"]
    if finished and not tables:
        return table_frame(finished[0].folder, name)  # raises an error that names the tables
    return long_frame(tables, identifying)


def _identified(folders: Sequence[str | Path]) -> tuple[_Identified, list[str]]:
    """The runs below some folders, each with the values that identify it, and the names of these."""
    discovered = discover_runs([Path(folder) for folder in folders or (default_output_root(),)])
    for path, reason in discovered.unreadable.items():
        warnings.warn(f"{path}: can't be read ({reason}); left out", stacklevel=3)
    grouping = group_runs(discovered)
    identified = [
        (values, run)
        for group in grouping.groups
        for run in sorted(group.runs, key=lambda run: run.seed)
        for values in [_values(grouping, group, run)]
    ]
    return identified, ["folder", *(column.label for column in grouping.columns), "seed"]


def _values(grouping: Grouping, group: Group, run: DiscoveredRun) -> dict[str, Any]:
    """Folder, settings and seed of a run; a list as text, so that rows can be grouped by it."""
    settings = {column.label: group.values.get(column.name) for column in grouping.columns}
    plain = {name: format_value(value) if isinstance(value, list) else value for name, value in settings.items()}
    return {"folder": str(run.path.absolute()), **plain, "seed": run.seed}
