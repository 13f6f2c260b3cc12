"""Differentially private stochastic gradient descent (Abadi et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from torch import Tensor

from gr_cli.errors import ConfigError
from gr_cli.nn.gradient_rules.base import GradientRule, GradientStep, Loss
from gr_cli.nn.gradient_rules.clipped_sum import ClippedGradients
from gr_cli.nn.layer_calls import LayerCall, record_layer_calls
from gr_cli.nn.layers import per_replica, replica_value
from gr_cli.nn.replicas import Replicas
from gr_cli.privacy import accounting
from gr_cli.privacy.access import Access
from gr_cli.privacy.noise import gaussian_noise
from gr_cli.privacy.settings import PrivacySettings
from gr_cli.types import Positive, VariesPerReplica


class DPSGD(GradientRule):
    """Differentially private SGD: clipped gradients of single samples, and noise (Abadi et al. 2016).

    Each step reads a Poisson sample of the task, each training sample with probability `privacy.sampling_rate`. The
    gradient of each is scaled down to a norm of at most `max_norm` over all parameters together, and Gaussian noise of
    deviation `noise_multiplier * max_norm` is added to their sum, which is divided by the expected number of samples
    in a task of the largest size that fits. What does not depend on current samples, such as the loss on generated
    samples, is neither clipped nor noised. A gradient that is not finite counts as 0.

    A batch has `train.batch_size` positions; those without a sample contribute nothing. They have to be so many that
    more samples are drawn with a probability that costs at most a tenth of `privacy.delta`. Metrics: `gradient_norm`,
    the mean norm before clipping, and `clipped`, the share of samples whose gradient was scaled down.

    Args:
        max_norm: Largest Euclidean norm of a sample's gradient after clipping.
        noise_multiplier: Standard deviation of the noise, in units of `max_norm`. None: the smallest with which all
            steps of a task stay within the budget.
        privacy: Budget of the run.
        steps: Steps per task that read samples; follows from `train.iterations`.
        batch_size: Positions of a batch: `train.batch_size`.

    Raises:
        ConfigError: The run has no budget, or the steps would spend more than it.
    """

    is_private = True

    def __init__(
        self,
        max_norm: Annotated[Positive, VariesPerReplica] = 1.0,
        noise_multiplier: Positive | None = None,
        privacy: PrivacySettings | None = None,
        steps: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.max_norm: float | Tensor = max_norm
        budget, rate, self.steps, size = _public_settings(privacy, steps, batch_size)
        self.secure, self.sampling_rate = budget.secure, rate
        # Of one task; the budgets of the tasks that a sample may be in add up.
        self.epsilon, self.delta = budget.epsilon / budget.tasks_per_sample, budget.delta / budget.tasks_per_sample
        self.largest_task = accounting.largest_task(size, rate, self.steps, self.epsilon, self.delta)
        self.expected_batch_size = rate * self.largest_task
        delta = (1 - accounting.OVERFLOW_SHARE) * self.delta
        if noise_multiplier is None:
            noise_multiplier = accounting.calibrated_noise(self.epsilon, delta, rate, max(1, self.steps))
        spent = accounting.subsampled_gaussian_epsilon(noise_multiplier, rate, self.steps, delta)
        if spent > self.epsilon:
            problem = f"{self.steps} steps would spend an epsilon of {spent:.3g}, and may spend {self.epsilon:.3g}"
            raise ConfigError("gradient_rule.noise_multiplier", noise_multiplier, problem, "null is calibrated to it")
        self.spent_epsilon = spent
        self.noise_multiplier = noise_multiplier
        self._calls: list[LayerCall] = []
        self._checked_task: int | None = None
        self._metrics: dict[str, Tensor] = {}

    @contextmanager
    def recording(self, networks: Replicas[Any]) -> Iterator[None]:
        with record_layer_calls(networks) as self._calls:
            yield

    def gradients(self, loss: Loss, parameters: Sequence[Tensor], step: GradientStep) -> list[Tensor | None]:
        calls, self._calls = self._calls, []  # they hold samples
        if loss.per_sample is None:
            problem = f"the loss of {step.name} can't be split into those of single samples"
            raise ConfigError("gradient_rule", "dp_sgd", problem, "try strategy=generative_replay")
        contributions = loss.per_sample()  # (R, B)
        weight = per_replica(loss.current_weight, contributions)
        losses = contributions * (contributions.shape[1] / weight)
        clipped = ClippedGradients(losses, calls, parameters)
        # The first batch of a task may be empty, or have a gradient that is not finite.
        if step.task != self._checked_task and clipped.check_sum():
            if loss.rest is not None:
                clipped.check_independence(loss.rest())
            self._checked_task = step.task
        factors, norms = clipped.clip_factors(self.max_norm)
        self._metrics = _metrics(factors, norms)
        sums = clipped.weighted_sum(factors)
        scale = loss.current_weight / self.expected_batch_size
        private = self._noised(sums, parameters, scale, step, len(losses))
        if loss.rest is None:
            return private
        rest = torch.autograd.grad(loss.rest().sum(), parameters, allow_unused=True, retain_graph=loss.keep_graph)
        return [b if a is None else a if b is None else a + b for a, b in zip(private, rest, strict=True)]

    def _noised(
        self,
        sums: Sequence[Tensor | None],
        parameters: Sequence[Tensor],
        scale: float | Tensor,
        step: GradientStep,
        replicas: int,
    ) -> list[Tensor | None]:
        """The sums with noise, times `scale`; noise is on the parameters that the loss depends on."""
        sizes = [0 if total is None else total.numel() // replicas for total in sums]
        deviations = [self.noise_multiplier * replica_value(self.max_norm, r) for r in range(replicas)]
        draws = [
            gaussian_noise((sum(sizes),), deviation, None if self.secure else step.generator(replica))
            for replica, deviation in enumerate(deviations)
        ]
        noise = torch.stack(draws).to(parameters[0]).split(sizes, 1)
        return [
            None if total is None else (total + own.view_as(total)) * _broadcast(scale, total, replicas)
            for total, own in zip(sums, noise, strict=True)
        ]

    def needed_batch_size(self, num_samples: int) -> int | None:
        if num_samples <= self.largest_task:
            return None
        return accounting.smallest_batch(num_samples, self.sampling_rate, self.steps, self.epsilon, self.delta)

    def private_accesses(self, task: int, classes: Sequence[int], part: str) -> list[Access]:
        norm, rate = replica_value(self.max_norm, 0), self.sampling_rate
        mechanism, noise = "subsampled_gaussian", self.noise_multiplier
        return [
            Access(task, part, tuple(classes), mechanism, noise, norm, rate, self.steps, self.spent_epsilon, self.delta)
        ]

    def metrics(self) -> dict[str, Tensor]:
        return self._metrics


def _metrics(factors: Tensor, norms: Tensor) -> dict[str, Tensor]:
    """Metrics (R,) of a step with factors and norms (R, B)."""
    is_sample, is_finite = norms > 0, norms.isfinite()
    mean = norms.where(is_finite, 0).sum(1) / (is_sample & is_finite).sum(1).clamp(min=1)
    clipped = (is_sample & (factors < 1)).sum(1) / is_sample.sum(1).clamp(min=1)
    return {"gradient_norm": mean.to(factors.dtype), "clipped": clipped}


def _broadcast(scale: float | Tensor, like: Tensor, replicas: int) -> float | Tensor:
    if isinstance(scale, Tensor):
        return scale.to(like.dtype).view(-1, *[1] * (like.dim() - 1)) if replicas > 1 else scale.to(like.dtype)
    return scale


def _public_settings(
    privacy: PrivacySettings | None, steps: int | None, batch_size: int | None
) -> tuple[PrivacySettings, float, int, int]:
    """Budget, sampling rate, steps and positions of a batch.

    Raises:
        ConfigError: One of them is missing.
    """
    if privacy is None:
        raise ConfigError("gradient_rule", "dp_sgd", "needs a privacy budget", "set privacy.epsilon")
    if privacy.sampling_rate is None:
        unset = "dp_sgd reads Poisson samples, and their rate must not follow from the size of a task"
        raise ConfigError("privacy.sampling_rate", None, unset, "set it, to 0.05 for example")
    if steps is None or batch_size is None:
        unknown = "dp_sgd needs a number of steps that does not follow from the size of a task"
        raise ConfigError("train.iterations", None, unknown, "set it, with train.epochs=null train.online=false")
    return privacy, privacy.sampling_rate, steps, batch_size
