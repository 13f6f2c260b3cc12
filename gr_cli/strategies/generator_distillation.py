"""Generative distillation: which generators a frozen copy can teach (Masip et al. 2023)."""

from __future__ import annotations

from gr_cli.errors import ConfigError
from gr_cli.generators.base import Generator


def check_distillation(generator: Generator, generator_data: str, generator_scope: str) -> None:
    """Refuse generative distillation where it has no teacher, or the generator can't be taught.

    Raises:
        ConfigError: Names the setting that does not fit.
    """
    if not generator.supports_distillation:
        raise ConfigError(
            "strategy.generator_distillation",
            type(generator).__name__,
            "has no outputs on noised samples that a frozen copy could teach",
            "try generator=flow or generator=conv_flow",
        )
    if generator_data != "current_and_replay" or generator_scope != "shared":
        raise ConfigError(
            "strategy.generator_distillation",
            f"generator_data={generator_data}, generator_scope={generator_scope}",
            "needs one generator for all tasks, trained on current and replayed samples",
            "try strategy.generator_data=current_and_replay strategy.generator_scope=shared",
        )
