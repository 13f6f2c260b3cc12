"""The diagonal of the Fisher information matrix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gr_cli.nn.linear import Linear, per_sample_squared_gradients
from gr_cli.nn.losses import masked_log_softmax
from gr_cli.nn.random_streams import StreamNames
from gr_cli.strategies.context import TaskContext

FisherLabels = Literal["all", "sampled", "true"]
_MAX_GRADIENT_VALUES = 1 << 24  # gradients of single samples held at once: 64 MiB of float32


def fisher_diagonal(
    network: nn.Module,
    samples: Iterable[tuple[Tensor, Tensor]],
    context: TaskContext,
    replica: int,
    labels: FisherLabels,
) -> list[Tensor]:
    """The diagonal of the Fisher information of a network, averaged over samples.

    For each parameter the expectation of (d log p(label | x) / d parameter)^2, the softmax being over the competing
    units.

    Args:
        network: The network of one replica.
        samples: Batches of samples (B, ...) and labels (B,).
        context: The current task.
        replica: The network's replica, for its random stream.
        labels: Labels in the expectation: weighted by the predicted probabilities (`all`), one label drawn from them
            (`sampled`), or the true label (`true`, the empirical Fisher information).

    Returns:
        A tensor for each trainable parameter, in the order of `network.parameters()`.
    """
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    owners = {network.get_submodule(name.rpartition(".")[0]) for name in names}
    squares = _batched_squares if all(isinstance(owner, Linear) for owner in owners) else _per_sample_squares
    whole = [torch.zeros_like(network.get_parameter(name)) for name in names]
    count, draws = 0, context.streams.generator(replica, StreamNames.FISHER_LABELS, context.task)
    for x, y in samples:
        for total, found in zip(
            whole, squares(network, names, x, y, context.competing_units[y], labels, draws), strict=True
        ):
            total += found
        count += x.shape[0]
    return [total / max(1, count) for total in whole]


def _label_weights(
    log_p: Tensor, y: Tensor, units: Tensor, labels: FisherLabels, draws: torch.Generator
) -> Iterator[Tensor]:
    """Weights (B, U) of log-probabilities, one tensor for each backward pass.

    The squared gradients of the weighted sums add up to the expectation over labels.
    """
    if labels == "true":
        yield nn.functional.one_hot(y, log_p.shape[1]).to(log_p.dtype)
    elif labels == "sampled":
        drawn = torch.multinomial(log_p.exp(), 1, generator=draws).squeeze(1)
        yield nn.functional.one_hot(drawn, log_p.shape[1]).to(log_p.dtype)
    else:
        for unit in units.any(0).nonzero().squeeze(1):
            weight = torch.zeros_like(log_p)
            # The square of a gradient that is weighed by sqrt(p) is weighed by p.
            weight[:, unit] = (0.5 * log_p[:, unit]).exp() * units[:, unit]
            yield weight


def _batched_squares(
    network: nn.Module,
    names: list[str],
    x: Tensor,
    y: Tensor,
    units: Tensor,
    labels: FisherLabels,
    draws: torch.Generator,
) -> list[Tensor]:
    """Sums of squared per-sample gradients of `Linear` networks: one backward pass per label."""
    parameters = [network.get_parameter(name) for name in names]
    whole = [torch.zeros_like(parameter) for parameter in parameters]
    with torch.enable_grad(), per_sample_squared_gradients():
        log_p = masked_log_softmax(network(x).to(x.dtype), units)
    for direction in _label_weights(log_p.detach(), y, units, labels, draws):
        found = torch.autograd.grad((direction * log_p).sum(), parameters, retain_graph=True, allow_unused=True)
        for total, squares in zip(whole, found, strict=True):
            if squares is not None:
                total += squares
    return whole


def _per_sample_squares(
    network: nn.Module,
    names: list[str],
    x: Tensor,
    y: Tensor,
    units: Tensor,
    labels: FisherLabels,
    draws: torch.Generator,
) -> list[Tensor]:
    """Sums of squared per-sample gradients of any network, by `vmap` where it can be used."""
    values = {name: network.get_parameter(name).detach() for name in names}

    def log_p(values: dict[str, Tensor], x: Tensor, units: Tensor) -> Tensor:
        return masked_log_softmax(functional_call(network, values, (x,)).to(x.dtype), units)

    def objective(values: dict[str, Tensor], x: Tensor, units: Tensor, direction: Tensor) -> Tensor:
        return (direction * log_p(values, x.unsqueeze(0), units)).sum()

    alone = grad(objective)
    together = vmap(alone, in_dims=(None, 0, 0, 0))
    whole = [torch.zeros_like(value) for value in values.values()]
    size = max(1, min(128, _MAX_GRADIENT_VALUES // max(1, sum(value.numel() for value in values.values()))))
    for part, labelled, competing in zip(x.split(size), y.split(size), units.split(size), strict=True):
        with torch.no_grad():
            known = log_p(values, part, competing)
        for direction in _label_weights(known, labelled, competing, labels, draws):
            try:
                found = [together(values, part, competing, direction)]
            except RuntimeError:  # a network that looks at values, as some of a user's own do
                found = [alone(values, *one) for one in zip(part, competing, direction, strict=True)]
            for each in found:
                for total, name in zip(whole, names, strict=True):
                    total += each[name].square().view(-1, *total.shape).sum(0)
    return whole
