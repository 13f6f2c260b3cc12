"""What the solver of generative replay learns about generated samples, and about current ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gr_cli.errors import ConfigError
from gr_cli.generators.base import Generator
from gr_cli.nn.replicas import Replicas
from gr_cli.scenario import Scenario
from gr_cli.strategies.generated_samples import LikelihoodTargets
from gr_cli.strategies.replay import teacher_targets

TargetKind = Literal["hard", "soft", "likelihood"]
CurrentTargetKind = Literal["labels", "likelihood"]
CurrentData = Literal["real", "generated"]


@dataclass(frozen=True)
class ReplayTargets:
    """The kinds of targets.

    generated: of generated samples: the frozen solver's choice (`hard`) or its probabilities (`soft`), or the
        probabilities of the classes by the generator's own `likelihood`.
    current: of samples of the current task: their `labels`, or what the generator's `likelihood` says.
    current_data: what these samples are: the `real` ones, or `generated` ones.
    """

    generated: TargetKind
    current: CurrentTargetKind
    current_data: CurrentData

    @property
    def uses_likelihood(self) -> bool:
        """Whether the generator's likelihood is asked for anything."""
        return "likelihood" in (self.generated, self.current)

    def check_generator(self, generator: Generator, is_shared: bool, trained_before_solver: bool) -> None:
        """Refuse a generator that can't tell what is asked of it.

        Raises:
            ConfigError: it is not one for all tasks that tells likelihoods exactly, or learns the task too late, or
                can't be asked for the classes of the current one.
        """
        if self.current_data == "generated" and not (trained_before_solver and generator.conditional):
            raise ConfigError(
                "strategy.current_data",
                "generated",
                "needs a generator that knows the task before the solver learns it, and its classes",
                "try strategy.generator_training=before generator=mixture",
            )
        if self.uses_likelihood and (generator.class_likelihood != "exact" or not is_shared):
            raise ConfigError(
                "strategy.targets",
                "likelihood",
                "needs one generator that tells exactly how likely a sample is in each class",
                "try generator=mixture strategy.generator_scope=shared",
            )
        if self.current == "likelihood" and not trained_before_solver:
            raise ConfigError(
                "strategy.current_targets",
                self.current,
                "needs a generator that knows the task before the solver learns it",
                "try strategy.generator_training=before",
            )

    def check_scenario(self, scenario: Scenario) -> None:
        """Refuse a scenario in which not all classes compete, where likelihoods compare them.

        Raises:
            ConfigError: it is such a one.
        """
        if self.uses_likelihood and not scenario.is_class_incremental:
            raise ConfigError(
                "strategy.targets",
                "likelihood",
                "compares all classes, which compete in the class-incremental scenario only",
                "try strategy.targets=soft or scenario=class",
            )

    def generated_targets(
        self,
        x: Tensor,
        labels: Tensor | None,
        teacher: Replicas[nn.Module],
        known_units: Tensor,
        temperature: float | Tensor,
        likelihoods: LikelihoodTargets,
    ) -> Tensor:
        """Targets of generated samples `x` (R, N, ...) of earlier tasks, for each head of `units` bool (H, U).

        `labels` (R, N): the classes that a conditional generator was asked for. Units (R, N, H), or probabilities
        (R, N, H, U).
        """
        if self.generated == "likelihood":
            return likelihoods.targets(x).unsqueeze(-2)
        if self.generated == "soft":
            return teacher_targets(teacher, x, known_units, temperature)
        if labels is not None and len(known_units) == 1:
            return labels.unsqueeze(-1)
        target = teacher_targets(teacher, x, known_units, None)
        # Of the heads, one knows for certain what was asked for.
        return target if labels is None else torch.where(known_units.T[labels], labels.unsqueeze(-1), target)
