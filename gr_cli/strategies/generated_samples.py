"""Replay of samples from frozen generators, likelihood targets, and fitting closed-form generators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gr_cli.generators.base import Generator
from gr_cli.nn.layers import per_replica
from gr_cli.nn.losses import soft_targets
from gr_cli.nn.operation_count import shared_work
from gr_cli.nn.random_streams import StreamNames
from gr_cli.nn.replicas import Replicas
from gr_cli.strategies.context import Batch, TaskContext, TrainingStep
from gr_cli.strategies.replay import ReplayBatch

_CHUNK_SIZE = 1024  # samples per forward pass: large enough for fast matrix products, small enough for the cache
_MIN_CHUNK_PER_REPLICA = 64  # samples per forward pass and replica, at least


class GeneratedReplay:
    """Replay batches of frozen generators, determined by their state, random streams and training step.

    Args:
        context: The current task.
        frozen_generators: Generators that are sampled in turn.
        task_units: Classes of each generator, bool (G, U), that are requested from conditional ones.
        target_function: Targets of samples (R, N, ...) and requested labels (R, N) or None.
        stream_suffix: Suffix of the names of the random streams.
        pool_size: Number of samples generated once per task that batches are drawn from; None: new samples in each
            iteration.
    """

    def __init__(
        self,
        context: TaskContext,
        frozen_generators: Sequence[Replicas[Generator]],
        task_units: Tensor,
        target_function: Callable[[Tensor, Tensor | None], Tensor],
        stream_suffix: str = "",
        pool_size: int | None = None,
    ) -> None:
        self._context, self._frozen_generators = context, frozen_generators
        self._target_function, self._stream_suffix = target_function, stream_suffix
        self._task_units = task_units if len(frozen_generators) > 1 else task_units.any(0, keepdim=True)
        self._pool_size = pool_size
        self._cached: tuple[tuple[int, int, int], list[ReplayBatch]] | None = None
        self._selected: tuple[int, TrainingStep, ReplayBatch] | None = None  # from the pool, in the last step

    def at_step(self, size: int, step: TrainingStep) -> ReplayBatch:
        """The replay batch of a step, with `size` samples; the same at each call."""
        if self._pool_size is not None:
            if self._selected is None or self._selected[:2] != (size, step):
                uniform = self._context.uniform(f"{StreamNames.REPLAY_POOL}{self._stream_suffix}.choice", size, step)
                index = (uniform * self._pool_size).long().clamp(max=self._pool_size - 1)
                self._selected = (size, step, self._block(0, self._pool_size, 1, None)[0].select(index))
            return self._selected[2]
        per_block = max(1, _CHUNK_SIZE // size)
        block, offset = divmod(step.iteration, per_block)
        return self._block(block, size, per_block, per_block)[offset]

    def _block(self, block: int, size: int, num_batches: int, steps: int | None) -> list[ReplayBatch]:
        """The batches of several steps, or a pool for all steps of the task (None), which are generated at once."""
        key, stream = (block, size, num_batches), f"{StreamNames.REPLAY}{self._stream_suffix}"
        with shared_work(stream, steps):
            if self._cached is None or self._cached[0] != key:
                self._cached = None  # free the old samples before new ones are generated
                self._cached = (key, self.generate(size * num_batches, stream, block).split(size))
            return self._cached[1]

    @torch.no_grad()
    def generate(self, num_samples: int, stream: str, *key: int) -> ReplayBatch:
        """Generate samples from the random stream (`stream`, task, `key`)."""
        context, chunks = self._context, []
        labels = None
        if self._frozen_generators[0].modules[0].conditional:
            labels = round_robin_labels(self._task_units, num_samples).expand(context.streams.replicas, -1)
        latent = {
            name: context.streams.draw(noise.distribution, f"{stream}.{name}", context.task, *key, shape=noise.shape)
            for name, noise in self._frozen_generators[0].noise_specs("latent_noise", num_samples).items()
        }
        size = max(_CHUNK_SIZE // context.streams.replicas, _MIN_CHUNK_PER_REPLICA)
        for start in range(0, num_samples, size):
            stop = min(start + size, num_samples)
            chunk_latent = {name: noise[:, start:stop] for name, noise in latent.items()}
            chunk_labels = None if labels is None else labels[:, start:stop]
            x = decode_round_robin(self._frozen_generators, chunk_latent, chunk_labels, start).to(context.streams.dtype)
            gated = self._frozen_generators[0].modules[0].gated_by_task
            tasks = self._frozen_generators[0].call("gating_tasks", chunk_latent) if gated else None
            chunks.append(ReplayBatch(x, self._target_function(x, chunk_labels), labels=chunk_labels, tasks=tasks))
        return ReplayBatch.concatenate(chunks)


@dataclass
class LikelihoodTargets:
    """Class probabilities of samples by the generator's likelihood: softmax of log p(x | y) / T.

    Attributes:
        context: The current task.
        temperature: T, one number or one for each replica (R,).
        known_units: Classes with a nonzero probability: bool (U,).
    """

    context: TaskContext
    temperature: float | Tensor
    known_units: Tensor
    _tables: list[Tensor] | None = None

    def clear_cache(self) -> None:
        """Discard the cached targets of the current task."""
        self._tables = None

    def targets(self, x: Tensor) -> Tensor:
        """Targets of samples (R, N, ...), for one head: (R, N, 1, U)."""
        generators = self.context.generator.modules
        each = [generator.learned_log_likelihoods(own) for generator, own in zip(generators, x, strict=True)]
        log_likelihoods = torch.stack(each).to(x.dtype)
        temperature = per_replica(self.temperature, log_likelihoods)
        return soft_targets(log_likelihoods, self.known_units, temperature).unsqueeze(-2)

    @torch.no_grad()
    def current_targets(self, batch: Batch) -> Tensor:
        """Targets (R, B, 1, U) of samples of the current task, computed once for each sample."""
        if batch.sample_index is None:
            return self.targets(batch.x)
        if self._tables is None:
            context = self.context
            self._tables = []
            for replica, generator in enumerate(context.generator.modules):
                with shared_work("likelihood_targets", None):
                    log_likelihoods = torch.cat(
                        [generator.learned_log_likelihoods(x) for x, _ in context.sample_pass(replica)]
                    )
                temperature = self.temperature[replica] if isinstance(self.temperature, Tensor) else self.temperature
                self._tables.append(soft_targets(log_likelihoods.to(batch.x.dtype), self.known_units, temperature))
        rows = [table.index_select(0, index) for table, index in zip(self._tables, batch.sample_index, strict=True)]
        return torch.stack(rows).unsqueeze(-2)


def requested_label_targets(x: Tensor, labels: Tensor | None) -> Tensor:
    """Requested labels (R, N) as targets (R, N, 1) of generated samples."""
    assert labels is not None
    return labels.unsqueeze(-1)


def round_robin_labels(task_units: Tensor, num_samples: int) -> Tensor:
    """Classes requested from generators that are sampled in turn.

    Args:
        task_units: Classes of each generator: bool (G, U).
        num_samples: N.

    Returns:
        Classes (N,): sample i is generated by generator i modulo G, which cycles through its classes.
    """
    positions = torch.arange(num_samples, device=task_units.device)
    labels = torch.empty_like(positions)
    for i, units in enumerate(task_units):
        classes = units.nonzero().squeeze(1)
        own_labels = labels[i :: len(task_units)]
        own_labels.copy_(classes[positions[: len(own_labels)] % len(classes)])
    return labels


def decode_round_robin(
    generators: Sequence[Replicas[Generator]], latent: Mapping[str, Tensor], labels: Tensor | None, first_index: int
) -> Tensor:
    """Decode the samples of generators that are sampled in turn.

    Args:
        generators: G generators.
        latent: Latent noise (R, N, ...) by name.
        labels: Requested classes (R, N), for conditional generators.
        first_index: Number of the first of these samples in the sequence: sample i is generator i modulo G's.

    Returns:
        Samples (R, N, ...).
    """
    if len(generators) == 1:
        samples: Tensor = generators[0].call("decode", latent, *([] if labels is None else [labels]))
        return samples
    slices = [slice((i - first_index) % len(generators), None, len(generators)) for i in range(len(generators))]
    decoded: list[Tensor] = []
    for generator, own_slice in zip(generators, slices, strict=True):
        own_latent = {name: noise[:, own_slice] for name, noise in latent.items()}
        decoded.append(generator.call("decode", own_latent, *([] if labels is None else [labels[:, own_slice]])))
    interleaved = decoded[0].new_empty((len(decoded[0]), sum(x.shape[1] for x in decoded), *decoded[0].shape[2:]))
    for own_slice, x in zip(slices, decoded, strict=True):
        interleaved[:, own_slice] = x
    return interleaved


def fit_classes(context: TaskContext) -> None:
    """Fit the closed-form generator of each replica to the classes of the task, one by one.

    To those that have samples, or to all that the task may have, where `fits_classes_without_samples`.
    """
    task_classes = context.task_units[context.task].nonzero().squeeze(1)
    for replica, generator in enumerate(context.generator.modules):
        samples = list(context.sample_pass(replica))
        x, y = torch.cat([x for x, _ in samples]), torch.cat([y for _, y in samples])
        with torch.autocast(x.device.type, enabled=False):  # closed-form solutions need full precision
            generator.begin_fit(x, context.streams.generator(replica, StreamNames.CLOSED_FORM_FIT, context.task))
            classes = task_classes if generator.fits_classes_without_samples else y.unique()
            for label in classes.tolist():
                random = context.streams.generator(replica, StreamNames.CLOSED_FORM_FIT, context.task, label)
                generator.fit_class(x.index_select(0, (y == label).nonzero().squeeze(1)), label, random)
            generator.end_fit()
            generator.mark_learned(torch.zeros_like(context.task_units[0]).index_fill(0, classes.to(y.device), True))
