"""Quality of generated samples, by comparison with real ones in the features of a reference classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from gr_cli.evaluation.base import Evaluation, EvaluationContext
from gr_cli.evaluation.fidelity import NeighbourhoodManifold, frechet_distance, normalized_entropy, prdc
from gr_cli.evaluation.reference_classifier import RealSamples, SampleEvaluator
from gr_cli.nn.layers import train_mode
from gr_cli.nn.random_streams import StreamNames, seeded
from gr_cli.results.tables import AFTER_TASK, ALL_TASKS, FRACTION, TASK, Column, Direction, TableRow
from gr_cli.training.experiment import Experiment
from gr_cli.training.learner import Learner

_BATCH = 256  # generated samples per batch, at most
_MAX_POOLED_SAMPLES = 1000  # generated samples in the row of all tasks, at most


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


def _quality_column(name: str, meaning: str, unit: str = FRACTION, direction: Direction = "higher") -> Column:
    return Column(name, meaning, unit, direction, metric=f"sample_{name}")


class SampleQuality(Evaluation):
    """Quality of generated samples after each task: a row per task so far with classes of its own, and one for all.

    `evaluate.generated_samples` samples are generated per task so far. The row for all tasks is computed from the first
    1,000 of them, or from the number for one task if that is larger.
    """

    name = "sample_quality"
    description = (
        "A small network that learnt the whole benchmark at once judges dreams of each task, after every task, beside "
        "real test samples."
    )
    columns = (
        AFTER_TASK,
        TASK,
        Column("n", "number of dreams", "samples"),
        Column("real", "number of real samples that they are compared with", "samples"),
        _quality_column("reference_accuracy", "real samples whose class the judge knows"),
        _quality_column("label_agreement", "dreams that the judge takes for the class as which they are replayed"),
        _quality_column(
            "class_share",
            "dreams that the judge takes for classes of that task; 100 %: as many as are due",
            FRACTION,
            "none",
        ),
        _quality_column("class_entropy", "how evenly, over these classes (entropy of their shares; 100 %: all alike)"),
        _quality_column("precision", "dreams that lie where real samples lie: are they like real ones?"),
        _quality_column("recall", "real samples that lie where dreams lie: could they have been generated?"),
        _quality_column(
            "density", "as precision, but counts how many real samples are near; about 1 for real ones", ""
        ),
        _quality_column("coverage", "real samples that have a dream near by: how much of what is real is generated?"),
        _quality_column(
            "frechet",
            "Fréchet distance between real and generated features of variance 1; 0: the same. Few samples enlarge it",
            "",
            "lower",
        ),
    )

    def __init__(self, evaluator: SampleEvaluator) -> None:
        self._evaluator = evaluator

    @classmethod
    def prepare(cls, experiment: Experiment) -> Self | None:
        """Load or train the reference classifier; None without a generator, or if the evaluation is off."""
        config, benchmark = experiment.settings.config, experiment.benchmark
        if not config["evaluate"]["generated_samples"] or experiment.learner.generator is None:
            return None
        offsets = experiment.learner.scenario.unit_offsets(benchmark.class_counts, benchmark.repeated_tasks)
        units, most = experiment.task_units.shape[1], config["evaluate"]["generated_samples"]
        return cls(SampleEvaluator(benchmark, offsets, units, most, Path(config["cache_root"])))

    def rows(self, context: EvaluationContext) -> Sequence[TableRow]:
        judge, task = self._evaluator, context.after_task
        seen, number = judge.classes.first_task <= task, judge.samples_per_task * (task + 1)
        judged = _evaluate_samples(context.experiment, context.learner, context.replica, judge, task, number)
        tasks, found = judge.classes.first_task[seen].unique().tolist(), []
        for one in tasks:
            mine = judged.select((judged.tasks == one).nonzero().squeeze(1))
            theirs = judge.classes.first_task == one
            found.append(_row(task, one, mine, judged, theirs, seen, judge.real(one), judge.manifold(one)))
        enough = max(_MAX_POOLED_SAMPLES, judge.samples_per_task)
        real, first = RealSamples.pool([judge.real(one) for one in tasks], enough), torch.arange(min(number, enough))
        judged = judged.select(first.to(seen.device))
        return [*found, _row(task, ALL_TASKS, judged, judged, seen, seen, real, NeighbourhoodManifold(real.features))]


def _row(
    after_task: int, task: int | str, mine: _EvaluatedSamples, all_dreams: _EvaluatedSamples,
    classes: Tensor, seen: Tensor, real: RealSamples,
    balls: NeighbourhoodManifold,
) -> TableRow:  # fmt: skip
    """The measures of some generated samples.

    Args:
        after_task: Task that was trained last.
        task: Value of the column `task`.
        samples: Generated samples of this row.
        all_samples: All generated samples.
        classes: Distinct classes of this row, bool (C,).
        learned: Distinct classes of all tasks so far, bool (C,).
        real: Real samples for comparison.
        manifold: Manifold of the real samples.
    """
    found = all_dreams.classes.bincount(minlength=len(classes))[classes]
    due = len(all_dreams.classes) * int(classes.sum()) / int(seen.sum())
    n, like = len(mine.classes), prdc(balls, NeighbourhoodManifold(mine.features))
    return {
        "after_task": after_task,
        "task": task,
        "n": n,
        "real": len(real.correct),
        "reference_accuracy": real.correct.double().mean().item() if len(real.correct) else None,
        "label_agreement": mine.label_agrees.double().mean().item() if n else None,
        "class_share": found.sum().item() / due,
        "class_entropy": normalized_entropy(found),
        "precision": like.precision,
        "recall": like.recall,
        "density": like.density,
        "coverage": like.coverage,
        "frechet": frechet_distance(real.features, mine.features),
    }


def _evaluate_samples(
    experiment: Experiment, learner: Learner, replica: int, judge: SampleEvaluator, task: int, number: int
) -> _EvaluatedSamples:
    """Generate and classify `num_samples` samples, and assign each to a task.

    A sample belongs to the task of its label where labels identify the task. In the domain- and task-incremental
    scenario they don't, unless a class was requested from the generator: there the predicted class decides.
    """
    classes, scenario = judge.classes, learner.scenario
    features, found, labels, asked = _generate_and_classify(experiment, learner, replica, judge, task, number)
    none = len(experiment.benchmark.tasks)
    of_unit = torch.where(classes.units, classes.first_task.unsqueeze(1), none).amin(0)  # (U,)
    owner = classes.first_task[found]
    if scenario.is_class_incremental:
        owner = of_unit[labels[:, 0]]
    elif asked is not None and scenario.units_are_task_specific:
        owner = of_unit[asked]
    # Several heads have a label each: that of the sample's task counts.
    label = labels.gather(1, owner.clamp(max=labels.shape[1] - 1).unsqueeze(1)).squeeze(1)
    agrees = (classes.first_task[found] <= task) & classes.units[found, label]
    return _EvaluatedSamples(features, found, agrees, owner)


@torch.no_grad()
def _generate_and_classify(
    experiment: Experiment, learner: Learner, replica: int, judge: SampleEvaluator, task: int, number: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Generate samples in batches and classify each batch, so that the samples never are in memory all at once.

    Returns:
        Scaled features (N, F); predicted distinct classes (N,); the units with which samples would be replayed, for
        each head (N, H); and the requested classes (N,) of a conditional generator, else None.
    """
    assert learner.generators is not None
    strategy, draws, solver = learner.strategy, learner.random_streams[replica], learner.solvers.modules[replica]
    dreamer = strategy.sampling_generator(replica, learner.generators.modules[replica])
    units = learner.scenario.known_units(experiment.task_units, task + 1)
    classes = int((judge.classes.first_task <= task).sum())
    size = classes * max(1, _BATCH // classes)  # a multiple of the classes, so that all are requested equally often
    looks, asked = [], []
    # A user's network may draw from torch's global random state.
    with (
        seeded(draws.seed, StreamNames.SAMPLE_QUALITY, task),
        train_mode(dreamer, training=False),
        train_mode(solver, training=False),
    ):
        for i, start in enumerate(range(0, number, size)):
            mine = min(size, number - start)
            turns = dreamer.balanced_labels(mine)
            x = dreamer.generate(mine, labels=turns, generator=draws.generator(StreamNames.SAMPLE_QUALITY, task, i))
            looks.append((*judge.classify(x), strategy.replay_labels(x, turns, dreamer, solver, units)))
            asked += [] if turns is None else [turns]
    features, found, labels = (torch.cat(column) for column in zip(*looks, strict=True))
    return features, found, labels, torch.cat(asked) if asked else None
