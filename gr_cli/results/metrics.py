"""Metrics of continual learning as pure functions of the accuracy matrix R.

`matrix[i][j]` is the accuracy on task j after training on task i, both from 0, in [0, 1]; None if it was not measured.
Each function returns None where the metric is undefined: with fewer rows than tasks (joint training), or, for those
that compare tasks, with one task only.

    >>> matrix = [[0.9, 0.1], [0.6, 0.8]]
    >>> round(average_accuracy(matrix), 3), round(forgetting(matrix), 3), round(backward_transfer(matrix), 3)
    (0.7, 0.3, -0.3)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from gr_cli.results.statistics import SIGNED_UNIT, UNBOUNDED, UNIT_INTERVAL, Bounds
from gr_cli.results.tables import FRACTION, Direction, TableFormat

MatrixRow = Sequence[float | None]  # accuracy by task
Matrix = Sequence[MatrixRow]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _is_square(matrix: Matrix) -> bool:
    return len(matrix) > 1 and all(len(row) == len(matrix) for row in matrix)


def average_accuracy(matrix: Matrix) -> float | None:
    """Mean accuracy over all tasks after the last training."""
    return _mean(list(matrix[-1])) if matrix else None


def accuracy_so_far(row: MatrixRow, task: int) -> float | None:
    """Mean accuracy on tasks 0 to `task`, from the row after `task`; on those of them that were measured."""
    return _mean([value for value in row[: task + 1] if value is not None])


def average_incremental_accuracy(matrix: Matrix) -> float | None:
    """Mean over i of the mean accuracy on tasks 0..i after task i (Rebuffi et al. 2017)."""
    if not matrix or any(len(row) != len(matrix) for row in matrix):
        return None
    return _mean([_mean(list(row[: i + 1])) for i, row in enumerate(matrix)])


def forgetting(matrix: Matrix) -> float | None:
    """Mean over tasks j but the last of max_{l < T-1} R[l][j] - R[T-1][j] (Chaudhry et al. 2018, eq. 3).

    Accuracies before a task is learned, R[l][j] with l < j, may be missing; they are left out of the maximum.
    """
    if not _is_square(matrix):
        return None
    drops = []
    for j in range(len(matrix) - 1):
        *earlier, last = [row[j] for row in matrix]
        known = [value for value in earlier if value is not None]
        drops.append(None if None in earlier[j:] else _subtract(max(known), last))
    return _mean(drops)


def _subtract(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def backward_transfer(matrix: Matrix) -> float | None:
    """Mean over tasks j but the last of R[T-1][j] - R[j][j] (Lopez-Paz & Ranzato 2017)."""
    if not _is_square(matrix):
        return None
    return _mean([_subtract(matrix[-1][j], matrix[j][j]) for j in range(len(matrix) - 1)])


def forward_transfer(matrix: Matrix, untrained: MatrixRow) -> float | None:
    """Mean over tasks j but the first of R[j-1][j] - b[j] (Lopez-Paz & Ranzato 2017).

    Args:
        matrix: The accuracy matrix.
        untrained: b, the accuracy by task before any training.
    """
    if not _is_square(matrix) or len(untrained) != len(matrix):
        return None
    return _mean([_subtract(matrix[j - 1][j], untrained[j]) for j in range(1, len(matrix))])


def learning_accuracy(matrix: Matrix) -> float | None:
    """Mean over tasks j of R[j][j], the accuracy right after learning the task (Riemer et al. 2019)."""
    if not matrix or any(len(row) != len(matrix) for row in matrix):
        return None
    return _mean([row[i] for i, row in enumerate(matrix)])


def forward_transfer_to_separate(matrix: Matrix, separate: Matrix) -> float | None:
    """Mean over tasks j but the first of R[j][j] - S[j][j]: the gain from earlier tasks in learning a new one.

    It is negative where learning suffers from them.

    Args:
        matrix: R, the accuracy matrix.
        separate: S, that of networks that were each trained on one task alone.
    """
    if not _is_square(matrix) or not _is_square(separate) or len(matrix) != len(separate):
        return None
    return _mean([_subtract(matrix[j][j], separate[j][j]) for j in range(1, len(matrix))])


def intransigence(matrix: Matrix, cumulative: Matrix) -> float | None:
    """Mean over tasks j of C[j][j] - R[j][j], the inability to learn a new task (Chaudhry et al. 2018).

    Args:
        matrix: R, the accuracy matrix.
        cumulative: C, that of a network trained on all tasks up to each one together.
    """
    if not _is_square(matrix) or not _is_square(cumulative) or len(matrix) != len(cumulative):
        return None
    return _mean([_subtract(cumulative[j][j], matrix[j][j]) for j in range(len(matrix))])


def all_metrics(matrix: Matrix, untrained: MatrixRow | None) -> dict[str, float | None]:
    """All metrics of the accuracy matrix by name.

    Args:
        matrix: The accuracy matrix.
        untrained: Accuracy by task before any training; None if accuracy on tasks that are not learned yet has no
            meaning (class-incremental). Forward transfer is None then.
    """
    metrics: list[Callable[[Matrix], float | None]] = [
        average_accuracy,
        average_incremental_accuracy,
        forgetting,
        backward_transfer,
        learning_accuracy,
    ]
    values = {metric.__name__: metric(matrix) for metric in metrics}
    return values | {"forward_transfer": None if untrained is None else forward_transfer(matrix, untrained)}


# Metrics that need more than the accuracy matrix of a run: accuracy before training, or the matrix of another run.
_OF_MORE_ACCURACIES = frozenset(
    metric.__name__ for metric in (forward_transfer, forward_transfer_to_separate, intransigence)
)
_BOUNDS = dict.fromkeys([*all_metrics([], None), *sorted(_OF_MORE_ACCURACIES)], SIGNED_UNIT) | dict.fromkeys(
    (metric.__name__ for metric in (average_accuracy, average_incremental_accuracy, learning_accuracy)), UNIT_INTERVAL
)
_LOWER_IS_BETTER = frozenset({"forgetting", "intransigence"})
# Prefix of metrics of the accuracy matrix that are measured on validation samples, as objectives of a search.
VALIDATION = "validation_"
VALIDATION_METRICS = frozenset(f"{VALIDATION}{name}" for name in set(_BOUNDS) - _OF_MORE_ACCURACIES)


def fraction_metrics(tables: Iterable[TableFormat]) -> frozenset[str]:
    """Names of the metrics that people see in percent: those of the accuracy matrix, and fractions in `tables`."""
    measured = {name for table in tables for name, column in table.metric_columns.items() if column.unit == FRACTION}
    return frozenset(_BOUNDS) | measured


def metric_bounds(metric: str, tables: Iterable[TableFormat]) -> Bounds:
    """Range of possible values of a metric: of the accuracy matrix, of `tables`, or a number of parameters."""
    if metric in _BOUNDS:
        return _BOUNDS[metric]
    columns = (table.metric_columns[metric] for table in tables if metric in table.metric_columns)
    return next((column.bounds for column in columns), Bounds(0.0) if metric.startswith("parameters_") else UNBOUNDED)


def metric_directions(tables: Iterable[TableFormat], networks: Iterable[str]) -> dict[str, Direction]:
    """Which values are better, for all metrics by name: those of the accuracy matrix, of `tables`, and sizes.

    Args:
        tables: Tables of evaluations.
        networks: Networks whose parameters are counted.
    """
    directions: dict[str, Direction] = {
        name: "lower" if name.removeprefix(VALIDATION) in _LOWER_IS_BETTER else "higher"
        for name in sorted(VALIDATION_METRICS | set(_BOUNDS))
    }
    directions |= {name: column.direction for table in tables for name, column in table.metric_columns.items()}
    return directions | {f"parameters_{name}": "lower" for name in networks}
