"""The solvers in one training step, as a strategy calls them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from gr_cli.nn.augmentation import Augment
from gr_cli.nn.random_streams import Streams
from gr_cli.nn.replicas import Replicas
from gr_cli.strategies.steps import Position, Solve


@dataclass(frozen=True)
class SolverForward(Solve):
    """The solvers in the training step at `position`.

    solvers: the networks, called on samples (R, B, ...).
    streams: where augmentation and the solvers' own noise come from; their type is that of the logits.
    augment: random changes of the samples; features are taken as they are.
    needs_noise: whether the solvers ask for their noise instead of drawing it.
    position: the step, which decides what the streams give.
    """

    solvers: Replicas[nn.Module]
    streams: Streams
    augment: Augment
    needs_noise: bool
    position: Position

    def __call__(self, x: Tensor, /) -> Tensor:
        return self._of_samples("__call__", x)

    def features(self, x: Tensor, /) -> Tensor:
        return self._of_samples("features", x)

    def readout(self, features: Tensor, /) -> Tensor:
        return cast(Tensor, self.solvers.call("readout", features)).to(self.streams.dtype)

    def _of_samples(self, method: str, x: Tensor) -> Tensor:
        task, iteration = self.position.task, self.position.iteration
        x = self.augment(x, self.streams, task, iteration)
        wanted = self.solvers.noise("noise_needed", x.shape[1]) if self.needs_noise else {}
        noise = [self.streams.batch(wanted, "solver", task, iteration)] if wanted else []
        return cast(Tensor, self.solvers.call(method, x, *noise)).to(self.streams.dtype)
