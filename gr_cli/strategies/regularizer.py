"""Base class of penalties on the solver's parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from gr_cli.strategies.context import State, TaskContext


class Regularizer(ABC):
    """Base class of penalties on the solver's parameters, with gradients in closed form.

    Parameters and gradients are lists of tensors with a leading replica axis, (R, ...), in the order of
    `solver.parameters()`. A penalty on the distance to the parameters of the last task:

        >>> import torch
        >>> class L2ToLastTask(Regularizer):
        ...     def __init__(self, strength=0.1):
        ...         self.strength, self.anchor = strength, []
        ...
        ...     def end_task(self, parameters, context):
        ...         self.anchor = [p.clone() for p in parameters]
        ...
        ...     def penalty(self, parameters):
        ...         if not self.anchor:
        ...             return None  # first task
        ...         gradients = [self.strength * (p - a) for p, a in zip(parameters, self.anchor)]
        ...         values = [(g.square() / (2 * self.strength)).flatten(1).sum(1) for g in gradients]
        ...         return sum(values), gradients
        ...
        ...     def state_dict(self):
        ...         return {"anchor": self.anchor}
        ...
        ...     def load_state_dict(self, state):
        ...         self.anchor = list(state["anchor"])
        >>> regularizer = L2ToLastTask(strength=2.0)
        >>> regularizer.end_task([torch.zeros(1, 3)], context=None)
        >>> value, gradients = regularizer.penalty([torch.ones(1, 3)])
        >>> value, gradients
        (tensor([3.]), [tensor([[2., 2., 2.]])])

    Attributes:
        needs_second_pass: Whether `end_task` passes over the task's samples.
        second_pass_is_streamable: As in `Strategy`.
        includes_generator: Whether the penalty includes the generator's parameters where solver and generator are one
            network with one loss.
        boundary_requirement: What is done at task boundaries, as the end of a sentence for error messages; None: they
            are not used.
    """

    needs_second_pass: ClassVar[bool] = False
    second_pass_is_streamable: ClassVar[bool] = False
    includes_generator: bool = False
    boundary_requirement: str | None = "estimates the importance of parameters at the end of each task"

    @abstractmethod
    def penalty(self, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]] | None:
        """Value (R,) and gradient of the penalty; None in the first task.

        Args:
            parameters: Detached parameters.

        Returns:
            The gradient may be in tensors that are overwritten by the next call; the caller may change them.
        """

    def release_task(self) -> None:  # noqa: B027 most record nothing
        """Discard what was recorded of a task that was not completed."""

    def track_step(self, before: Sequence[Tensor], after: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:  # noqa: B027
        """Record one optimizer step.

        Args:
            before: Copies of the parameters before the step, which may be changed.
            after: Parameters after it.
            gradients: Gradients at `before` of the loss without this penalty.
        """

    @property
    def tracks_trajectory(self) -> bool:
        """Whether `track_step` must be called after each step."""
        return type(self).track_step is not Regularizer.track_step

    @abstractmethod
    def end_task(self, parameters: Sequence[Tensor], context: TaskContext) -> None:
        """Consolidate a completed task: update the importance of each parameter and the anchor."""

    @abstractmethod
    def state_dict(self) -> State:
        """Tensors with the replica axis, and numbers common to all replicas."""

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Restore a state."""
