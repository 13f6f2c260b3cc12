"""Membership scores: what solver and generator of a run say of each candidate sample, for membership inference.

`SCORES` lists the attacked parts. A score is a function of a sample, its label and the networks; the higher it is, the
more it speaks for membership. Random numbers of a score are those of the sample: the same in all runs of a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gr_cli.benchmarks.base import Task
from gr_cli.generators.base import UNLEARNED_LOG_LIKELIHOOD, Ensemble, Generator
from gr_cli.nn.layers import HasFeatures, train_mode
from gr_cli.nn.random_streams import RandomStreams, StreamNames, seeded
from gr_cli.results.membership_scores import MembershipScores, PartScores
from gr_cli.training.experiment import Experiment
from gr_cli.training.learner import Learner

NUM_DRAWS = 8  # of noise, over which the loss of a generator is averaged
NUM_IMPORTANCE_SAMPLES = 64  # for an estimated likelihood
NUM_GENERATED = 1000  # generated samples to which distances are measured
_DISTANCE_BATCH = 256
_DISTANCE = "distance_to_generated"


@dataclass(frozen=True)
class ScoringContext:
    """A run after a task.

    Attributes:
        experiment: Settings and benchmark of the run, with candidates.
        learner: Solvers and generators of all runs of the group.
        replica: Index of this run within the group.
        after_task: Task that was trained last.
    """

    experiment: Experiment
    learner: Learner
    replica: int
    after_task: int

    @property
    def tasks(self) -> list[Task]:
        """The tasks so far."""
        return [task for task in self.experiment.benchmark.tasks if task.id <= self.after_task]

    @property
    def generator(self) -> Generator | None:
        """The generator that replay samples from; None without one."""
        learner = self.learner
        if learner.generators is None:
            return None
        return learner.strategy.sampling_generator(self.replica, learner.generators.modules[self.replica])

    def noise_stream(self, *key: int) -> torch.Generator:
        """A random stream that is the same for all membership draws of a seed."""
        streams = RandomStreams(self.experiment.settings.seed, self.learner.device)
        return streams.generator(StreamNames.MEMBERSHIP_SCORES, *key)

    def batches(self, task: Task) -> Iterator[tuple[Tensor, Tensor]]:
        """The candidates of a task in order: x (B, ...) and labels (B,)."""
        assert task.candidates is not None
        for x, y in task.candidates.samples.batches():
            yield x.to(self.learner.dtype), y


class ScoreOfPart(NamedTuple):
    """Scores of the candidates of all tasks so far.

    Attributes:
        kind: What is computed.
        values: (N,), task after task.
    """

    kind: str
    values: Tensor


Score = Callable[[ScoringContext], ScoreOfPart | None]


@torch.no_grad()
def membership_scores(experiment: Experiment, learner: Learner, replica: int, after_task: int) -> MembershipScores:
    """The scores of all candidates of the tasks so far. Does not change random state or training mode."""
    context = ScoringContext(experiment, learner, replica, after_task)
    candidates = [task.candidates for task in context.tasks if task.candidates is not None]
    sizes = [len(each.samples) for each in candidates]
    parts: dict[str, PartScores] = {}
    for part, score in SCORES.items():
        if (scored := score(context)) is not None:
            parts[part] = PartScores(scored.kind, _as_array(scored.values))
    return MembershipScores(
        after_task,
        np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
        np.concatenate([np.arange(size, dtype=np.int32) for size in sizes]),
        torch.cat([each.samples.y for each in candidates]).cpu().numpy().astype(np.int32),
        torch.cat([each.is_member for each in candidates]).numpy(),
        parts,
    )


def _as_array(values: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The scores as float32, NaN where they are not finite."""
    values = values.double()
    return torch.where(values.isfinite(), values, torch.nan).float().cpu().numpy()


# --- solver


def solver_confidence(context: ScoringContext) -> ScoreOfPart | None:
    """Logit-scaled confidence log(p / (1 - p)) of the label's probability p (Carlini et al. 2022, section VI)."""
    learner, scenario, strategy = context.learner, context.learner.scenario, context.learner.strategy
    values = []
    for task in context.tasks:
        units = strategy.testing_units(scenario, context.experiment.task_units, task.id, context.after_task)
        for logits, labels in learner.predict(context.batches(task), context.replica, task.id):
            values.append(logit_scaled_confidence(logits.double(), labels, units))
    return ScoreOfPart("logit_scaled_confidence", torch.cat(values))


def logit_scaled_confidence(logits: Tensor, labels: Tensor, units: Tensor) -> Tensor:
    """log(p / (1 - p)) of the softmax probability p of the label among the competing units, (B,).

    Args:
        logits: (B, U).
        labels: (B,).
        units: The units that compete, bool (U,). Without another one than the label's the result is infinite.
    """
    is_label = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    others = logits.masked_fill(is_label | ~units, -torch.inf)
    return logits.gather(1, labels.unsqueeze(1)).squeeze(1) - others.logsumexp(1)


# --- generator


def generator_score(context: ScoringContext) -> ScoreOfPart | None:
    """The likelihood of a sample under the generator; else its negative loss; else the distance to generated samples.

    Which of them is a property of the generator: `class_likelihood`, and `density_objective`.
    """
    generator = context.generator
    if generator is None:
        return None
    first = _of_task(generator, 0)
    with (
        train_mode(generator, training=False),
        train_mode(context.learner.solvers.modules[context.replica], training=False),
        seeded(context.experiment.settings.seed, StreamNames.MEMBERSHIP_SCORES, context.after_task),
    ):
        if first.class_likelihood == "exact":
            return ScoreOfPart("log_likelihood", _by_batch(context, _exact_likelihood))
        if first.class_likelihood == "estimated":
            return ScoreOfPart("estimated_log_likelihood", _by_batch(context, _estimated_likelihood))
        if first.density_objective is not None:
            return ScoreOfPart(f"negative_{first.density_objective}_loss", _by_batch(context, _negative_loss))
        return ScoreOfPart(_DISTANCE, -_distances_to_generated(context, generator))


class _Batch(NamedTuple):
    """Candidates of a task: x (B, ...), labels (B,), the task, and the position of the batch among those of it."""

    x: Tensor
    labels: Tensor
    task: int
    position: int


def _of_task(generator: Generator, task: int) -> Generator:
    """The generator of a task, where each has its own."""
    if not isinstance(generator, Ensemble):
        return generator
    member = generator.members[task]
    assert isinstance(member, Generator)
    return member


def _by_batch(context: ScoringContext, score: Callable[[ScoringContext, Generator, _Batch], Tensor]) -> Tensor:
    """The scores of all candidates, batch by batch."""
    generator = context.generator
    assert generator is not None
    return torch.cat(
        [
            score(context, _of_task(generator, task.id), _Batch(x, labels, task.id, position))
            for task in context.tasks
            for position, (x, labels) in enumerate(context.batches(task))
        ]
    )


def _exact_likelihood(context: ScoringContext, generator: Generator, batch: _Batch) -> Tensor:
    classes, column = batch.labels.unique(return_inverse=True)
    values = generator.class_log_likelihoods(batch.x, classes)
    return values.gather(1, column.unsqueeze(1)).squeeze(1)


def _estimated_likelihood(context: ScoringContext, generator: Generator, batch: _Batch) -> Tensor:
    stream = context.noise_stream(batch.task, batch.position)
    values = generator.estimate_log_likelihoods(batch.x, stream, NUM_IMPORTANCE_SAMPLES)
    values = values.gather(1, batch.labels.unsqueeze(1)).squeeze(1).double()
    return values.masked_fill(values <= UNLEARNED_LOG_LIKELIHOOD, torch.nan)


def _negative_loss(context: ScoringContext, generator: Generator, batch: _Batch) -> Tensor:
    """The negative loss of each sample, its mean over a few draws of the noise."""
    assert generator.density_objective is not None
    solver, stream = context.learner.solvers.modules[context.replica], context.noise_stream(batch.task, batch.position)
    arguments: dict[str, Tensor] = {}
    if generator.conditional:
        arguments["labels"] = batch.labels
    if generator.reads_features:
        assert isinstance(solver, HasFeatures)
        arguments["features"] = solver.features(batch.x)
    if generator.gated_by_task:
        arguments["tasks"] = torch.full_like(batch.labels, batch.task)
    total = torch.zeros(len(batch.x), dtype=torch.float64, device=batch.x.device)
    for _ in range(NUM_DRAWS):
        noise = _draw_noise(generator, batch.x, stream)
        terms = generator.losses(generator.density_objective, batch.x, noise, **arguments)
        total -= torch.stack(list(terms.values())).double().sum(0)
    return total / NUM_DRAWS


def _draw_noise(generator: Generator, x: Tensor, stream: torch.Generator) -> Mapping[str, Tensor]:
    """The noise of a loss outside training."""
    noise = {}
    for name, spec in generator.scoring_noise(len(x)).items():
        draw = torch.randn if spec.distribution == "normal" else torch.rand
        noise[name] = draw(spec.shape, generator=stream, device=stream.device).to(x)
    return noise


def _distances_to_generated(context: ScoringContext, generator: Generator) -> Tensor:
    """Root mean square distance per value of each candidate to the nearest of some generated samples."""
    generated = generator.generate(NUM_GENERATED, generator=context.noise_stream(-1 - context.after_task)).flatten(1)
    distances = [
        torch.cdist(part.flatten(1).to(generated), generated).amin(1) / generated.shape[1] ** 0.5
        for task in context.tasks
        for x, _ in context.batches(task)
        for part in x.split(_DISTANCE_BATCH)
    ]
    return torch.cat(distances)


def generated_samples_score(context: ScoringContext) -> ScoreOfPart | None:
    """The distance to generated samples, for an attacker who sees only these; None if `generator_score` is that."""
    generator = context.generator
    if generator is None or not _has_density(_of_task(generator, 0)):
        return None
    with train_mode(generator, training=False):
        return ScoreOfPart(_DISTANCE, -_distances_to_generated(context, generator))


def _has_density(generator: Generator) -> bool:
    """Whether a likelihood or a loss tells where the generator's samples are dense."""
    return generator.class_likelihood != "none" or generator.density_objective is not None


# The scores of a run by attacked part; a part that a run does not have gives None.
SCORES: Mapping[str, Score] = {
    "solver": solver_confidence,
    "generator": generator_score,
    "generated_samples": generated_samples_score,
}
