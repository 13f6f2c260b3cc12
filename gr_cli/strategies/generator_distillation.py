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
        problem = "has no outputs on noised samples that a frozen copy could teach (strategy.generator_distillation)"
        raise ConfigError("generator", type(generator).__name__, problem, "try generator=flow or generator=conv_flow")
    settings = {
        "generator_data": (generator_data, "current_and_replay"),
        "generator_scope": (generator_scope, "shared"),
    }
    for name, (value, needed) in settings.items():
        if value != needed:
            allowed = "strategy.generator_distillation needs one generator, trained on current and replayed samples"
            raise ConfigError(f"strategy.{name}", value, allowed, f"try strategy.{name}={needed}")
