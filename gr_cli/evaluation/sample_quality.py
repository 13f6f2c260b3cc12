"""How good a run's dreams are, per task and after every task: what a judge says of them beside real samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gr_cli.evaluation.fidelity import Balls, evenness, frechet, likeness
from gr_cli.evaluation.reference_classifier import Judge, Real
from gr_cli.nn.layers import mode
from gr_cli.nn.random_streams import seeded
from gr_cli.results.record import DreamRow
from gr_cli.training.experiment import Experiment
from gr_cli.training.learner import Learner

_AT_ONCE = 256  # dreams that are drawn together, or a few less
_ENOUGH = 1000  # dreams of all tasks together


@dataclass(frozen=True)
class _Judged:
    """Dreams (N,) as the judge sees them: their `features` (N, F), the `classes` (N,) that it takes them for, whether
    it `agrees` with the label, and the task that each belongs to, its `owner`."""

    features: Tensor
    classes: Tensor
    agrees: Tensor
    owner: Tensor

    def at(self, index: Tensor) -> _Judged:
        """Only those at `index`."""
        return _Judged(self.features[index], self.classes[index], self.agrees[index], self.owner[index])


def judge_of(experiment: Experiment) -> Judge | None:
    """Who judges the dreams of a run; None if it has none, or nobody shall look at them."""
    config, benchmark = experiment.settings.config, experiment.benchmark
    if not config["evaluate"]["dreams"] or experiment.learner.generator is None:
        return None
    offsets = experiment.learner.scenario.offsets(benchmark.class_counts, benchmark.repeats)
    units, most = experiment.heads.shape[1], config["evaluate"]["dreams"]
    return Judge(benchmark, offsets, units, most, Path(config["cache_root"]))


def judge_dreams(experiment: Experiment, learner: Learner, replica: int, judge: Judge, task: int) -> None:
    """Note down how good the dreams of a run, a replica of `learner`, are after `task`: a row for each task so far that
    brought classes of its own, and one for all of them together.

    So many dreams are drawn as there are tasks so far, times `judge.most`. The measures of all together are of the
    first thousand, if that is not fewer than for one task.
    """
    with learner.clock.measure("evaluation"):
        seen, number = judge.classes.first <= task, judge.most * (task + 1)
        judged = _judged(experiment, learner, replica, judge, task, number)
        tasks = judge.classes.first[seen].unique().tolist()
        for one in tasks:
            mine = judged.at((judged.owner == one).nonzero().squeeze(1))
            theirs = judge.classes.first == one
            row = _row(task, one, mine, judged, theirs, seen, judge.real(one), judge.balls(one))
            experiment.record.dreams.append(row)
        enough = max(_ENOUGH, judge.most)
        real, first = Real.together([judge.real(one) for one in tasks], enough), torch.arange(min(number, enough))
        judged = judged.at(first.to(seen.device))
        row = _row(task, None, judged, judged, seen, seen, real, Balls(real.features))
        experiment.record.dreams.append(row)


def _row(
    after_task: int, task: int | None, mine: _Judged, all_dreams: _Judged, classes: Tensor, seen: Tensor, real: Real,
    balls: Balls,
) -> DreamRow:  # fmt: skip
    """The measures of dreams `mine`, of `classes` bool (C,), among those of all that were `seen` bool (C,)."""
    found = all_dreams.classes.bincount(minlength=len(classes))[classes]
    due = len(all_dreams.classes) * int(classes.sum()) / int(seen.sum())
    n, like = len(mine.classes), likeness(balls, Balls(mine.features))
    return DreamRow(
        after_task,
        task,
        n,
        real=len(real.known),
        judge=real.known.double().mean().item() if len(real.known) else None,
        agreement=mine.agrees.double().mean().item() if n else None,
        share=found.sum().item() / due,
        balance=evenness(found),
        precision=like.precision,
        recall=like.recall,
        density=like.density,
        coverage=like.coverage,
        frechet=frechet(real.features, mine.features),
    )


def _judged(experiment: Experiment, learner: Learner, replica: int, judge: Judge, task: int, number: int) -> _Judged:
    """`number` dreams, judged.

    A dream belongs to the task of the class as which it would be replayed, if a class tells the task. In the domain-
    and the task-incremental scenario it does not, unless a class was asked for there: then the judge says which task.
    """
    classes, scenario = judge.classes, learner.scenario
    features, found, labels, asked = _looked_at(experiment, learner, replica, judge, task, number)
    none = len(experiment.benchmark.tasks)
    of_unit = torch.where(classes.units, classes.first.unsqueeze(1), none).amin(0)  # (U,)
    owner = classes.first[found]
    if scenario.units_are_classes:
        owner = of_unit[labels[:, 0]]
    elif asked is not None and scenario.tasks_have_units:
        owner = of_unit[asked]
    # Each of several heads has a label of its own: that of the dream's task counts.
    label = labels.gather(1, owner.clamp(max=labels.shape[1] - 1).unsqueeze(1)).squeeze(1)
    agrees = (classes.first[found] <= task) & classes.units[found, label]
    return _Judged(features, found, agrees, owner)


@torch.no_grad()
def _looked_at(
    experiment: Experiment, learner: Learner, replica: int, judge: Judge, task: int, number: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Dreams of what was seen up to `task`: their features (N, F), and the classes that the judge takes them for (N,);
    as which units they would be replayed, for each head (N, H); and which were asked for (N,), of a generator that is
    conditional on them. The dreams themselves are never held all at once."""
    assert learner.generators is not None
    strategy, draws, solver = learner.strategy, learner.draws[replica], learner.solvers.modules[replica]
    dreamer = strategy.dreamer(replica, learner.generators.modules[replica])
    units = learner.scenario.teacher_units(experiment.heads, task + 1)
    classes = int((judge.classes.first <= task).sum())
    size = classes * max(1, _AT_ONCE // classes)  # whole turns: each class is asked for equally often
    looks, asked = [], []
    # A network that was not made here may draw from torch's global stream.
    with seeded(draws.seed, "dreams", task), mode(dreamer, training=False), mode(solver, training=False):
        for i, start in enumerate(range(0, number, size)):
            mine = min(size, number - start)
            turns = dreamer.turns(mine)
            x = dreamer.generate(mine, labels=turns, generator=draws.generator("dreams", task, i))
            looks.append((*judge.look(x), strategy.dream_labels(x, turns, dreamer, solver, units)))
            asked += [] if turns is None else [turns]
    features, found, labels = (torch.cat(column) for column in zip(*looks, strict=True))
    return features, found, labels, torch.cat(asked) if asked else None
