"""Metrics that compare a run with a reference run of the same benchmark, seed and training settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from gr_cli.results.folder import RunFolder
from gr_cli.results.metrics import Matrix, forward_transfer_to_separate, intransigence
from gr_cli.system.reading import parse_finite_float, read_table

_FILE = "accuracy_matrix.csv"
# Settings in which a run may differ from its reference; all others are the same, the seed included.
_METHOD_SETTINGS = ("strategy", "generator", "gradient_rule", "evaluate", "privacy")


class ComparedRun(Protocol):
    """What is needed of a run: `DiscoveredRun` has it."""

    @property
    def folder(self) -> RunFolder: ...
    @property
    def seed(self) -> int: ...
    @property
    def settings(self) -> dict[str, Any]: ...
    @property
    def status(self) -> dict[str, Any]: ...
    @property
    def metrics(self) -> dict[str, float | None] | None: ...
    def noting_unreadable(self, name: str) -> AbstractContextManager[None]: ...
    def check_file(self, name: str) -> None: ...


class ReferenceMetric(NamedTuple):
    """A metric of the accuracy matrices of a run and of its reference.

    Attributes:
        compute: The metric, from both matrices.
        role: What runs are compared with the reference for, as `reference_for` in status.json.
        strategy: An option of `strategy` that makes such a reference.
    """

    compute: Callable[[Matrix, Matrix], float | None]
    role: str
    strategy: str


REFERENCE_METRICS = {
    metric.compute.__name__: metric
    for metric in (
        ReferenceMetric(forward_transfer_to_separate, "transfer", "separate"),
        ReferenceMetric(intransigence, "intransigence", "cumulative"),
    )
}


def add_reference_metrics(runs: Sequence[ComparedRun]) -> None:
    """Add to the metrics of finished runs those that compare them with a reference among `runs`, where there is one."""
    for name, metric in REFERENCE_METRICS.items():
        is_reference = {id(run): run.status.get("reference_for") == metric.role for run in runs}
        references = {_key(run): run for run in _finished(runs) if is_reference[id(run)]}
        if not references:
            continue
        matrices: dict[int, list[list[float | None]]] = {}
        for run in _finished(runs):
            reference = references.get(_key(run))
            if reference is None or is_reference[id(run)] or run.metrics is None:
                continue
            for each in (run, reference):
                if id(each) not in matrices:
                    matrices[id(each)] = _read_matrix(each)
            run.metrics[name] = metric.compute(matrices[id(run)], matrices[id(reference)])


def _finished(runs: Iterable[ComparedRun]) -> list[ComparedRun]:
    return [run for run in runs if run.metrics is not None]


def _key(run: ComparedRun) -> tuple[int, frozenset[tuple[str, str]]]:
    """Seed and settings that a run and its reference have in common."""
    common = {(name, repr(value)) for name, value in run.settings.items() if name.split(".")[0] not in _METHOD_SETTINGS}
    return run.seed, frozenset(common)


def _read_matrix(run: ComparedRun) -> list[list[float | None]]:
    """The accuracy matrix of a run; empty if it can't be read, which is noted in the run."""
    with run.noting_unreadable(_FILE):
        rows: list[Mapping[str, str]] = list(read_table(run.folder.path / _FILE))
        width = sum(name.startswith("task_") for name in rows[0]) if rows else 0
        cells = [[row[f"task_{task}"] for task in range(width)] for row in rows]
        matrix = [[parse_finite_float(cell) if cell else None for cell in row] for row in cells]
        run.check_file(_FILE)
        return matrix
    return []
