"""Losses of steps, as rows of history.csv."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor

from gr_cli.errors import TrainingError
from gr_cli.results.record import Record

PendingLosses = dict[str, list[Tensor]]  # losses since the last row of the history, by name


class LossHistory:
    """Turns the losses of the steps of `task` into rows of the history: means over `every` iterations.

    Losses are (R,), for the records of R runs that are trained together. `pending_losses`
    holds those since the last row,
    as tensors that nobody has waited for yet. A task that goes on after `done` iterations brings its own.
    """

    def __init__(
        self,
        records: Sequence[Record],
        every: int,
        task: int,
        done: int = 0,
        pending_losses: PendingLosses | None = None,
    ) -> None:
        self._records, self._every, self._task, self._done = records, every, task, done
        self.pending_losses = pending_losses or {}

    def add(self, iteration: int, losses: dict[str, Tensor]) -> dict[int, TrainingError]:
        """Take note of the step of an `iteration`; answers as `close` does."""
        for name, value in losses.items():
            self.pending_losses.setdefault(name, []).append(value)
        self._done = iteration + 1
        return self.close() if self._done % self._every == 0 else {}

    def close(self) -> dict[int, TrainingError]:
        """Write a row for the steps since the last one, if there were any: at the end of a task, too.

        A run whose losses are no finite numbers any more gets no row, but an error: by its place among the runs.
        """
        task, done = self._task, self._done
        means = {name: torch.stack(values).double().mean(0).tolist() for name, values in self.pending_losses.items()}
        self.pending_losses.clear()
        errors = {}
        for i, record in enumerate(self._records if means else []):
            row = {"task": task, "iteration": done} | {name: values[i] for name, values in means.items()}
            broken = [name for name, value in row.items() if not isfinite(value)]
            if broken:
                name = broken[0]
                errors[i] = TrainingError.diverged(f"loss `{name}`", row[name], task, done)
            else:
                record.history.append(row)
        return errors
