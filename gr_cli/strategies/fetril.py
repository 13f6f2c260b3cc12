"""FeTrIL: replay of current features translated to earlier class means (Petit et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from gr_cli.nn.class_statistics import ClassStatistics
from gr_cli.nn.random_streams import StreamNames
from gr_cli.nn.replicas import stack_states, unstack
from gr_cli.strategies.closed_form import check_class_sizes, task_samples
from gr_cli.strategies.context import Batch, State, TaskContext, TrainingStep
from gr_cli.strategies.regularizer import Regularizer
from gr_cli.strategies.replay import ReplayBatch, ReplayStrategy
from gr_cli.types import CountsSamplesInMemory, PositiveInt, ReplayWeight, VariesPerReplica


@dataclass
class _Translations:
    """Current samples that stand for E earlier classes.

    Attributes:
        x: Samples of the current task, flat (N, D).
        rows: Positions in `x` of the samples of all current classes, class by class, (N,).
        first: Where the samples of an earlier class's nearest current class begin in `rows`, (E,).
        number: How many there are, (E,).
        shift: Mean of the earlier class less that of its nearest current class, (E, D).
        labels: Output unit of each earlier class, (E,).
    """

    x: Tensor
    rows: Tensor
    first: Tensor
    number: Tensor
    shift: Tensor
    labels: Tensor

    def samples(self, entry: Tensor, uniform: Tensor) -> Tensor:
        """Samples (B, D) for earlier classes `entry` (B,), drawn with `uniform` (B,) in [0, 1)."""
        number = self.number[entry]
        offset = (uniform * number).long().minimum(number - 1)
        return self.x.index_select(0, self.rows[self.first[entry] + offset]) + self.shift[entry]


class FeTrIL(ReplayStrategy):
    """FeTrIL: features of the current task are translated to the means of earlier classes (Petit et al. 2023).

    For an earlier class of mean m, samples of the current class with the most similar mean n, by their cosine, are
    replayed as x - n + m. The solver is trained on current and translated samples. Beyond a task nothing but means and
    counts of its classes is kept. Meant for features of frozen networks (`benchmark/features`); a single linear layer
    (`model.hidden_sizes=[]`), as in the paper, or any network is trained on them, from where the task before left it.

    Args:
        batch_size: Translated samples per iteration; None: as many as there are current samples.
        replay_weight: Weight of the replay loss; the current loss has weight 1. `by_tasks`: in task t (from 1) the
            current loss has weight 1/t and the replay loss 1 - 1/t. `by_old_tasks`: 1 and t - 1.
        regularizer: Penalty on the solver's parameters that is added to the loss; None: no penalty.
    """

    needs_second_pass = True
    boundary_requirement = "needs the means of a task's classes before its first step"

    def __init__(
        self,
        batch_size: Annotated[PositiveInt | None, CountsSamplesInMemory] = None,
        replay_weight: Annotated[ReplayWeight, VariesPerReplica] = "by_tasks",
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(replay_weight, 1.0, regularizer)
        self.batch_size = batch_size
        self.statistics: list[ClassStatistics] = []  # of each replica, of earlier tasks
        self._translations: list[_Translations] = []  # of each replica, in the current task
        self._drawn: tuple[TrainingStep, ReplayBatch] | None = None

    def _set_up_task(self, context: TaskContext) -> None:
        super()._set_up_task(context)
        self._translations, self._drawn = [], None
        if not self.statistics:
            self.statistics = [ClassStatistics() for _ in range(context.streams.replicas)]

    def release_task(self) -> None:
        super().release_task()
        self._translations, self._drawn = [], None

    def replay(self, batch: Batch, step: TrainingStep) -> ReplayBatch | None:
        """Current samples translated to earlier classes, which are drawn uniformly; None in the first task."""
        if not self.statistics[0].tasks:
            return None
        if self._drawn is None or self._drawn[0] != step:
            self._drawn = (step, self._draw(batch, step))
        return self._drawn[1]

    def _draw(self, batch: Batch, step: TrainingStep) -> ReplayBatch:
        context, size = self._context, self.batch_size or batch.x.shape[1]
        if not self._translations:
            self._translations = [
                _translations(*task_samples(context.sample_pass(replica)), statistics)
                for replica, statistics in enumerate(self.statistics)
            ]
        choice = context.uniform(f"{StreamNames.PSEUDO_FEATURES}.class", size, step)
        uniform = context.uniform(StreamNames.PSEUDO_FEATURES, size, step)
        samples, labels = [], []
        for replica, translations in enumerate(self._translations):
            number = len(translations.labels)
            entry = (choice[replica] * number).long().clamp(max=number - 1)
            samples.append(translations.samples(entry, uniform[replica]))
            labels.append(translations.labels[entry])
        x, y = torch.stack(samples).view(-1, size, *batch.x.shape[2:]), torch.stack(labels)
        return ReplayBatch(x.to(batch.x.dtype), y.unsqueeze(2), batch.units_competing_with(y))

    def end_task(self, context: TaskContext) -> None:
        units = context.task_units[context.task].nonzero().squeeze(1).tolist()
        with torch.autocast(context.streams.device.type, enabled=False):
            for replica, statistics in enumerate(self.statistics):
                x, y = task_samples(context.sample_pass(replica))
                check_class_sizes(y, context.task)
                statistics.add(context.task, x, y, units)

    def state_dict(self) -> State:
        states = [each.state_dict() for each in self.statistics]
        return super().state_dict() | {"statistics": stack_states(states) if states else None}

    def load_state_dict(self, state: State, context: TaskContext) -> None:
        super().load_state_dict(state, context)
        for replica, statistics in enumerate(self.statistics):
            statistics.load_state_dict({"tasks": [], "total": None})
            if state["statistics"] is not None:
                statistics.load_state_dict(unstack(state["statistics"], replica))


@torch.no_grad()
def _translations(x: Tensor, y: Tensor, earlier: ClassStatistics) -> _Translations:
    """How the samples x (N, D) of a task, with units y (N,), stand for each class of each earlier task."""
    current = ClassStatistics()
    current.add(0, x, y)
    means, labels = [], []
    for task in earlier.tasks:
        has_samples = task.counts > 0
        means.append(task.sums[has_samples] / task.counts[has_samples].unsqueeze(1))
        labels += task.classes
    earlier_means = torch.cat(means)
    similarity = F.normalize(earlier_means, dim=1) @ F.normalize(current.means, dim=1).T  # (E, K)
    nearest = similarity.argmax(1)
    counts = current.counts.long()
    first = counts.cumsum(0) - counts
    return _Translations(
        x,
        y.argsort(stable=True),
        first[nearest],
        counts[nearest],
        (earlier_means - current.means[nearest]).to(x.dtype),
        torch.tensor(labels, device=x.device),
    )
