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
from gr_cli.strategies.generated_samples import Likelihoods
from gr_cli.strategies.replay import taught

TargetKind = Literal["hard", "soft", "likelihood"]
CurrentTargetKind = Literal["labels", "likelihood"]
CurrentData = Literal["real", "dreamt"]


@dataclass(frozen=True)
class ReplayTargets:
    """The kinds of targets.

    generated: of generated samples: the frozen solver's choice (`hard`) or its probabilities (`soft`), or the
        probabilities of the classes by the generator's own `likelihood`.
    current: of samples of the current task: their `labels`, or what the generator's `likelihood` says.
    current_data: what these samples are: the `real` ones, or `dreamt` ones.
    """

    generated: TargetKind
    current: CurrentTargetKind
    current_data: CurrentData

    @property
    def by_likelihood(self) -> bool:
        """Whether the generator's likelihood is asked for anything."""
        return "likelihood" in (self.generated, self.current)

    def check_generator(self, generator: Generator, one_for_all: bool, knows_task_first: bool) -> None:
        """Refuse a generator that can't tell what is asked of it.

        Raises:
            ConfigError: it is not one for all tasks that tells likelihoods exactly, or learns the task too late, or
                can't be asked for the classes of the current one.
        """
        if self.current_data == "dreamt" and not (knows_task_first and generator.conditional):
            raise ConfigError(
                "strategy.current_data",
                "dreamt",
                "needs a generator that knows the task before the solver learns it, and its classes",
                "try strategy.generator_training=before generator=mixture",
            )
        if self.by_likelihood and (generator.tells_likelihood != "exactly" or not one_for_all):
            raise ConfigError(
                "strategy.targets",
                "likelihood",
                "needs one generator that tells exactly how likely a sample is in each class",
                "try generator=mixture strategy.generators=one",
            )
        if self.current == "likelihood" and not knows_task_first:
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
        if self.by_likelihood and not scenario.units_are_classes:
            raise ConfigError(
                "strategy.targets",
                "likelihood",
                "compares all classes, which compete in the class-incremental scenario only",
                "try strategy.targets=soft or scenario=class",
            )

    def of_generated(
        self,
        x: Tensor,
        labels: Tensor | None,
        teacher: Replicas[nn.Module],
        units: Tensor,
        temperature: float | Tensor,
        likelihoods: Likelihoods,
    ) -> Tensor:
        """Targets of generated samples `x` (R, N, ...) of earlier tasks, for each head of `units` bool (H, U).

        `labels` (R, N): the classes that a conditional generator was asked for. Units (R, N, H), or probabilities
        (R, N, H, U).
        """
        if self.generated == "likelihood":
            return likelihoods.of(x).unsqueeze(-2)
        if self.generated == "soft":
            return taught(teacher, x, units, temperature)
        if labels is not None and len(units) == 1:
            return labels.unsqueeze(-1)
        target = taught(teacher, x, units, None)
        # Of the heads, one knows for certain what was asked for.
        return target if labels is None else torch.where(units.T[labels], labels.unsqueeze(-1), target)
