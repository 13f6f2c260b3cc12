"""Class-, domain- and task-incremental learning (van de Ven & Tolias 2019).

A scenario maps labels to output units, and says which units compete in training, testing and replay. All of it
follows from `task_units`, a boolean table (T, U) of the units of each task. No other module depends on the name of
the scenario.
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
ActiveClasses = Literal["seen", "all", "task"]


@dataclass(frozen=True)
class Scenario:
    """How labels map to output units, and which units compete.

    Attributes:
        name: `class`, `domain` or `task` (incremental).
        active_classes: Units that compete on current samples during class-incremental training: of classes `seen` so
            far, of `all`, or of the current `task` (the labels trick, Zeno et al. 2018).
        classes_recur: Whether some classes occur in more than one task of the stream.
    """

    name: ScenarioName = "class"
    active_classes: ActiveClasses = "seen"
    classes_recur: bool = False

    def unit_offsets(self, class_counts: Sequence[int], repeats: Sequence[int | None] = ()) -> list[int]:
        """The output unit of each task's first class.

        Args:
            class_counts: Number of classes of each task.
            repeats: For each task with classes of an earlier task, that task; None for tasks with new classes.
        """
        if not self.units_are_task_specific:
            return [0] * len(class_counts)
        offsets: list[int] = []
        next_unit = 0
        for count, repeated in zip_longest(class_counts, repeats):
            offsets.append(next_unit if repeated is None else offsets[repeated])
            next_unit += count if repeated is None else 0
        return offsets

    def task_units(self, class_counts: Sequence[int], repeats: Sequence[int | None] = ()) -> Tensor:
        """The units of each task: bool (T, U).

        Args:
            class_counts: Number of classes of each task.
            repeats: As for `unit_offsets`.

        Raises:
            ConfigError: Domain-incremental tasks have different numbers of classes.
        """
        if not self.units_are_task_specific and len(set(class_counts)) > 1:
            raise ConfigError(
                "scenario",
                self.name,
                "tasks share their output units and must have the same number of classes, not "
                + ", ".join(map(str, class_counts)),
                "try scenario=class or scenario=task",
            )
        offsets = self.unit_offsets(class_counts, repeats)
        num_units = max(start + count for start, count in zip(offsets, class_counts, strict=True))
        table = torch.zeros(len(class_counts), num_units, dtype=torch.bool)
        for row, start, count in zip(table, offsets, class_counts, strict=True):
            row[start : start + count] = True
        return table

    def training_units(self, task_units: Tensor, task: int) -> Tensor:
        """Units that compete on current samples while `task` is trained: bool (U,)."""
        return task_units[task] if self._trains_tasks_apart else self._replay_training_units(task_units, task)

    @property
    def _trains_tasks_apart(self) -> bool:
        """Whether the units of the current task alone compete on its samples."""
        return self.name == "task" or (self.name == "class" and self.active_classes == "task")

    def _replay_training_units(self, task_units: Tensor, task: int) -> Tensor:
        """Units that compete on samples of any task while `task` is trained, where tasks share a softmax: (U,)."""
        if self.name == "class" and self.active_classes == "all":
            return torch.ones_like(task_units[0])
        return task_units[: task + 1].any(0)

    def joint_units(self, task_units: Tensor, task_of_sample: Tensor, last_task: int) -> Tensor:
        """Units that compete on each sample when tasks up to `last_task` are trained jointly: (N,) -> bool (N, U)."""
        if self._trains_tasks_apart:
            return task_units[task_of_sample]
        return self.training_units(task_units, last_task).expand(task_of_sample.shape[0], -1)

    @property
    def units_are_task_specific(self) -> bool:
        """Whether each task has output units of its own (class- and task-incremental)."""
        return self.name != "domain"

    @property
    def classes_are_disjoint(self) -> bool:
        """Whether each class occurs in one task only and has units of its own."""
        return self.units_are_task_specific and not self.classes_recur

    @property
    def task_id_available(self) -> bool:
        """Whether the task of a test sample is given (task-incremental)."""
        return self.name == "task"

    @property
    def is_class_incremental(self) -> bool:
        """Whether a unit is one class in all tasks, and all units compete at the end."""
        return self.name == "class"

    @property
    def defined_on_unseen_tasks(self) -> bool:
        """Whether a task can be evaluated before it is trained, as forward transfer requires."""
        return self.name != "class"

    def testing_units(self, task_units: Tensor, task: int, last_trained_task: int) -> Tensor:
        """Units that compete on test samples of `task` after training `last_trained_task` (-1: none): bool (U,)."""
        if self.name == "task":
            return task_units[task]
        # Before the first task the untrained network predicts among all classes.
        if self.name == "domain" or last_trained_task < 0:
            return task_units.any(0)
        return task_units[: last_trained_task + 1].any(0)

    def known_units(self, task_units: Tensor, task: int) -> Tensor:
        """Units that compete when the teacher labels replayed samples in `task`: bool (H, U).

        In the task-incremental scenario each earlier task's head gives a target, H = task; else H = 1.
        """
        return task_units[:task] if self.name == "task" else task_units[:task].any(0, keepdim=True)

    def replay_units(self, task_units: Tensor, task: int) -> Tensor:
        """Units that compete on replayed samples while `task` is trained: bool (H, U), H as in `known_units`."""
        return task_units[:task] if self.name == "task" else self._replay_training_units(task_units, task).unsqueeze(0)

    def competing_units(self, task_units: Tensor, task: int) -> Tensor:
        """Units that compete on a stored sample with a known label while `task` is trained.

        Returns:
            bool (U, U), row u for label u; all units in the rows of units not seen yet.
        """
        if self.name != "task":
            return self._replay_training_units(task_units, task).expand(task_units.shape[1], -1)
        seen = task_units[: task + 1].float()
        same_task = seen.T @ seen > 0
        return same_task | ~same_task.any(1, keepdim=True)

    def task_of_unit(self, task_units: Tensor, task: int) -> Tensor | None:
        """The task before `task` of each unit, (U,) with -1 for none.

        None outside class-incremental learning, and where tasks share units.
        """
        if self.name != "class" or bool((task_units[:task].sum(0) > 1).any()):
            return None
        task_numbers = torch.arange(1, task + 1, device=task_units.device).unsqueeze(1)
        return (task_units[:task] * task_numbers).sum(0) - 1
