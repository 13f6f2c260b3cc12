"""Optimisers as values: what the user chose, from which one torch optimiser per set of parameters is made."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from gr_cli.checks import Count, NonNegative, Positive, Share

Schedule = Literal["constant", "cosine", "linear"]


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
    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A fresh torch optimiser for `parameters`."""

    def lr_at(self, iteration: int, iterations: int) -> float:
        """The learning rate of step `iteration` (from 0) of a task of `iterations` steps."""
        if iteration < self.warmup:
            return self.lr * (iteration + 1) / self.warmup
        done = (iteration - self.warmup) / max(1, iterations - self.warmup)
        factor = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
        return self.lr * factor[self.schedule]


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015)."""

    betas: Sequence[Share] = (0.9, 0.999)
    eps: Positive = 1e-8

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            parameters, self.lr, (self.betas[0], self.betas[1]), self.eps, self.weight_decay, fused=True
        )


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    weight_decay: NonNegative = 0.01
    betas: Sequence[Share] = (0.9, 0.999)
    eps: Positive = 1e-8

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            parameters, self.lr, (self.betas[0], self.betas[1]), self.eps, self.weight_decay, fused=True
        )


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if wanted."""

    lr: Positive = 0.1
    momentum: Share = 0.0
    nesterov: bool = False

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters, self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov, fused=True
        )
