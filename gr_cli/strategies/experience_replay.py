"""Experience replay of stored exemplars, and A-GEM as the same with a constraint."""

from __future__ import annotations

from typing import Annotated, Literal

import torch

from gr_cli.nn.random_streams import StreamNames
from gr_cli.strategies.context import Batch, LossTerm, State, TaskContext, TrainingStep, optional_state
from gr_cli.strategies.exemplar_buffer import ExemplarBuffer, ExemplarDraws, Selection
from gr_cli.strategies.regularizer import Regularizer
from gr_cli.strategies.replay import ReplayBatch, ReplayStrategy
from gr_cli.types import CountsSamplesInMemory, PositiveInt, ReplayWeight, VariesPerReplica


class ExperienceReplay(ReplayStrategy):
    """Experience replay of stored samples of each class (Rolnick et al. 2019); A-GEM as a constraint.

    At the end of a task, `per_class` samples of each of its classes are chosen at random and stored. Each iteration
    replays a batch of stored samples of earlier tasks. With `use=constraint` this is A-GEM (Chaudhry et al. 2019):
    the gradient of the current loss is projected (eq. 11, `gr_cli.nn.gradient_projection`) wherever it would
    increase the loss on the stored samples.

    Args:
        per_class: Samples stored of each class of each task.
        batch_size: Stored samples replayed per iteration; None: as many as there are current samples.
        replay_weight: Weight of the replay loss; the current loss has weight 1. `by_tasks`: in task t (from 1) the
            current loss has weight 1/t and the replay loss 1 - 1/t. `by_old_tasks`: 1 and t - 1. A constraint has no
            weight.
        use: How the loss on stored samples is used: added to the current loss (`loss`), or as a constraint on the
            gradient of the current loss (`constraint`, A-GEM).
        regularizer: Penalty on the solver's parameters that is added to the loss; None: no penalty.
    """

    stores_raw_samples = True
    needs_second_pass = True
    second_pass_is_streamable = True
    boundary_requirement = (
        "selects samples of each class at the end of a task; "
        "strategy=er_plus strategy.alpha=0 is experience replay from a reservoir buffer, without boundaries"
    )

    def __init__(
        self,
        per_class: Annotated[PositiveInt, CountsSamplesInMemory] = 100,
        batch_size: Annotated[PositiveInt | None, CountsSamplesInMemory] = None,
        replay_weight: Annotated[ReplayWeight, VariesPerReplica] = "by_tasks",
        use: Literal["loss", "constraint"] = "loss",
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(replay_weight, 1.0, regularizer)
        self.per_class, self.batch_size, self.use = per_class, batch_size, use
        self.exemplars: ExemplarBuffer | None = None

    def _set_up_task(self, context: TaskContext) -> None:
        super()._set_up_task(context)
        self._draws = ExemplarDraws(context.streams, StreamNames.REPLAY_CHOICE)

    def replay(self, batch: Batch, step: TrainingStep) -> ReplayBatch | None:
        """Stored samples drawn uniformly; the units of their own task or of all tasks so far compete."""
        if self.exemplars is None:
            return None
        x, y = self._draws.at_step(self.exemplars, self.batch_size or batch.x.shape[1], step)
        return ReplayBatch(x, y.unsqueeze(2), batch.units_competing_with(y))

    def loss_terms(self, current: LossTerm, replay: LossTerm) -> dict[str, LossTerm]:
        terms = super().loss_terms(current, replay)
        if self.use == "loss":
            return terms
        return {
            "current": terms["current"].replace(weight=1.0),
            "replay": terms["replay"].replace(is_constraint=True),
        }

    def end_task(self, context: TaskContext) -> None:
        new = ExemplarBuffer.from_task(
            context, self.per_class, lambda replica: self._random_selection(context, replica)
        )
        self.exemplars = new if self.exemplars is None else ExemplarBuffer.concatenate([self.exemplars, new])

    def _random_selection(self, context: TaskContext, replica: int) -> Selection:
        generator = context.streams.generator(replica, StreamNames.EXEMPLARS, context.task)
        return lambda samples, max_samples: samples.at(
            torch.randperm(len(samples), generator=generator, device=generator.device)[:max_samples]
        )

    def state_dict(self) -> State:
        return super().state_dict() | {"exemplars": optional_state(self.exemplars)}

    def load_state_dict(self, state: State, context: TaskContext) -> None:
        super().load_state_dict(state, context)
        self.exemplars = ExemplarBuffer.from_state(state["exemplars"])
