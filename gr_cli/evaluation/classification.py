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
    """

    name: Hashable
    samples: Samples
    units: Tensor


class _Part(NamedTuple):
    """Consecutive samples of a set: its index, the first sample's position in it, x (B, ...) and labels (B,)."""

    set_index: int
    start: int
    x: Tensor
    labels: Tensor


def classify_sets(learner: Learner, replica: int, sets: Sequence[SampleSet]) -> list[ClassifiedSamples]:
    """The predictions of one solver on sets of samples; small sets share a forward pass."""
    parts: list[list[ClassifiedSamples]] = [[] for _ in sets]
    size = 0 if learner.logits_depend_on_batch else EVALUATION_BATCH
    with learner.classifier(replica) as logits_of:
        for batch in _batches(sets, size):
            batch_id = (sets[batch[0].set_index].name, batch[0].start) if len(batch) == 1 else None
            logits = logits_of(_cat([part.x for part in batch]), batch_id)
            labels = _cat([part.labels for part in batch])
            sizes = [len(part.labels) for part in batch]
            units = [sets[part.set_index].units for part in batch]
            if all(of_part is units[0] for of_part in units):
                classified = classify(logits, labels, units[0])
            else:
                group = torch.arange(len(batch)).repeat_interleave(torch.tensor(sizes)).to(labels.device)
                classified = classify(logits, labels, torch.stack(units), group)
            for part, predictions in zip(batch, classified.split(sizes), strict=True):
                parts[part.set_index].append(predictions)
    return [ClassifiedSamples.concatenate(of_set) for of_set in parts]


def _batches(sets: Sequence[SampleSet], size: int) -> Iterator[list[_Part]]:
    """The samples of all sets in order, in batches of at most `size`, or of one part each."""
    batch: list[_Part] = []
    for set_index, (_, samples, _) in enumerate(sets):
        start = 0
        for x, labels in samples.batches():
            if batch and sum(len(part.labels) for part in batch) + len(labels) > size:
                yield batch
                batch = []
            batch.append(_Part(set_index, start, x, labels))
            start += len(labels)
    if batch:
        yield batch


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
