"""Gradient rules (config group `gradient_rule`): clipping, per-sample gradients, noise."""

from gr_cli.nn.gradient_rules.base import GradientRule, GradientStep, Loss

__all__ = ["GradientRule", "GradientStep", "Loss"]
