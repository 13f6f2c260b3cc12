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

Kind = Literal["class", "domain", "task"]


@dataclass(frozen=True)
class Scenario:
    """How labels become output units. `active_classes` concerns training in the class-incremental scenario only.

    `recurring`: whether there are classes that come in more than one task of the stream.
    """

    kind: Kind = "class"
    active_classes: Literal["seen", "all"] = "seen"
    recurring: bool = False

    def offsets(self, class_counts: Sequence[int], repeats: Sequence[int | None] = ()) -> list[int]:
        """The output unit of each task's first class: its tasks share units (domain) or have units of their own, but
        for those whose classes come again: `repeats` names the earlier task that had them."""
        if not self.tasks_have_units:
            return [0] * len(class_counts)
        offsets: list[int] = []
        free = 0
        for count, earlier in zip_longest(class_counts, repeats):
            offsets.append(free if earlier is None else offsets[earlier])
            free += count if earlier is None else 0
        return offsets

    def heads(self, class_counts: Sequence[int], repeats: Sequence[int | None] = ()) -> Tensor:
        """Which units belong to which task: bool (T, U).

        Raises:
            ConfigError: tasks would share units that mean different things.
        """
        if not self.tasks_have_units and len(set(class_counts)) > 1:
            raise ConfigError(
                "scenario",
                self.kind,
                "all tasks share their output units and must have equally many classes, not "
                + ", ".join(map(str, class_counts)),
                "try scenario=class or scenario=task",
            )
        offsets = self.offsets(class_counts, repeats)
        width = max(start + count for start, count in zip(offsets, class_counts, strict=True))
        table = torch.zeros(len(class_counts), width, dtype=torch.bool)
        for row, start, count in zip(table, offsets, class_counts, strict=True):
            row[start : start + count] = True
        return table

    def training_units(self, heads: Tensor, task: int) -> Tensor:
        """Units that compete on a sample of `task` while that task is learnt: bool (U,)."""
        if self.kind == "task":
            return heads[task]
        if self.kind == "class" and self.active_classes == "all":
            return torch.ones_like(heads[0])
        return heads[: task + 1].any(0)

    def joint_units(self, heads: Tensor, task_of_sample: Tensor, last: int) -> Tensor:
        """Units that compete on each sample when tasks up to `last` are trained together: (N,) -> bool (N, U)."""
        if self.kind == "task":
            return heads[task_of_sample]
        return self.training_units(heads, last).expand(task_of_sample.shape[0], -1)

    @property
    def tasks_have_units(self) -> bool:
        """Whether a task has output units of its own, instead of all tasks sharing them."""
        return self.kind != "domain"

    @property
    def classes_come_once(self) -> bool:
        """Whether all that is ever seen of a class is seen in one task."""
        return self.tasks_have_units and not self.recurring

    @property
    def tells_tasks(self) -> bool:
        """Whether it is known of each sample which task it is from."""
        return self.kind == "task"

    @property
    def units_are_classes(self) -> bool:
        """Whether a unit stands for the same class in all tasks, and all compete in the end."""
        return self.kind == "class"

    @property
    def answers_unseen(self) -> bool:
        """Whether a task not yet learnt can be answered at all, so that forward transfer means something."""
        return self.kind != "class"

    def testing_units(self, heads: Tensor, task: int, learnt: int) -> Tensor:
        """Units that compete on a test sample of `task` when tasks up to `learnt` are learnt (-1: none): bool (U,)."""
        if self.kind == "task":
            return heads[task]
        # Before any training no class has been seen: the untrained network chooses among all.
        return heads.any(0) if self.kind == "domain" or learnt < 0 else heads[: learnt + 1].any(0)

    def teacher_units(self, heads: Tensor, task: int) -> Tensor:
        """Units that compete when the solver, as it stands before `task`, labels a replayed sample: bool (H, U).

        In the task-incremental scenario such a sample gets a target from each earlier head, H = task; else H = 1.
        """
        return heads[:task] if self.kind == "task" else heads[:task].any(0, keepdim=True)

    def replay_units(self, heads: Tensor, task: int) -> Tensor:
        """Units that compete on a replayed sample while `task` is learnt: bool (H, U), H as in `teacher_units`."""
        return heads[:task] if self.kind == "task" else self.training_units(heads, task).unsqueeze(0)

    def rivals(self, heads: Tensor, task: int) -> Tensor:
        """Units that compete, while `task` is learnt, on a kept sample whose label is known: bool (U, U), row u for
        label u; a row of a unit not yet seen has all."""
        if self.kind != "task":
            return self.training_units(heads, task).expand(heads.shape[1], -1)
        mine = (heads[: task + 1].unsqueeze(2) & heads[: task + 1].unsqueeze(1)).any(0)
        return mine | ~mine.any(1, keepdim=True)

    def task_of_unit(self, heads: Tensor, task: int) -> Tensor | None:
        """The task before `task` that each unit belongs to, (U,) with -1 for none; None where a unit can't tell."""
        if self.kind != "class" or bool((heads[:task].sum(0) > 1).any()):
            return None
        ids = torch.arange(1, task + 1, device=heads.device).unsqueeze(1)
        return (heads[:task] * ids).sum(0) - 1
