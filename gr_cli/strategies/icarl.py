"""iCaRL: exemplars chosen by herding, and classification by the nearest mean of exemplars."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.errors import ConfigError
from gr_cli.nn.layers import HasFeatures, per_replica, train_mode
from gr_cli.nn.losses import weighted_sum
from gr_cli.nn.random_streams import StreamNames
from gr_cli.scenario import Scenario
from gr_cli.strategies.base import Strategy
from gr_cli.strategies.context import Batch, LossTerm, SolverForward, State, TaskContext, TrainingStep, optional_state
from gr_cli.strategies.exemplar_buffer import ClassSamples, ExemplarBuffer
from gr_cli.strategies.regularizer import Regularizer
from gr_cli.types import CountsSamplesInMemory, Positive, PositiveInt, VariesPerReplica

_NO_EXEMPLARS_SCORE = -5.0  # below -4, the smallest negative squared distance of two unit vectors
_CHUNK_SIZE = 1000  # samples per forward pass


class ICaRL(Strategy):
    """iCaRL: exemplars by herding, classified by the nearest mean of exemplars (Rebuffi et al. 2017).

    The solver is trained with a binary cross-entropy per class: current classes with their labels, earlier classes
    with the sigmoid outputs of the solver as it was before the task (distillation). At the end of a task, exemplars
    of each class are chosen such that the mean of their features approximates that of the class (herding, algorithm
    4). A sample is classified by the nearest class mean of exemplar features (algorithm 1); until the end of the
    first task by the solver's own output. Class-incremental only.

    Args:
        per_class: Largest number of exemplars of each class.
        budget: Exemplars of all classes together, divided evenly between them; None: only `per_class` limits them.
        batch_size: Exemplars appended to each batch; None: each sample of a batch is replaced by an exemplar with the
            exemplars' share in the union of task and exemplars (algorithm 3).
        temperature: Temperature of the earlier solver's outputs in the distillation term: 1 in the paper, 2 in van de
            Ven et al. (2022).
        regularizer: Penalty on the solver's parameters that is added to the loss; None: no penalty.
    """

    uses_teacher = True
    stores_raw_samples = True
    needs_second_pass = True
    boundary_requirement = "selects exemplars of each class at the end of a task"

    def __init__(
        self,
        per_class: Annotated[PositiveInt, CountsSamplesInMemory] = 100,
        budget: PositiveInt | None = None,
        batch_size: Annotated[PositiveInt | None, CountsSamplesInMemory] = None,
        temperature: Annotated[Positive, VariesPerReplica] = 2.0,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(regularizer)
        self.per_class, self.budget, self.batch_size = per_class, budget, batch_size
        self.temperature: float | Tensor = temperature
        self.exemplars: ExemplarBuffer | None = None

    def check(self, scenario: Scenario, solver: nn.Module) -> None:
        if not scenario.is_class_incremental:
            raise ConfigError(
                "scenario",
                scenario.name,
                "iCaRL needs one output unit per class, all of which compete",
                "try scenario=class",
            )
        if not isinstance(solver, HasFeatures):
            raise ConfigError(
                "model", type(solver).__name__, "iCaRL needs a model with features and readout", "try model=mlp"
            )

    def _set_up_task(self, context: TaskContext) -> None:
        super()._set_up_task(context)
        self._exemplar_fraction: Tensor | None = None

    def _mix_in_exemplars(self, exemplars: ExemplarBuffer, batch: Batch, step: TrainingStep) -> tuple[Tensor, Tensor]:
        """Samples and labels of a step: current samples with exemplars appended or mixed in."""
        num_exemplars = self.batch_size or batch.y.shape[1]
        drawn = exemplars.sample(self._context.uniform(StreamNames.REPLAY_CHOICE, num_exemplars, step))
        if self.batch_size is not None:
            return torch.cat([batch.x, drawn[0]], 1), torch.cat([batch.y, drawn[1]], 1)
        if self._exemplar_fraction is None:
            task_sizes = [sum(len(y) for _, y in self._context.sample_pass(r)) for r in range(len(batch.y))]
            size = torch.tensor(task_sizes, device=batch.y.device).unsqueeze(1)
            num_stored = exemplars.num_samples.unsqueeze(1)
            self._exemplar_fraction = num_stored / (num_stored + size)  # (R, 1)
        replaced = self._context.uniform(StreamNames.EXEMPLAR_MIXING, batch.y.shape[1], step) < self._exemplar_fraction
        x = torch.where(replaced.view(*replaced.shape, *[1] * (batch.x.dim() - 2)), drawn[0], batch.x)
        return x, torch.where(replaced, drawn[1], batch.y)

    def loss(self, solver: SolverForward, batch: Batch, step: TrainingStep) -> dict[str, LossTerm]:
        x, y = batch.x, batch.y
        if self.exemplars is not None:
            x, y = self._mix_in_exemplars(self.exemplars, batch, step)
        logits = solver(x)
        target = F.one_hot(y, logits.shape[-1]).to(logits.dtype)
        seen_units = batch.competing_units[0]  # class-incremental: the same for every label
        old_units = torch.zeros_like(seen_units) if self.teacher is None else self._context.known_units[0]
        if self.teacher is not None:
            with torch.no_grad():
                teacher_logits = self.teacher.call("__call__", x).to(logits.dtype)
                target = torch.where(
                    old_units, (teacher_logits / per_replica(self.temperature, teacher_logits)).sigmoid(), target
                )
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")  # (R, B, U)
        terms = {"current": LossTerm(weighted_sum((losses * (seen_units & ~old_units)).sum(-1), None))}
        if self.teacher is not None:
            terms["distillation"] = LossTerm(weighted_sum((losses * old_units).sum(-1), None))
        return terms

    def end_task(self, context: TaskContext) -> None:
        per_class = self.per_class
        if self.budget is not None:
            per_class = max(1, min(per_class, self.budget // int(context.task_units.any(0).sum())))
        networks = context.solver.modules
        new = ExemplarBuffer.from_task(
            context, per_class, lambda replica: partial(_herding_selection, networks[replica])
        )
        if self.exemplars is not None:
            new = ExemplarBuffer.concatenate([self.exemplars.truncate(per_class), new])
        self.exemplars = new

    def classifier(self, replica: int, solver: nn.Module) -> Callable[[Tensor], Tensor]:
        """Negative squared distance to each class's mean of exemplar features (Rebuffi et al. 2017, algorithm 1)."""
        if self.exemplars is None:
            return solver
        means: dict[int, Tensor] = {}
        with torch.no_grad(), train_mode(solver, training=False):
            for unit, x in self.exemplars.classes_of(replica):
                means[unit] = F.normalize(_features(solver, x).mean(0), dim=0)
        units, centres = torch.tensor(list(means), device=x.device), torch.stack(list(means.values()))

        def classify(x: Tensor) -> Tensor:
            own_scores = -torch.cdist(_features(solver, x), centres).square()
            scores = own_scores.new_full((x.shape[0], self._context.task_units.shape[1]), _NO_EXEMPLARS_SCORE)
            scores[:, units] = own_scores
            return scores

        return classify

    def state_dict(self) -> State:
        return super().state_dict() | {"exemplars": optional_state(self.exemplars)}

    def load_state_dict(self, state: State, context: TaskContext) -> None:
        super().load_state_dict(state, context)
        self.exemplars = ExemplarBuffer.from_state(state["exemplars"])


def _features(solver: nn.Module, x: Tensor) -> Tensor:
    """Features of unit length: (B, ...) -> (B, F)."""
    features = torch.cat([cast(HasFeatures, solver).features(chunk) for chunk in x.split(_CHUNK_SIZE)])
    return F.normalize(features.to(x.dtype), dim=1)


@torch.no_grad()
def _herding_selection(solver: nn.Module, samples: ClassSamples, max_selected: int) -> Tensor:
    x = samples.read()  # at once: another pass could have another order
    return x[herding(_features(solver, x), max_selected)]


def herding(features: Tensor, max_selected: int) -> Tensor:
    """Herding selection of exemplars (Rebuffi et al. 2017, algorithm 4).

    Greedily selects samples, without replacement, such that the mean of the selected features is closest to the mean
    of all, scaled to length 1 as in the paper's code.

    Args:
        features: Features (N, F).
        max_selected: Largest number of samples to select.

    Returns:
        Indices of the selected samples, in order of selection.
    """
    mean, selected = F.normalize(features.mean(0), dim=0), []
    lengths, total = features.square().sum(1), torch.zeros_like(mean)
    for k in range(1, min(max_selected, features.shape[0]) + 1):
        # |mean - (total + f) / k|^2 times k^2, without terms that are equal for all f.
        distance = lengths - 2 * (features @ (k * mean - total))
        pick = distance.argmin()
        selected.append(pick)
        total = total + features[pick]
        lengths = lengths.index_fill(0, pick, torch.inf)
    return torch.stack(selected)
