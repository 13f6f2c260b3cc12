"""The one place that knows what class-, domain- and task-incremental mean (van de Ven & Tolias 2019).

A scenario says which output unit a label is and which units compete, while training, while testing and for replay.
All of it follows from `heads`, a boolean table (T, U): which units belong to which task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

import torch
from torch import Tensor

from gr_cli.errors import ConfigError

ScenarioName = Literal["class", "domain", "task"]


@dataclass(frozen=True)
class Scenario:
    """How labels become output units. `active_classes` concerns training in the class-incremental scenario only.

    `recurring`: whether there are classes that come in more than one task of the stream.
    """

    name: ScenarioName = "class"
    active_classes: Literal["seen", "all"] = "seen"
    classes_recur: bool = False

    def unit_offsets(self, class_counts: Sequence[int], repeats: Sequence[int | None] = ()) -> list[int]:
        """The output unit of each task's first class: its tasks share units (domain) or have units of their own, but
        for those whose classes come again: `repeats` names the earlier task that had them."""
        if not self.units_are_task_specific:
            return [0] * len(class_counts)
        offsets: list[int] = []
        free = 0
        for count, earlier in zip_longest(class_counts, repeats):
            offsets.append(free if earlier is None else offsets[earlier])
            free += count if earlier is None else 0
        return offsets

    def task_units(self, class_counts: Sequence[int], repeats: Sequence[int | None] = ()) -> Tensor:
        """Which units belong to which task: bool (T, U).

        Raises:
            ConfigError: tasks would share units that mean different things.
        """
        if not self.units_are_task_specific and len(set(class_counts)) > 1:
            raise ConfigError(
                "scenario",
                self.name,
                "all tasks share their output units and must have equally many classes, not "
                + ", ".join(map(str, class_counts)),
                "try scenario=class or scenario=task",
            )
        offsets = self.unit_offsets(class_counts, repeats)
        width = max(start + count for start, count in zip(offsets, class_counts, strict=True))
        table = torch.zeros(len(class_counts), width, dtype=torch.bool)
        for row, start, count in zip(table, offsets, class_counts, strict=True):
            row[start : start + count] = True
        return table

    def training_units(self, task_units: Tensor, task: int) -> Tensor:
        """Units that compete on a sample of `task` while that task is learnt: bool (U,)."""
        if self.name == "task":
            return task_units[task]
        if self.name == "class" and self.active_classes == "all":
            return torch.ones_like(task_units[0])
        return task_units[: task + 1].any(0)

    def joint_units(self, task_units: Tensor, task_of_sample: Tensor, last_task: int) -> Tensor:
        """Units that compete on each sample when tasks up to `last` are trained together: (N,) -> bool (N, U)."""
        if self.name == "task":
            return task_units[task_of_sample]
        return self.training_units(task_units, last_task).expand(task_of_sample.shape[0], -1)

    @property
    def units_are_task_specific(self) -> bool:
        """Whether a task has output units of its own, instead of all tasks sharing them."""
        return self.name != "domain"

    @property
    def classes_are_disjoint(self) -> bool:
        """Whether all that is ever seen of a class is seen in one task."""
        return self.units_are_task_specific and not self.classes_recur

    @property
    def task_id_available(self) -> bool:
        """Whether it is known of each sample which task it is from."""
        return self.name == "task"

    @property
    def is_class_incremental(self) -> bool:
        """Whether a unit stands for the same class in all tasks, and all compete in the end."""
        return self.name == "class"

    @property
    def defined_on_unseen_tasks(self) -> bool:
        """Whether a task not yet learnt can be answered at all, so that forward transfer means something."""
        return self.name != "class"

    def testing_units(self, task_units: Tensor, task: int, last_trained_task: int) -> Tensor:
        """Units that compete on a test sample of `task` when tasks up to `learnt` are learnt (-1: none): bool (U,)."""
        if self.name == "task":
            return task_units[task]
        # Before any training no class has been seen: the untrained network chooses among all.
        return (
            task_units.any(0)
            if self.name == "domain" or last_trained_task < 0
            else task_units[: last_trained_task + 1].any(0)
        )

    def known_units(self, task_units: Tensor, task: int) -> Tensor:
        """Units that compete when the solver, as it stands before `task`, labels a replayed sample: bool (H, U).

        In the task-incremental scenario such a sample gets a target from each earlier head, H = task; else H = 1.
        """
        return task_units[:task] if self.name == "task" else task_units[:task].any(0, keepdim=True)

    def replay_units(self, task_units: Tensor, task: int) -> Tensor:
        """Units that compete on a replayed sample while `task` is learnt: bool (H, U), H as in `teacher_units`."""
        return task_units[:task] if self.name == "task" else self.training_units(task_units, task).unsqueeze(0)

    def competing_units(self, task_units: Tensor, task: int) -> Tensor:
        """Units that compete, while `task` is learnt, on a kept sample whose label is known: bool (U, U), row u for
        label u; a row of a unit not yet seen has all."""
        if self.name != "task":
            return self.training_units(task_units, task).expand(task_units.shape[1], -1)
        mine = (task_units[: task + 1].unsqueeze(2) & task_units[: task + 1].unsqueeze(1)).any(0)
        return mine | ~mine.any(1, keepdim=True)

    def task_of_unit(self, task_units: Tensor, task: int) -> Tensor | None:
        """The task before `task` that each unit belongs to, (U,) with -1 for none; None where a unit can't tell."""
        if self.name != "class" or bool((task_units[:task].sum(0) > 1).any()):
            return None
        ids = torch.arange(1, task + 1, device=task_units.device).unsqueeze(1)
        return (task_units[:task] * ids).sum(0) - 1
