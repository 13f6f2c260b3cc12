"""Plain supervised learning, for networks that are made once and then serve: there is nothing continual about it."""

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
    """Let `network` learn to classify, by Adam with a learning rate that falls from `lr` to 0 along a cosine.

    `batch` gives the samples and labels at the places that `order` names for an iteration. On a terminal a line says
    how far it is, and `what` learns.
    """
    parameters = list(network.parameters())
    descent = FunctionalOptimizer(parameters, [Adam(lr=lr, schedule="cosine")])
    descent.begin_task()
    for i in with_progress(range(iterations), iterations, f"iterations of {description}"):
        x, y = get_batch(order.block(i, 1)[0])
        gradients = torch.autograd.grad(F.cross_entropy(network(x), y), parameters)
        descent.step(gradients, lambda optimizer, i=i: optimizer.lr_at(i, iterations))  # type: ignore[misc]
