"""What generated samples alone reveal about the training samples of a run, task by task, without shadow runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Samples, Task
from gr_cli.evaluation.attacks.generated_distance import (
    Estimate,
    attack_auc,
    authenticity,
    distance_ratio,
    distance_scores,
    median_radius,
    monte_carlo_scores,
    most_memorised,
)
from gr_cli.generators.base import Generator
from gr_cli.nn.random_streams import RandomStreams, StreamNames

NUM_GENERATED = 5000
MAX_CANDIDATES = 2000  # of training and of held-out samples of a task, evenly chosen
_BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True)
class GeneratedLeak:
    """What generated samples reveal about the training samples of one task.

    Attributes:
        task: The task.
        samples: Number of training samples, and of held-out samples, that are compared.
        generated: Number of generated samples.
        auc: Area under the ROC curve by the name of the attack: `monte_carlo` and `log_distance` (Hilprecht et al.
            2019), and `distance` to the nearest generated sample.
        distance_ratio: Distance to the nearest generated sample, training relative to held-out samples.
        authenticity: Share of authentic generated samples (Alaa et al. 2022).
        held_out_authenticity: The same with held-out samples in the place of training samples.
    """

    task: int
    samples: int
    generated: int
    auc: dict[str, Estimate]
    distance_ratio: Estimate
    authenticity: float
    held_out_authenticity: float


@dataclass(frozen=True)
class MemorisedPairs:
    """Generated samples beside their nearest training samples.

    Attributes:
        generated: Generated samples (K, ...).
        originals: The training sample nearest to each, (K, ...).
        relative_distances: Distance to it, divided by the distance to the nearest held-out sample, (K,), increasing.
    """

    generated: Tensor
    originals: Tensor
    relative_distances: Tensor


class GeneratedSamplesAudit:
    """Attacks on the generator of a run that see its samples only.

    Training samples are compared with as many held-out samples: those of the test set, or the candidates of a
    membership draw that were left out, which have exactly the same distribution.

    Args:
        generator: The generator after the last task.
        tasks: The tasks that it was trained on, with output units as labels.
        seed: Seed of generated samples and bootstrap.
        membership_draw: Whether the candidates of the tasks are those of a membership draw.
    """

    def __init__(self, generator: Generator, tasks: Sequence[Task], seed: int, membership_draw: bool = False) -> None:
        self._streams = RandomStreams(seed)
        like = next(value for value in generator.state_dict().values() if value.is_floating_point())
        draws = self._streams.generator(StreamNames.GENERATED_AUDIT)
        self.generated = generator.generate(NUM_GENERATED, generator=draws).to("cpu", like.dtype)
        self._sides = {task.id: _both_sides(task, like.dtype, membership_draw) for task in tasks}

    def leaks(self) -> list[GeneratedLeak]:
        """The figures of each task."""
        return [self._leak(task, *sides) for task, sides in self._sides.items()]

    def _leak(self, task: int, train: Tensor, held_out: Tensor) -> GeneratedLeak:
        candidates, number = torch.cat([train, held_out]), len(train)
        density = monte_carlo_scores(candidates, self.generated, median_radius(candidates, self.generated))
        nearest = distance_scores(candidates, self.generated)
        scores = {"monte_carlo": density.share, "log_distance": density.log_distance, "distance": nearest}
        stream = self._streams.generator(StreamNames.GENERATED_AUDIT, task)
        return GeneratedLeak(
            task,
            number,
            len(self.generated),
            {name: attack_auc(s[:number], s[number:], _BOOTSTRAP_DRAWS, stream) for name, s in scores.items()},
            distance_ratio(-nearest[:number], -nearest[number:], _BOOTSTRAP_DRAWS, stream),
            authenticity(self.generated, train),
            authenticity(self.generated, held_out),
        )

    def memorised(self, count: int) -> MemorisedPairs:
        """The generated samples that are most likely copies of training samples of any task."""
        train, held_out = (torch.cat([sides[i] for sides in self._sides.values()]) for i in (0, 1))
        rows, originals, relative = most_memorised(self.generated, train, held_out, count)
        return MemorisedPairs(self.generated[rows], train[originals], relative)


def _both_sides(task: Task, dtype: torch.dtype, membership_draw: bool) -> tuple[Tensor, Tensor]:
    """As many training as held-out samples, (N, ...) each."""
    members, others = task.train, task.test
    if membership_draw and task.candidates is not None:
        is_member = task.candidates.is_member
        members = task.candidates.samples.select(is_member.nonzero().squeeze(1))
        others = task.candidates.samples.select((~is_member).nonzero().squeeze(1))
    number = min(len(members), len(others), MAX_CANDIDATES)
    return _values(members.subsample(number), dtype), _values(others.subsample(number), dtype)


def _values(samples: Samples, dtype: torch.dtype) -> Tensor:
    return torch.cat([x for x, _ in samples.batches()]).to("cpu", dtype)
