"""Interference of a step on the current batch with samples that could be replayed (Aljundi et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gr_cli.nn.layers import per_replica
from gr_cli.nn.losses import Targets
from gr_cli.nn.replicas import Replicas
from gr_cli.strategies.context import SolverForward


def loss_increases(
    solvers: Replicas[nn.Module],
    forward: SolverForward,
    current_loss: Tensor,
    x: Tensor,
    targets: Targets,
    step_size: float | Tensor,
) -> Tensor:
    """How much a step of gradient descent on the current loss would increase the loss of each sample: (R, N).

    The solvers' parameters are the same afterwards.

    Args:
        solvers: The solvers.
        forward: Their forward pass in this training step.
        current_loss: Loss of the current batch (R,), in autograd's graph.
        x: Samples (R, N, ...).
        targets: Their targets.
        step_size: Learning rate of the step, one number or (R,).
    """
    parameters = solvers.select_parameters(lambda network: (p for p in network.parameters() if p.requires_grad))
    gradients = torch.autograd.grad(current_loss.sum(), parameters, allow_unused=True)
    with torch.no_grad():
        before = targets.losses(forward(x))
        saved = [parameter.clone() for parameter in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter -= per_replica(step_size, gradient) * gradient
        after = targets.losses(forward(x))
        for parameter, value in zip(parameters, saved, strict=True):
            parameter.copy_(value)
    return after - before


@contextmanager
def unchanged_buffers(solvers: Replicas[nn.Module]) -> Iterator[None]:
    """Restore the buffers of all solvers after the block: forward passes change running statistics."""
    buffers = [buffer for solver in solvers.modules for buffer in solver.buffers()]
    saved = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, saved, strict=True):
            buffer.copy_(value)
