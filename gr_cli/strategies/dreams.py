"""What strategies do with generators: ask them in turn, and fit those that learn in one go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gr_cli.generators.base import Generator
from gr_cli.replicas import Replicas
from gr_cli.strategies.base import Situation


def in_turn(heads: Tensor, number: int) -> Tensor:
    """Classes for so many dreams, of generators that dream in turn, each of the classes in its row of `heads` bool
    (G, U): (number,). The i-th dream is the turn of generator i modulo G, whose classes come in turn."""
    turns = torch.arange(number, device=heads.device)
    labels = torch.empty_like(turns)
    for i, head in enumerate(heads):
        classes = head.nonzero().squeeze(1)
        mine = labels[i :: len(heads)]
        mine.copy_(classes[turns[: len(mine)] % len(classes)])
    return labels


def decoded(
    dreamers: Sequence[Replicas[Generator]], latent: Mapping[str, Tensor], labels: Tensor | None, first: int
) -> Tensor:
    """Dreams (R, N, ...) of generators that dream in turn, of which these are the ones from number `first` on."""
    if len(dreamers) == 1:
        found: Tensor = dreamers[0].call("decode", latent, *([] if labels is None else [labels]))
        return found
    number = next(iter(latent.values())).shape[1]
    whole: Tensor | None = None
    for i, dreamer in enumerate(dreamers):
        turn = slice((i - first) % len(dreamers), None, len(dreamers))
        mine = {name: noise[:, turn] for name, noise in latent.items()}
        x = dreamer.call("decode", mine, *([] if labels is None else [labels[:, turn]]))
        if whole is None:
            whole = x.new_empty((x.shape[0], number, *x.shape[2:]))
        whole[:, turn] = x
    assert whole is not None
    return whole


def fit_classes(situation: Situation) -> None:
    """Fit the generator of each replica to the classes of the task, one by one."""
    assert situation.generator is not None
    for replica, generator in enumerate(situation.generator.modules):
        samples = list(situation.samples(replica))
        x, y = torch.cat([x for x, _ in samples]), torch.cat([y for _, y in samples])
        with torch.autocast(x.device.type, enabled=False):  # what is solved exactly shall not be coarse
            for label in y.unique().tolist():
                generator.fit(x[y == label], label, situation.streams.generator(replica, "fit", situation.task, label))
