"""Mean losses of a batch with hand-derived gradients: classification, reconstruction, divergence.

Each class computes values (R,) and the gradient of their weighted sum. The gradients dL / d value may be numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gr_cli.nn.fused import FusedComputation, FusedValue, Scale, fused_values
from gr_cli.nn.fused_mlp import StackedNetwork
from gr_cli.nn.layers import per_replica
from gr_cli.nn.losses import INACTIVE_LOGIT, Targets, is_one


class ClassificationLoss:
    """The mean loss of the samples of some `Targets`, from logits l (R, B, U).

    With p the softmax of l / T over the active units, t the target (one-hot, if hard) of a sample and head, and c the
    scale:

        value     = c / (N H) * sum over samples and heads of -sum_u t_u log p_u
        dvalue/dl = c / (N H T) * sum over heads of (p_u sum_v t_v - t_u)    where u is active, and else 0
    """

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._log_p = targets.target  # replaced by `forward`
        self._inactive = targets.active_units

    def forward(self, logits: Tensor) -> Tensor:
        """Logits (R, B, U) to the mean loss (R,)."""
        targets = self._targets
        num_samples, num_heads = targets.target.shape[1:3]
        logits = logits.narrow(1, targets.start, num_samples).unsqueeze(2)  # (R, N, 1, U)
        if not is_one(targets.temperature):
            logits = logits / per_replica(targets.temperature, logits)
        self._inactive = ~targets.active_units
        self._log_p = torch.log_softmax(logits.masked_fill(self._inactive, INACTIVE_LOGIT), -1)  # (R, N, H or 1, U)
        if targets.is_soft:
            sums = (targets.target * self._log_p).sum((1, 2, 3))
        elif self._log_p.shape[2] == num_heads == 1:
            sums = self._log_p.squeeze(2).gather(2, targets.target).sum((1, 2))
        else:
            log_p = self._log_p.expand(*targets.target.shape, -1)
            sums = log_p.gather(3, targets.target.unsqueeze(3)).sum((1, 2, 3))
        value = sums.mul_(-1.0 / (num_samples * num_heads) if num_samples else torch.nan)
        return value if is_one(targets.scale) else value.mul_(targets.scale)

    def add_gradient(self, logits_gradient: Tensor, gradient: Scale) -> None:
        """Add `gradient` (R,) times dvalue/dl to the gradient of the logits (R, B, U)."""
        targets = self._targets
        num_samples, num_heads = targets.target.shape[1:3]
        if num_samples == 0:
            return
        out = self._log_p.exp()  # p, which becomes p sum t - t
        if targets.is_soft:
            out = (out * targets.target.sum(3, keepdim=True)).sub_(targets.target)
        else:
            if out.shape[2] < num_heads:
                out = out.repeat(1, 1, num_heads, 1)
            out.scatter_(3, targets.target.unsqueeze(3), -1.0, reduce="add")
        out.masked_fill_(self._inactive, 0.0)
        out = out.squeeze(2) if num_heads == 1 else out.sum(2)  # (R, N, U)
        factor: Scale = 1.0 / (num_samples * num_heads)
        for each in (gradient, targets.scale):
            factor = factor * (each.to(out.dtype) if isinstance(each, Tensor) else each)
        if not is_one(targets.temperature):
            temperature = targets.temperature
            factor = factor / (temperature.to(out.dtype) if isinstance(temperature, Tensor) else temperature)
        segment = logits_gradient.narrow(1, targets.start, num_samples)
        if isinstance(factor, Tensor):
            segment.add_(out.mul_(per_replica(factor, out)))
        else:
            segment.add_(out, alpha=factor)


class ClassificationLosses:
    """The mean losses of several `Targets` of one batch."""

    def __init__(self, targets: Sequence[Targets]) -> None:
        self._losses = [ClassificationLoss(each) for each in targets]

    def forward(self, logits: Tensor) -> tuple[Tensor, ...]:
        """Logits (R, B, U) to the mean loss (R,) by each of the targets."""
        self._logits = logits
        return tuple(loss.forward(logits) for loss in self._losses)

    def backward(self, gradients: Sequence[Any]) -> Tensor:
        """Gradient of the weighted sum of the losses with respect to the logits (R, B, U).

        Args:
            gradients: Weights of the losses, a number or (R,) each; None: 0.
        """
        out = torch.zeros_like(self._logits)
        for loss, gradient in zip(self._losses, gradients, strict=True):
            if gradient is not None:
                loss.add_gradient(out, gradient)
        return out


class LabelLosses(ClassificationLosses):
    """The same for labels alone: each sample of the batch has one, in one head, and the temperature is 1.

    One softmax and one look-up serve all targets, whose parts of the batch follow each other.
    """

    def __init__(self, targets: Sequence[Targets]) -> None:
        self._targets = targets

    @staticmethod
    def computes(targets: Sequence[Targets], batch_size: int) -> bool:
        """Whether these are targets of this kind, for a batch of this size."""
        next_start = 0
        for each in targets:
            _, num_samples, num_heads = each.target.shape[:3]
            if each.start != next_start or num_heads != 1 or num_samples == 0 or each.is_soft:
                return False
            if not is_one(each.temperature) or not is_one(each.scale):
                return False
            next_start += num_samples
        return next_start == batch_size

    def forward(self, logits: Tensor) -> tuple[Tensor, ...]:
        """As for other targets, but the logits of inactive units are overwritten."""
        self._sizes = [each.target.shape[1] for each in self._targets]
        self._inactive = _inactive_units(*(each.active_units for each in self._targets))
        self._fill_inactive(logits, INACTIVE_LOGIT)
        self._log_p = torch.log_softmax(logits, -1)
        labels = [each.target for each in self._targets]
        self._labels = labels[0] if len(labels) == 1 else torch.cat(labels, 1)  # (R, B, 1)
        log_likelihoods = self._log_p.gather(2, self._labels)  # (R, B, 1)
        if len(set(self._sizes)) == 1:  # as one sum
            sums = log_likelihoods.view(len(logits), len(self._sizes), -1).sum(2)
            return sums.mul_(-1.0 / self._sizes[0]).unbind(1)
        parts = self._parts(log_likelihoods)
        return tuple(part.sum((1, 2)).mul_(-1.0 / n) for part, n in zip(parts, self._sizes, strict=True))

    def backward(self, gradients: Sequence[Any]) -> Tensor:
        out = self._log_p.exp().scatter_(2, self._labels, -1.0, reduce="add")
        self._fill_inactive(out, 0.0)
        factors = [(0.0 if g is None else g) / n for g, n in zip(gradients, self._sizes, strict=True)]
        if all(isinstance(factor, float) and factor == factors[0] for factor in factors):
            return out.mul_(factors[0])
        for part, factor in zip(self._parts(out), factors, strict=True):
            part.mul_(per_replica(factor, part))
        return out

    def _fill_inactive(self, values: Tensor, value: float) -> None:
        """Overwrite the values (R, B, U) of inactive units."""
        if len(self._inactive) == 1:
            values.masked_fill_(self._inactive[0], value)
        elif self._inactive:
            for part, inactive in zip(self._parts(values), self._inactive, strict=True):
                part.masked_fill_(inactive, value)

    def _parts(self, values: Tensor) -> Sequence[Tensor]:
        """The part (R, N, ...) of values (R, B, ...) that belongs to each of the targets."""
        return [values] if len(self._sizes) == 1 else values.split_with_sizes(self._sizes, 1)


def _inactive_units(*active: Tensor) -> tuple[Tensor, ...]:
    """Masks of the inactive units for targets of one head: one if it is the same for all, none if all are active."""
    if all(units.dim() <= 2 for units in active):
        return _inactive_units_of_task(*active)
    return tuple(~(units.squeeze(2) if units.dim() == 4 else units) for units in active)


@lru_cache(maxsize=64)
def _inactive_units_of_task(*active: Tensor) -> tuple[Tensor, ...]:
    """The same for masks (U,) or (1, U), which are those of a task in all of its steps."""
    inactive = [(~units).view(1, -1) for units in active]
    if not any(units.any() for units in inactive):
        return ()
    are_equal = all(torch.equal(units, inactive[0]) for units in inactive[1:])
    return tuple(inactive[:1] if are_equal else inactive)


class LogitLosses(FusedComputation):
    """Mean losses (R,) by `Targets` of logits (R, B, U), for any network."""

    def __init__(self, logits: Tensor, targets: Sequence[Targets]) -> None:
        self.inputs, self._losses = (logits,), ClassificationLosses(targets)

    def forward(self) -> tuple[Tensor, ...]:
        return self._losses.forward(self.inputs[0])

    def backward(self, gradients: Sequence[Any], needed: Sequence[bool]) -> list[Tensor | None]:
        return [self._losses.backward(gradients)]


class StackLosses(FusedComputation):
    """Mean losses (R,) by `Targets` of the output of a network whose tensors have a replica axis only if R > 1."""

    def __init__(self, network: StackedNetwork, targets: Sequence[Targets]) -> None:
        has_labels = LabelLosses.computes(targets, network.x.shape[-2])
        self._stack, self._losses = network.stack, (LabelLosses if has_labels else ClassificationLosses)(targets)
        self.inputs = (network.x, *network.stack.parameters)

    def forward(self) -> tuple[Tensor, ...]:
        logits = self._stack.forward(self.inputs[0])
        return self._losses.forward(logits if logits.dim() == 3 else logits.unsqueeze(0))

    def backward(self, gradients: Sequence[Any], needed: Sequence[bool]) -> list[Tensor | None]:
        gradient = self._losses.backward(gradients)
        gradient = gradient if self.inputs[0].dim() == 3 else gradient[0]
        parameter_gradients, x_gradient = self._stack.backward(gradient, needed[1:], needed[0])
        return [x_gradient, *parameter_gradients]


def mean_losses(network: StackedNetwork | Tensor, targets: Sequence[Targets]) -> list[FusedValue]:
    """Mean loss (R,) of the samples of each of `targets`, by one computation.

    Args:
        network: The network as a stack, or its logits (R, B, U).
        targets: What the logits are compared with.
    """
    if isinstance(network, StackedNetwork):
        return fused_values(StackLosses(network, targets))
    return fused_values(LogitLosses(network, targets))
