"""Optimisers as values: what the user chose. Their state is a plain dict of tensors, one list per moment.

The arithmetic is torch's own, through its functional interface: the classes around it would take longer than it does
on small networks, and import a second and a half of compiler.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from gr_cli.checks import Betas, Count, NonNegative, Positive, Share
from gr_cli.errors import ConfigError

Schedule = Literal["constant", "cosine", "linear"]
Moments = dict[str, list[Tensor]]


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """Settings that all optimisers share.

    Args:
        lr: learning rate at its highest.
        weight_decay: strength of the optimiser's own weight decay.
        reset_per_task: forget moments and momenta at the start of each task.
        schedule: course of the learning rate over one task; `cosine` and `linear` fall to 0 at its end.
        warmup: iterations over which the rate rises linearly at the start of each task.
    """

    lr: Positive = 0.001
    weight_decay: NonNegative = 0.0
    reset_per_task: bool = False
    schedule: Schedule = "constant"
    warmup: Count = 0

    @abstractmethod
    def start(self, parameters: Sequence[Tensor]) -> Moments:
        """The state before the first step."""

    @abstractmethod
    def step(self, parameters: list[Tensor], gradients: list[Tensor], moments: Moments, lr: float) -> None:
        """Change `parameters` and `moments` in place."""

    def lr_at(self, iteration: int, iterations: int) -> float:
        """The learning rate of step `iteration` (from 0) of a task of `iterations` steps."""
        if iteration < self.warmup:
            return self.lr * (iteration + 1) / self.warmup
        if self.schedule == "constant":
            return self.lr
        done = (iteration - self.warmup) / max(1, iterations - self.warmup)
        return self.lr * (1.0 - done if self.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done)))


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015)."""

    betas: Betas = (0.9, 0.999)
    eps: Positive = 1e-8

    def start(self, parameters: Sequence[Tensor]) -> Moments:
        return {
            "first": [torch.zeros_like(p) for p in parameters],
            "second": [torch.zeros_like(p) for p in parameters],
            "steps": [torch.zeros((), device=p.device) for p in parameters],
        }

    def step(self, parameters: list[Tensor], gradients: list[Tensor], moments: Moments, lr: float) -> None:
        self._rule(
            parameters,
            gradients,
            moments["first"],
            moments["second"],
            [],
            moments["steps"],
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=lr,
            weight_decay=self.weight_decay,
            eps=self.eps,
            maximize=False,
        )

    _rule: ClassVar[Any] = staticmethod(adam)


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    weight_decay: NonNegative = 0.01

    _rule: ClassVar[Any] = staticmethod(adamw)


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if wanted."""

    lr: Positive = 0.1
    momentum: Share = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise ConfigError("optimizer.nesterov", "true", "needs momentum", "try optimizer.momentum=0.9")

    def start(self, parameters: Sequence[Tensor]) -> Moments:
        return {"momentum": [torch.zeros_like(p) for p in parameters]} if self.momentum else {}

    def step(self, parameters: list[Tensor], gradients: list[Tensor], moments: Moments, lr: float) -> None:
        sgd(
            parameters,
            gradients,
            list(moments.get("momentum", [None] * len(parameters))),
            fused=True,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            lr=lr,
            dampening=0.0,
            nesterov=self.nesterov,
            maximize=False,
        )
