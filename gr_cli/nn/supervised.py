"""Plain supervised learning, for networks that are made once and then serve: there is nothing continual about it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.nn.batch_order import Order
from gr_cli.optimizers import Adam, Descent
from gr_cli.system.messages import counted


def learn_classes(
    network: nn.Module,
    batch: Callable[[Tensor], tuple[Tensor, Tensor]],
    order: Order,
    iterations: int,
    lr: float,
    what: str,
) -> None:
    """Let `network` learn to classify, by Adam with a learning rate that falls from `lr` to 0 along a cosine.

    `batch` gives the samples and labels at the places that `order` names for an iteration. On a terminal a line says
    how far it is, and `what` learns.
    """
    parameters = list(network.parameters())
    descent = Descent(parameters, [Adam(lr=lr, schedule="cosine")])
    descent.begin_task()
    for i in counted(range(iterations), iterations, f"iterations of {what}"):
        x, y = batch(order.block(i, 1)[0])
        gradients = torch.autograd.grad(F.cross_entropy(network(x), y), parameters)
        descent.step(gradients, lambda optimizer, i=i: optimizer.lr_at(i, iterations))  # type: ignore[misc]
