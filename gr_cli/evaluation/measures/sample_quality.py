"""Quality of generated samples, by comparison with real ones in the features of a reference classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor

from gr_cli.evaluation.base import Evaluation, EvaluationContext
from gr_cli.evaluation.fidelity import NeighbourhoodManifold, NormalFit, frechet_distance, normalized_entropy, prdc
from gr_cli.evaluation.reference_classifier import RealSamples, SampleEvaluator
from gr_cli.nn.layers import train_mode
from gr_cli.nn.random_streams import StreamNames, seeded
from gr_cli.results.tables import AFTER_TASK, ALL_TASKS, FRACTION, TASK, Column, Direction, TableRow
from gr_cli.training.experiment import Experiment
from gr_cli.training.learner import Learner

_BATCH = 256  # generated samples per batch, at most
_MAX_COMPARED_SAMPLES = 1000  # generated samples that a row is computed from, at most


@dataclass(frozen=True)
class _EvaluatedSamples:
    """Generated samples as the reference classifier sees them.

    Attributes:
        features: Scaled features (N, F).
        classes: Predicted distinct classes (N,).
        label_agrees: Whether the prediction agrees with the label with which a sample would be replayed, (N,).
        tasks: Task to which each sample belongs, (N,).
    """

    features: Tensor
    classes: Tensor
    label_agrees: Tensor
    tasks: Tensor

    def select(self, index: Tensor) -> _EvaluatedSamples:
        """The samples at `index`."""
        return _EvaluatedSamples(self.features[index], self.classes[index], self.label_agrees[index], self.tasks[index])

    def by_task(self, tasks: Sequence[int], max_samples: int) -> list[_EvaluatedSamples]:
        """The first `max_samples` samples of each of `tasks`."""
        by_number = dict(enumerate(self.tasks.argsort(stable=True).split(self.tasks.bincount().tolist())))
        none = self.tasks.new_empty(0)
        return [self.select(by_number.get(task, none)[:max_samples]) for task in tasks]


def _quality_column(name: str, meaning: str, unit: str = FRACTION, direction: Direction = "higher") -> Column:
    return Column(name, meaning, unit, direction, metric=f"sample_{name}", minimum=0.0)


class SampleQuality(Evaluation):
    """Quality of generated samples after each task.

    A row per task so far that has classes of its own, and one for all of them.

    `evaluate.generated_samples` samples are generated per task so far. The row for all tasks is computed from the first
    1,000 of them, or from the number for one task if that is larger; that of a task from no more either, of those that
    are predicted as its classes, because distances between samples grow with the square of their number. Where only
    some of the tasks so far are evaluated, no more than these are generated, and it is the only row.
    """

    name = "sample_quality"
    description = (
        "Generated samples of each task compared with real test samples, after every task, by the predictions and the "
        "features of a reference classifier that was trained on the whole benchmark."
    )
    columns = (
        AFTER_TASK,
        TASK,
        Column("n", "number of generated samples that are compared, 1,000 at most by default", "samples"),
        Column("real", "number of real samples for comparison", "samples"),
        _quality_column("reference_accuracy", "accuracy of the reference classifier on the real samples"),
        _quality_column(
            "label_agreement",
            "generated samples whose label in replay is the class that the reference classifier predicts",
        ),
        _quality_column(
            "class_share",
            "generated samples predicted as classes of the task, relative to an equal share for every class so far",
            "",
            "none",
        ),
        _quality_column("class_entropy", "entropy of the predicted classes of the task; 100 %: all equally frequent"),
        _quality_column("precision", "generated samples within the k-NN manifold of real samples"),
        _quality_column("recall", "real samples within the k-NN manifold of generated samples"),
        _quality_column(
            "density", "real k-NN hyperspheres around a generated sample, divided by k; about 1 for real samples", ""
        ),
        _quality_column("coverage", "real k-NN hyperspheres that contain a generated sample"),
        _quality_column(
            "frechet",
            "Fréchet distance of real and generated features of variance 1; 0: equal; too large for few samples",
            "",
            "lower",
        ),
    )

    def __init__(self, evaluator: SampleEvaluator) -> None:
        self._evaluator = evaluator

    @classmethod
    def applies_to(cls, experiment: Experiment) -> bool:
        """Whether there is a generator, and the evaluation is on."""
        num_samples = experiment.settings.config["evaluate"]["generated_samples"]
        return bool(num_samples) and experiment.learner.generator is not None

    @classmethod
    def prepare(cls, experiment: Experiment) -> Self | None:
        """Load or train the reference classifier; None without a generator, or if the evaluation is off."""
        config, benchmark = experiment.settings.config, experiment.benchmark
        if not cls.applies_to(experiment):
            return None
        offsets = experiment.learner.scenario.unit_offsets(benchmark.class_counts, benchmark.repeated_tasks)
        units, num_samples = experiment.task_units.shape[1], config["evaluate"]["generated_samples"]
        return cls(SampleEvaluator(benchmark, offsets, units, num_samples, Path(config["cache_root"])))

    def rows(self, context: EvaluationContext) -> Sequence[TableRow]:
        evaluator, task, classes = self._evaluator, context.after_task, self._evaluator.classes
        max_compared = max(_MAX_COMPARED_SAMPLES, evaluator.samples_per_task)
        count = evaluator.samples_per_task * (task + 1)
        # Batches are those of all samples, so that the row of all tasks does not depend on which tasks are evaluated.
        needed = count if context.covers_tasks_so_far else min(count, max_compared)
        samples = _evaluate_samples(
            context.experiment, context.learner, context.replica, evaluator, task, count, needed
        )
        learned = classes.first_task <= task
        tasks, rows = classes.first_task[learned].unique().tolist(), []
        if context.covers_tasks_so_far:
            class_counts, num_learned = samples.classes.bincount(minlength=len(classes)), int(learned.sum())
            for row_task, task_samples in zip(tasks, samples.by_task(tasks, max_compared), strict=True):
                counts = class_counts[classes.first_task == row_task]
                expected = count * len(counts) / num_learned
                real = _Comparison(
                    evaluator.real(row_task), evaluator.manifold(row_task), evaluator.normal_fit(row_task)
                )
                rows.append(_row(task, row_task, task_samples, counts, expected, real))
        pooled = samples.select(torch.arange(min(count, max_compared)).to(learned.device))
        counts = pooled.classes.bincount(minlength=len(classes))[learned]
        real_samples = RealSamples.pool([evaluator.real(row_task) for row_task in tasks], max_compared)
        real = _Comparison(
            real_samples, NeighbourhoodManifold(real_samples.features), NormalFit.of(real_samples.features)
        )
        return [*rows, _row(task, ALL_TASKS, pooled, counts, len(pooled.classes), real)]


class _Comparison(NamedTuple):
    """Real samples that generated ones are compared with, their manifold, and the normal fit to their features."""

    samples: RealSamples
    manifold: NeighbourhoodManifold
    normal_fit: NormalFit | None


def _row(
    after_task: int, task: int | str, samples: _EvaluatedSamples, class_counts: Tensor, expected: float,
    real: _Comparison,
) -> TableRow:  # fmt: skip
    """The measures of some generated samples.

    Args:
        after_task: Task that was trained last.
        task: Value of the column `task`.
        samples: Generated samples of this row.
        class_counts: How many of all generated samples are predicted as each of the row's classes, (k,).
        expected: How many would be, if all classes so far were equally frequent.
        real: Real samples for comparison.
    """
    n, scores, correct = (
        len(samples.classes),
        prdc(real.manifold, NeighbourhoodManifold(samples.features)),
        real.samples.correct,
    )
    return {
        "after_task": after_task,
        "task": task,
        "n": n,
        "real": len(correct),
        "reference_accuracy": correct.double().mean().item() if len(correct) else None,
        "label_agreement": samples.label_agrees.double().mean().item() if n else None,
        "class_share": class_counts.sum().item() / expected,
        "class_entropy": normalized_entropy(class_counts),
        "precision": scores.precision,
        "recall": scores.recall,
        "density": scores.density,
        "coverage": scores.coverage,
        "frechet": frechet_distance(real.normal_fit, NormalFit.of(samples.features)),
    }


def _evaluate_samples(
    experiment: Experiment, learner: Learner, replica: int, evaluator: SampleEvaluator, task: int, num_samples: int,
    needed: int,
) -> _EvaluatedSamples:  # fmt: skip
    """Generate and classify the first `needed` or more of `num_samples` samples, and assign each to a task.

    A sample belongs to the task of its label where labels identify the task. In the domain- and task-incremental
    scenario they don't, unless a class was requested from the generator: there the predicted class decides.
    """
    classes, scenario = evaluator.classes, learner.scenario
    features, predicted, labels, requested = _generate_and_classify(
        experiment, learner, replica, evaluator, task, num_samples, needed
    )
    no_task = len(experiment.benchmark.tasks)
    task_of_unit = torch.where(classes.units, classes.first_task.unsqueeze(1), no_task).amin(0)  # (U,)
    tasks = classes.first_task[predicted]
    if scenario.is_class_incremental:
        tasks = task_of_unit[labels[:, 0]]
    elif requested is not None and scenario.units_are_task_specific:
        tasks = task_of_unit[requested]
    # Several heads have a label each: that of the sample's task counts.
    labels_of_task = labels.gather(1, tasks.clamp(max=labels.shape[1] - 1).unsqueeze(1)).squeeze(1)
    label_agrees = (classes.first_task[predicted] <= task) & classes.units[predicted, labels_of_task]
    return _EvaluatedSamples(features, predicted, label_agrees, tasks)


@torch.no_grad()
def _generate_and_classify(
    experiment: Experiment, learner: Learner, replica: int, evaluator: SampleEvaluator, task: int, num_samples: int,
    needed: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Generate samples in batches and classify each batch, so that the samples never are in memory all at once.

    Returns:
        Scaled features (N, F); predicted distinct classes (N,); the units with which samples would be replayed, for
        each head (N, H); and the requested classes (N,) of a conditional generator, else None.
    """
    assert learner.generators is not None
    strategy, random_streams, solver = (
        learner.strategy,
        learner.random_streams[replica],
        learner.solvers.modules[replica],
    )
    generator = strategy.sampling_generator(replica, learner.generators.modules[replica])
    units = learner.scenario.known_units(experiment.task_units, task + 1)
    num_classes = int((evaluator.classes.first_task <= task).sum())
    # A multiple of the classes, so that all are requested equally often.
    batch_size = num_classes * max(1, _BATCH // num_classes)
    outputs, requested = [], []
    # A user's network may draw from torch's global random state.
    with (
        seeded(random_streams.seed, StreamNames.SAMPLE_QUALITY, task),
        train_mode(generator, training=False),
        train_mode(solver, training=False),
    ):
        for i, start in enumerate(range(0, needed, batch_size)):
            count = min(batch_size, num_samples - start)
            requested_labels = generator.balanced_labels(count)
            x = generator.generate(
                count, labels=requested_labels, generator=random_streams.generator(StreamNames.SAMPLE_QUALITY, task, i)
            )
            outputs.append(
                (*evaluator.classify(x), strategy.replay_labels(x, requested_labels, generator, solver, units))
            )
            requested += [] if requested_labels is None else [requested_labels]
    features, predicted, labels = (torch.cat(column) for column in zip(*outputs, strict=True))
    return features, predicted, labels, torch.cat(requested) if requested else None
