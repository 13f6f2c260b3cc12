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
_MAX_GRADIENT_VALUES = 1 << 24  # values of per-sample gradients at a time: 64 MiB of float32


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
    sum_of_squares = _batched_squares if all(isinstance(owner, Linear) for owner in owners) else _per_sample_squares
    totals = [torch.zeros_like(network.get_parameter(name)) for name in names]
    count, generator = 0, context.streams.generator(replica, StreamNames.FISHER_LABELS, context.task)
    for x, y in samples:
        for total, squares_of_batch in zip(
            totals, sum_of_squares(network, names, x, y, context.competing_units[y], labels, generator), strict=True
        ):
            total += squares_of_batch
        count += x.shape[0]
    return [total / max(1, count) for total in totals]


def _label_weights(
    log_p: Tensor, y: Tensor, units: Tensor, labels: FisherLabels, generator: torch.Generator
) -> Iterator[Tensor]:
    """Weights (B, U) of log-probabilities, one tensor for each backward pass.

    The squared gradients of the weighted sums add up to the expectation over labels.
    """
    if labels == "true":
        yield nn.functional.one_hot(y, log_p.shape[1]).to(log_p.dtype)
    elif labels == "sampled":
        drawn = torch.multinomial(log_p.exp(), 1, generator=generator).squeeze(1)
        yield nn.functional.one_hot(drawn, log_p.shape[1]).to(log_p.dtype)
    else:
        for unit in units.any(0).nonzero().squeeze(1):
            weight = torch.zeros_like(log_p)
            # A gradient weighted by sqrt(p) has a square weighted by p.
            weight[:, unit] = (0.5 * log_p[:, unit]).exp() * units[:, unit]
            yield weight


def _batched_squares(
    network: nn.Module,
    names: list[str],
    x: Tensor,
    y: Tensor,
    units: Tensor,
    labels: FisherLabels,
    generator: torch.Generator,
) -> list[Tensor]:
    """Sums of squared per-sample gradients of `Linear` networks: one backward pass per label."""
    parameters = [network.get_parameter(name) for name in names]
    totals = [torch.zeros_like(parameter) for parameter in parameters]
    with torch.enable_grad(), per_sample_squared_gradients():
        log_p = masked_log_softmax(network(x).to(x.dtype), units)
    for direction in _label_weights(log_p.detach(), y, units, labels, generator):
        gradients = torch.autograd.grad((direction * log_p).sum(), parameters, retain_graph=True, allow_unused=True)
        for total, squares in zip(totals, gradients, strict=True):
            if squares is not None:
                total += squares
    return totals


def _per_sample_squares(
    network: nn.Module,
    names: list[str],
    x: Tensor,
    y: Tensor,
    units: Tensor,
    labels: FisherLabels,
    generator: torch.Generator,
) -> list[Tensor]:
    """Sums of squared per-sample gradients of any network, by `vmap` where it can be used."""
    values = {name: network.get_parameter(name).detach() for name in names}

    def log_p(values: dict[str, Tensor], x: Tensor, units: Tensor) -> Tensor:
        return masked_log_softmax(functional_call(network, values, (x,)).to(x.dtype), units)

    def objective(values: dict[str, Tensor], x: Tensor, units: Tensor, direction: Tensor) -> Tensor:
        return (direction * log_p(values, x.unsqueeze(0), units)).sum()

    gradient = grad(objective)
    batched_gradient = vmap(gradient, in_dims=(None, 0, 0, 0))
    totals = [torch.zeros_like(value) for value in values.values()]
    size = max(1, min(128, _MAX_GRADIENT_VALUES // max(1, sum(value.numel() for value in values.values()))))
    for chunk, chunk_y, chunk_units in zip(x.split(size), y.split(size), units.split(size), strict=True):
        with torch.no_grad():
            chunk_log_p = log_p(values, chunk, chunk_units)
        for direction in _label_weights(chunk_log_p, chunk_y, chunk_units, labels, generator):
            try:
                gradients = [batched_gradient(values, chunk, chunk_units, direction)]
            except RuntimeError:  # networks with data-dependent control flow can't be vmapped
                gradients = [gradient(values, *sample) for sample in zip(chunk, chunk_units, direction, strict=True)]
            for by_name in gradients:
                for total, name in zip(totals, names, strict=True):
                    total += by_name[name].square().view(-1, *total.shape).sum(0)
    return totals
