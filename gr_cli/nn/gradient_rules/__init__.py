"""How the gradient of a loss is made: rules of the config group `gradient_rule`."""

from gr_cli.nn.gradient_rules.base import GradientRule, GradientStep, Loss

__all__ = ["GradientRule", "GradientStep", "Loss"]
