"""Mean losses over a number of iterations, as rows of history.csv."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor

from gr_cli.errors import TrainingError
from gr_cli.results.record import Record

PendingLosses = dict[str, list[Tensor]]  # losses (R,) since the last row, by name of the loss


class LossHistory:
    """Averages the losses of one task over `log_every` iterations and appends the means to the history of each run.

    Losses stay on the device until a row is complete, so that `add` doesn't wait for the device.

    Args:
        records: Records of the R runs of the group.
        log_every: Iterations per row.
        task: The task in training, from 0.
        iterations_done: Iterations of the task that are done, if it is resumed.
        pending_losses: Losses since the last row, if the task is resumed.
    """

    def __init__(
        self,
        records: Sequence[Record],
        log_every: int,
        task: int,
        iterations_done: int = 0,
        pending_losses: PendingLosses | None = None,
    ) -> None:
        self._records, self._log_every, self._task, self._iterations_done = records, log_every, task, iterations_done
        self.pending_losses = pending_losses or {}

    def add(self, iteration: int, losses: dict[str, Tensor]) -> dict[int, TrainingError]:
        """Add the losses (R,) of a step; close the row if it is complete.

        Returns:
            As `close`; empty if the row is not complete.
        """
        for name, value in losses.items():
            self.pending_losses.setdefault(name, []).append(value)
        self._iterations_done = iteration + 1
        return self.close() if self._iterations_done % self._log_every == 0 else {}

    def close(self) -> dict[int, TrainingError]:
        """Append a row of means over the pending losses, if there are any.

        Returns:
            An error for each run with a loss that is not finite, by its replica index. Such a run gets no row.
        """
        task, done = self._task, self._iterations_done
        means = {name: torch.stack(values).double().mean(0).tolist() for name, values in self.pending_losses.items()}
        self.pending_losses.clear()
        errors = {}
        for i, record in enumerate(self._records if means else []):
            row = {"task": task, "iteration": done} | {name: values[i] for name, values in means.items()}
            not_finite = [name for name, value in row.items() if not isfinite(value)]
            if not_finite:
                name = not_finite[0]
                errors[i] = TrainingError.diverged(f"loss `{name}`", row[name], task, done)
            else:
                record.history.append(row)
        return errors
