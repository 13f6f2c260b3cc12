"""Which tasks are evaluated after a task, and their classification in batches that span tasks."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gr_cli.benchmarks.base import EVALUATION_BATCH, Samples
from gr_cli.nn.random_streams import RandomStreams, StreamNames
from gr_cli.training.learner import Learner
from gr_cli.training.scoring import ClassifiedSamples, classify

EvaluatedTasks = Literal["all", "seen", "sampled"]
NUM_SAMPLED_TASKS = 10  # earlier tasks that `sampled` draws
_MAX_LOGITS = 1 << 17  # logits that are classified at once, unless a batch has more


def tasks_to_evaluate(
    choice: EvaluatedTasks, seed: int, num_tasks: int, after_task: int, task_finished: bool
) -> list[int]:
    """The tasks that are evaluated, in ascending order.

    Args:
        choice: `all`: all tasks. `seen`: the tasks so far. `sampled`: the current task and ten earlier ones, drawn
            evenly without repetition; all after the last task, so that the final accuracies are complete.
        seed: Seed of the run. The draw is a function of it and of `after_task`.
        num_tasks: Number of tasks T.
        after_task: Task in training or trained last, from 0; -1 before training, when only `all` evaluates any.
        task_finished: Whether its training is over.
    """
    if choice == "all" or (after_task == num_tasks - 1 and task_finished):
        return list(range(num_tasks))
    if choice == "seen" or after_task <= NUM_SAMPLED_TASKS:
        return list(range(after_task + 1))
    drawn = RandomStreams(seed).permutation(StreamNames.EVALUATED_TASKS, after_task, n=after_task)
    return [*sorted(drawn[:NUM_SAMPLED_TASKS].tolist()), after_task]


class SampleSet(NamedTuple):
    """Labelled samples that are evaluated.

    Attributes:
        name: Identifies the samples in all evaluations of a run.
        samples: The samples.
        units: The output units that compete on them, bool (U,).
        task: Their task.
    """

    name: Hashable
    samples: Samples
    units: Tensor
    task: int = 0


class _Part(NamedTuple):
    """Consecutive samples of a set: its index, the first sample's position in it, x (B, ...) and labels (B,)."""

    set_index: int
    start: int
    x: Tensor
    labels: Tensor


def classify_sets(learner: Learner, replica: int, sets: Sequence[SampleSet]) -> list[ClassifiedSamples]:
    """The predictions of one solver on sets of samples; small sets share a forward pass."""
    size = 0 if learner.logits_depend_on_batch else EVALUATION_BATCH
    classified, waiting = [], _WaitingLogits(sets)
    with learner.classifier(replica) as logits_of:
        for batch in _batches(sets, size):
            batch_id = (sets[batch[0].set_index].name, batch[0].start) if len(batch) == 1 else None
            # A copy: a solver may change its input in place.
            logits = logits_of(torch.cat([part.x for part in batch]), batch_id, sets[batch[0].set_index].task)
            if waiting.num_values and waiting.num_values + logits.numel() > _MAX_LOGITS:
                classified.append(waiting.classify())
            waiting.add(logits, batch)
    if waiting.num_values:
        classified.append(waiting.classify())
    return ClassifiedSamples.concatenate(classified).split([len(each.samples) for each in sets])


class _WaitingLogits:
    """Logits of several batches that are classified at once: for few units, operators take longer than numbers.

    Args:
        sets: The sets of samples.
    """

    def __init__(self, sets: Sequence[SampleSet]) -> None:
        self._sets, self.num_values = sets, 0
        self._logits: list[Tensor] = []
        self._parts: list[_Part] = []

    def add(self, logits: Tensor, batch: Sequence[_Part]) -> None:
        """Add the logits (B, U) of a batch."""
        self._logits.append(logits)
        self._parts += batch
        self.num_values += logits.numel()

    def classify(self) -> ClassifiedSamples:
        """Classify all samples, in order, and forget their logits."""
        logits = self._logits[0] if len(self._logits) == 1 else torch.cat(self._logits)
        labels = torch.cat([part.labels for part in self._parts])
        units = [self._sets[part.set_index].units for part in self._parts]
        if all(of_part is units[0] for of_part in units):
            classified = classify(logits, labels, units[0])
        else:
            sizes = torch.tensor([len(part.labels) for part in self._parts])
            group = torch.arange(len(sizes)).repeat_interleave(sizes).to(labels.device)
            classified = classify(logits, labels, torch.stack(units), group)
        self._logits, self._parts, self.num_values = [], [], 0
        return classified


def _batches(sets: Sequence[SampleSet], size: int) -> Iterator[list[_Part]]:
    """The samples of all sets in order, in batches of at most `size`, or of one part each."""
    batch: list[_Part] = []
    for set_index, samples in enumerate(each.samples for each in sets):
        start = 0
        for x, labels in _stored_batches(samples) or samples.batches():
            if batch and sum(len(part.labels) for part in batch) + len(labels) > size:
                yield batch
                batch = []
            batch.append(_Part(set_index, start, x, labels))
            start += len(labels)
    if batch:
        yield batch


def _stored_batches(samples: Samples) -> list[tuple[Tensor, Tensor]] | None:
    """As `Samples.batches`, but views of the store; None unless it holds the samples as they are read."""
    store, y = samples.store, samples.y
    if samples.index is not None or samples.transform is not None:
        return None
    if not store.is_floating_point() or store.device != y.device:  # a mapped store stays on the CPU
        return None
    return list(zip(store.split(EVALUATION_BATCH), y.split(EVALUATION_BATCH), strict=True))
