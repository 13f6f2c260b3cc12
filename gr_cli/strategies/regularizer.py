"""Penalties on the solver's parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from gr_cli.strategies.context import State, TaskContext


class Regularizer(ABC):
    """A penalty on the solver's parameters, beside whatever else is trained. Its gradient is known in closed form.

    Parameters and gradients are lists of tensors with a leading replica axis, (R, ...), in the order of
    `solver.parameters()`.

    `looks_again`: whether it goes through a task's samples once more when it is over.
    `covers_all`: whether it is on all parameters where solver and generator are one network with one loss.
    `needs_boundaries`: what it does where a task ends, and so must be told of; empty: it can do without.
    """

    needs_second_pass: ClassVar[bool] = False
    includes_generator: bool = False
    boundary_requirement: str = "learns what is important when a task is over"

    @abstractmethod
    def penalty(self, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]] | None:
        """Its value (R,) and its gradient; None while there is nothing to keep."""

    def release_task(self) -> None:  # noqa: B027 most note nothing
        """Forget what was noted of a task that did not come to its end."""

    def track_step(self, before: Sequence[Tensor], after: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:  # noqa: B027
        """Take note of a step: `gradients` are those of the loss without this penalty, taken at `before`."""

    @property
    def tracks_trajectory(self) -> bool:
        """Whether it must see every step that is taken: it does something in `follow`."""
        return type(self).track_step is not Regularizer.track_step

    @abstractmethod
    def end_task(self, parameters: Sequence[Tensor], context: TaskContext) -> None:
        """Learn from a task that is over what is important to it."""

    @abstractmethod
    def state_dict(self) -> State:
        """Tensors, with the replica axis, and numbers common to all."""

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Take up what `state_dict` gave."""
