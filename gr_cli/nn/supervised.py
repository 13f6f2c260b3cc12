"""Supervised training of a classifier on one data set: reference classifiers and feature extractors."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.nn.batch_order import BatchOrder
from gr_cli.optimizers import Adam, FunctionalOptimizer
from gr_cli.system.messages import with_progress


def train_classifier(
    network: nn.Module,
    get_batch: Callable[[Tensor], tuple[Tensor, Tensor]],
    order: BatchOrder,
    iterations: int,
    lr: float,
    description: str,
) -> None:
    """Train a network by cross-entropy with Adam, with a cosine learning rate schedule.

    Shows progress on a terminal.

    Args:
        network: The network, changed in place.
        get_batch: Samples and labels at the given indices.
        order: Order of the samples.
        iterations: Training steps.
        lr: Learning rate of the first step.
        description: What is trained, for the progress line.
    """
    parameters = list(network.parameters())
    optimizer = FunctionalOptimizer(parameters, [Adam(lr=lr, schedule="cosine")])
    optimizer.begin_task()
    for i in with_progress(range(iterations), iterations, f"iterations of {description}"):
        x, y = get_batch(order.block(i, 1)[0])
        gradients = torch.autograd.grad(F.cross_entropy(network(x), y), parameters)
        optimizer.step(gradients, lambda settings, i=i: settings.lr_at(i, iterations))  # type: ignore[misc]
