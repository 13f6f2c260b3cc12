"""Targets of generated and current samples in generative replay."""

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
    """Kinds of targets in generative replay.

    Attributes:
        generated: Targets of generated samples: the teacher's prediction (`hard`), its probabilities (`soft`), or the
            class probabilities by the generator's likelihood (`likelihood`).
        current: Targets of samples of the current task: their `labels`, or by the generator's `likelihood`.
        current_data: Samples of the current task: `real` or `generated`.
    """

    generated: TargetKind
    current: CurrentTargetKind
    current_data: CurrentData

    @property
    def uses_likelihood(self) -> bool:
        """Whether any targets are computed from the generator's likelihood."""
        return "likelihood" in (self.generated, self.current)

    def check_generator(self, generator: Generator, is_shared: bool, trained_before_solver: bool) -> None:
        """Refuse a generator that can't provide these targets.

        Args:
            generator: The generator.
            is_shared: Whether it is one generator for all tasks.
            trained_before_solver: Whether it is trained on a task before the solver is.

        Raises:
            ConfigError: It has no exact likelihood, is not shared, is trained too late, or is not conditional.
        """
        if self.current_data == "generated" and not (trained_before_solver and generator.conditional):
            raise ConfigError(
                "strategy.current_data",
                "generated",
                "needs a conditional generator that is trained before the solver",
                "try strategy.generator_training=before generator=mixture",
            )
        if self.uses_likelihood and (generator.class_likelihood != "exact" or not is_shared):
            raise ConfigError(
                "strategy.targets",
                "likelihood",
                "needs a shared generator with an exact likelihood of each class",
                "try generator=mixture strategy.generator_scope=shared",
            )
        if self.current == "likelihood" and not trained_before_solver:
            raise ConfigError(
                "strategy.current_targets",
                self.current,
                "needs a generator that is trained before the solver",
                "try strategy.generator_training=before",
            )

    def check_scenario(self, scenario: Scenario) -> None:
        """Refuse likelihood targets in scenarios where not all classes compete.

        Raises:
            ConfigError: Likelihood targets outside the class-incremental scenario.
        """
        if self.uses_likelihood and not scenario.is_class_incremental:
            raise ConfigError(
                "strategy.targets",
                "likelihood",
                "compares all classes, but only in the class-incremental scenario do all compete",
                "try strategy.targets=soft or scenario=class",
            )

    def generated_targets(
        self,
        x: Tensor,
        labels: Tensor | None,
        teacher: Replicas[nn.Module],
        known_units: Tensor,
        temperature: float | Tensor,
        likelihood_targets: LikelihoodTargets,
    ) -> Tensor:
        """Targets of generated samples of earlier tasks.

        Args:
            x: Generated samples (R, N, ...).
            labels: Classes (R, N) requested from a conditional generator; None for others.
            teacher: The frozen solvers.
            known_units: Units of each head: bool (H, U).
            temperature: T of soft targets, one number or (R,).
            likelihood_targets: Targets by the generator's likelihood.

        Returns:
            Hard targets, units (R, N, H); or soft ones, probabilities (R, N, H, U).
        """
        if self.generated == "likelihood":
            return likelihood_targets.targets(x)
        if self.generated == "soft":
            return teacher_targets(teacher, x, known_units, temperature)
        if labels is not None and len(known_units) == 1:
            return labels.unsqueeze(-1)
        target = teacher_targets(teacher, x, known_units, None)
        # The head of the requested class has a known target.
        return target if labels is None else torch.where(known_units.T[labels], labels.unsqueeze(-1), target)
