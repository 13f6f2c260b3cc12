"""Separate networks: a newly initialised one for each task, as a reference without any transfer."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from gr_cli.nn.losses import Targets
from gr_cli.nn.replicas import Replicas
from gr_cli.scenario import Scenario
from gr_cli.strategies.base import Strategy
from gr_cli.strategies.context import Batch, State, TaskContext, optional_state


class SeparateNetworks(Strategy):
    """Separate networks: each task has its own, trained on this task alone (single-task learning).

    All networks start from the same initial parameters, with a new optimizer state. The task of a sample is given in
    training and testing, in every scenario: only the task's own output units compete. So there is neither forgetting
    nor transfer, and the memory grows with the number of tasks.
    """

    restarts_solver = True
    needs_task_identity = True
    scores_depend_on_batch = True  # a batch has one task, which chooses the network
    reference_for = "transfer"
    boundary_requirement = "trains a network of its own for each task"

    def __init__(self) -> None:
        super().__init__()
        self.initial: Replicas[nn.Module] | None = None
        self.networks: list[Replicas[nn.Module]] = []
        self._task = -1

    def begin_task(self, context: TaskContext) -> None:
        super().begin_task(context)
        del self.networks[context.task :]  # of a task that was not completed
        if self.initial is None:
            self.initial = context.solver.frozen_copy()
        context.solver.load_state_dict(self.initial.state_dict())

    def _set_up_task(self, context: TaskContext) -> None:
        super()._set_up_task(context)
        self._task = context.task

    def current_targets(self, batch: Batch) -> Targets:
        """The labels, among the output units of the current task."""
        return Targets(batch.y.unsqueeze(-1), self._context.task_units[-1])

    def end_task(self, context: TaskContext) -> None:
        self.networks.append(context.solver.frozen_copy())

    def classifier(self, replica: int, solver: nn.Module) -> Callable[..., Tensor]:
        """The function of samples and their task: the output of its network, an untrained one for later tasks."""
        trained = {task: network.module_of(replica) for task, network in enumerate(self.networks)}
        untrained = solver if self.initial is None else self.initial.module_of(replica)

        def logits(x: Tensor, task: int) -> Tensor:
            network = solver if task == self._task else untrained
            result: Tensor = trained.get(task, network)(x)
            return result

        return logits

    def testing_units(self, scenario: Scenario, task_units: Tensor, task: int, last_trained_task: int) -> Tensor:
        return task_units[task]

    def state_dict(self) -> State:
        return super().state_dict() | {
            "initial": optional_state(self.initial),
            "networks": [network.state_dict() for network in self.networks],
        }

    def load_state_dict(self, state: State, context: TaskContext) -> None:
        super().load_state_dict(state, context)

        def restored(values: State) -> Replicas[nn.Module]:
            network = context.solver.frozen_copy()
            network.load_state_dict(values)
            return network

        self.initial = None if state["initial"] is None else restored(state["initial"])
        self.networks = [restored(values) for values in state["networks"]]
