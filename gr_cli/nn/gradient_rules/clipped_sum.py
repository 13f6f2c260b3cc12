"""The sum of clipped gradients of single samples, from recorded calls of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gr_cli.errors import ConfigError
from gr_cli.nn.layer_calls import LayerCall
from gr_cli.nn.layers import per_replica
from gr_cli.nn.losses import sum_tensors
from gr_cli.nn.per_sample import SampleGradients, join_calls, sample_gradients


@dataclass(frozen=True)
class _Block:
    """Gradients of samples for one parameter: of all replicas, or of one.

    Attributes:
        position: Position of the parameter in the optimizer's list.
        replica: The replica; None: all.
        gradients: The gradients, with a replica axis unless they are of one replica or R = 1.
    """

    position: int
    replica: int | None
    gradients: SampleGradients


class ClippedGradients:
    """Gradients of B samples of R replicas, clipped over all parameters together.

    Sums have at least single precision, also where networks are called in bfloat16: a sum that is rounded to bfloat16
    can change by more than the largest norm if one sample is added. Norms are computed in double precision, and never
    too small by rounding. A gradient with a value that is not finite counts as 0.

    Args:
        losses: Losses (R, B) of the samples, computed by `calls`, in which the samples come first.
        calls: The calls of layers that computed them.
        parameters: Parameters, with a leading replica axis if R > 1.

    Raises:
        ConfigError: A layer was called on fewer samples than there are losses.
    """

    def __init__(self, losses: Tensor, calls: Sequence[LayerCall], parameters: Sequence[Tensor]) -> None:
        self._parameters, self._replicas, self._losses, self._calls = parameters, losses.shape[0], losses, calls
        positions = {id(parameter): i for i, parameter in enumerate(parameters)}
        outputs = [call.output for call in calls]
        gradients = torch.autograd.grad(losses.sum(), outputs, retain_graph=True, allow_unused=True)
        self._is_used = [gradient is not None for gradient in gradients]
        self._is_finite = torch.ones_like(losses, dtype=torch.bool)  # (R, B)
        blocks: dict[tuple[int, int | None], list[SampleGradients]] = {}
        for call, gradient in zip(calls, gradients, strict=True):
            if gradient is None:
                continue
            x, gradient = (self._finite_values(call, self._of_samples(call, v)) for v in (call.x, gradient))
            with self._full_precision():
                by_name = sample_gradients(call.layer, call.own_parameters, x, gradient)
            for name, values in by_name.items():
                if name in call.parameters and id(call.parameters[name]) in positions:
                    blocks.setdefault((positions[id(call.parameters[name])], call.replica), []).append(values)
        self._blocks = [_Block(*key, join_calls(values)) for key, values in blocks.items()]

    def _full_precision(self) -> torch.autocast:
        return torch.autocast(self._losses.device.type, enabled=False)

    def _finite_values(self, call: LayerCall, values: Tensor) -> Tensor:
        """Values of a call in at least single precision; 0 for samples with one that is not finite."""
        values = _at_least_single(values)
        axes = 2 if call.replica is None and self._replicas > 1 else 1
        # A sum is much faster than isfinite().all(); it is not finite, either, where it overflows.
        is_finite = (values.flatten(axes).sum(-1) if values.dim() > axes else values).isfinite()
        rows = self._is_finite if axes == 2 else self._is_finite[call.replica or 0]
        rows &= is_finite
        return values.masked_fill(~is_finite.view(*is_finite.shape, *[1] * (values.dim() - axes)), 0)

    @property
    def norms(self) -> Tensor:
        """Euclidean norms (R, B) over all parameters, float64 and rounded up; infinite if a value is not finite."""
        with self._full_precision():
            norms = self._norms()
        return norms.masked_fill(~(self._is_finite & norms.isfinite()), torch.inf)

    def _norms(self) -> Tensor:
        squares = []
        for replica in range(self._replicas):
            own = [b for b in self._blocks if b.replica == replica]
            squares.append(sum_tensors([b.gradients.squared_norms() for b in own]) if own else None)
        common = [b.gradients.squared_norms() for b in self._blocks if b.replica is None]
        by_replica = [value for value in squares if value is not None]
        parts = [torch.stack(by_replica)] if by_replica else []
        parts += [sum_tensors(common).view(self._replicas, -1)] if common else []
        return sum_tensors(parts).sqrt()

    def weighted_sum(self, weights: Tensor) -> list[Tensor | None]:
        """The sum over samples under weights (R, B), shaped as the parameters; None where no loss depends on one."""
        with self._full_precision():
            return self._weighted_sum(weights)

    def _weighted_sum(self, weights: Tensor) -> list[Tensor | None]:
        sums: list[Tensor | None] = [None] * len(self._parameters)
        for block in self._blocks:
            parameter = self._parameters[block.position]
            if block.replica is not None:
                total = sums[block.position]
                total = torch.zeros_like(parameter) if total is None else total
                total[block.replica] = block.gradients.weighted_sum(weights[block.replica]).view_as(total[0])
                sums[block.position] = total
                continue
            own = weights if self._replicas > 1 else weights.squeeze(0)
            sums[block.position] = block.gradients.weighted_sum(own).reshape(parameter.shape)
        return sums

    def clip_factors(self, max_norm: float | Tensor) -> tuple[Tensor, Tensor]:
        """Factors (R, B) that scale each gradient down to a norm of at most `max_norm`, and the norms (R, B).

        A factor below 1 is so much smaller that it and the products with it may be rounded up. It is 0 for gradients
        with a value that is not finite.
        """
        norms = self.norms
        largest = per_replica(max_norm, norms)
        precision = torch.promote_types(self._losses.dtype, torch.float32)
        smaller = largest / norms * (1 - 4 * torch.finfo(precision).eps)
        return torch.where(norms <= largest, 1.0, smaller).to(precision), norms

    def _of_samples(self, call: LayerCall, values: Tensor) -> Tensor:
        """The values of the samples among those of a call.

        Raises:
            ConfigError: There are fewer than samples.
        """
        axis, number = 1 if call.replica is None and self._replicas > 1 else 0, self._losses.shape[1]
        if values.shape[axis] < number:
            layer = type(call.layer).__name__
            raise _refusal(f"a layer {layer} was called on {values.shape[axis]} of {number} samples")
        return values.narrow(axis, 0, number)

    def check_sum(self) -> bool:
        """Check that the gradients add up to that of the sum of the losses, up to rounding.

        Returns:
            Whether there was anything to check: gradients that are finite, and not all 0.

        Raises:
            ConfigError: They don't, because parameters are used outside of layers, or layers mix samples.
        """
        plain = torch.autograd.grad(self._losses.sum(), self._parameters, retain_graph=True, allow_unused=True)
        sums = self.weighted_sum(torch.ones_like(self._losses))
        pairs = [(a, b) for a, b in zip(plain, sums, strict=True) if a is not None or b is not None]
        expected = _flat([torch.zeros_like(b) if a is None else a for a, b in pairs]).double()
        computed = _flat([torch.zeros_like(a) if b is None else b for a, b in pairs]).double()
        if not (self._is_finite.all() and expected.isfinite().all()):
            return False
        relative, rounding = self._tolerances()
        allowed = relative * expected.norm() + (rounding * self.norms.sum() if self._blocks else 0.0)
        if (computed - expected).norm() > allowed:
            raise _refusal("the gradients of single samples don't add up to that of their batch")
        return bool(expected.any())

    def _tolerances(self) -> tuple[float, float]:
        """Largest relative error of a sum of gradients: to its own norm, and to the sum of their norms.

        Single precision has errors of 1.5e-6 and 1e-6 at most in all networks of this program, bfloat16 of 2.2e-3 and
        1.1e-3.
        """
        types = {call.output.dtype for call in self._calls}
        reduced = any(torch.finfo(dtype).bits < 32 for dtype in types)
        if reduced or (self._losses.is_cuda and torch.backends.cudnn.allow_tf32):
            return 1e-2, 4e-3
        return (1e-4, 1e-6) if torch.float32 in types else (1e-9, 1e-14)

    def check_independence(self, rest: Tensor) -> None:
        """Check that `rest` (R,) does not depend on the samples through the layers that their losses depend on.

        Raises:
            ConfigError: It does.
        """
        calls = [call for call, is_used in zip(self._calls, self._is_used, strict=True) if is_used]
        gradients = torch.autograd.grad(
            rest.sum(), [call.output for call in calls], retain_graph=True, allow_unused=True
        )
        for call, gradient in zip(calls, gradients, strict=True):
            if gradient is not None and self._of_samples(call, gradient).any():
                raise _refusal("a loss on current samples is not one of single samples")


def _at_least_single(values: Tensor) -> Tensor:
    return values.float() if values.is_floating_point() and values.element_size() < 4 else values


def _flat(gradients: Sequence[Any]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


def _refusal(problem: str) -> ConfigError:
    return ConfigError("gradient_rule", "dp_sgd", problem, "use layers that treat samples separately, such as Linear")
