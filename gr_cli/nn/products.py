"""Matrix products on a CPU, by the faster of the two libraries that torch holds: MKL or oneDNN.

MKL has no kernels with 512-bit vectors for processors of other makers than Intel; oneDNN has. On an AMD EPYC with
AVX-512, one thread and float32, products of 256x784x400 ran at 240 instead of 110 GFLOP/s, of 256x200x100 at 170
instead of 100; those of 64x256x128 lose what they gain to the longer call of oneDNN. Which library computes a product
depends on its shape, the number of threads and the processor only, never on timings, so that a run gives the same
numbers on repetition.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

# Multiplications per thread from which oneDNN is faster.
_MIN_MULTIPLICATIONS = 1 << 22
# The same for a single layer, whose `autograd.Function` in Python costs more than an operator of torch.
_MIN_MULTIPLICATIONS_OF_LAYER = 1 << 23


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a b + bias, without autograd where oneDNN computes it: in forward and backward of an `autograd.Function`.

    Args:
        a: (M, K), or (R, M, K) for R products.
        b: (K, N), or (R, K, N).
        bias: (N,), or (R, N).

    Returns:
        (M, N), or (R, M, N).
    """
    (rows, terms), columns = a.shape[-2:], b.shape[-1]
    if (
        rows * terms * columns < _MIN_MULTIPLICATIONS  # spares a call for small products
        or not onednn_is_faster(a, columns)
        # A graph of the backward pass needs products that can be differentiated.
        or (torch.is_grad_enabled() and (a.requires_grad or b.requires_grad))
    ):
        if a.dim() == 2:
            return torch.mm(a, b) if bias is None else torch.addmm(bias, a, b)
        return torch.bmm(a, b) if bias is None else torch.baddbmm(bias.unsqueeze(1), a, b)
    if a.dim() == 2:
        return _onednn_product(a, b, bias)
    biases = [None] * len(a) if bias is None else bias.unbind()
    # oneDNN has no call for several products of float32 that torch exposes.
    return torch.stack([_onednn_product(*factors) for factors in zip(a.unbind(), b.unbind(), biases, strict=True)])


def _onednn_product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise.default(a, b.t(), bias, "none", [], "")
    return out


def onednn_is_faster(a: Tensor, columns: int, of_layer: bool = False) -> bool:
    """Whether oneDNN is the faster library for the product of `a` (..., M, K) and a matrix of so many columns.

    Args:
        a: The first factor.
        columns: Columns of the second factor.
        of_layer: Whether it is that of a single layer, which needs an `autograd.Function` of its own.
    """
    rows, terms = a.shape[-2:]
    least = torch.get_num_threads() * _MIN_MULTIPLICATIONS
    least = max(least, _MIN_MULTIPLICATIONS_OF_LAYER) if of_layer else least
    return (
        rows * terms * columns >= least
        and min(rows, terms, columns) > 1
        and a.dtype == torch.float32
        and a.device.type == "cpu"
        and _has_faster_kernels()
        and not torch._C._are_functorch_transforms_active()  # they can't transform a call of oneDNN
    )


@cache
def _has_faster_kernels() -> bool:
    """Whether oneDNN has kernels for this processor that MKL does not have: AVX-512 that is not of Intel."""
    capabilities: Any = getattr(torch.cpu, "get_capabilities", dict)()
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and str(capabilities.get("cpu_name", "")).startswith("AMD")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
