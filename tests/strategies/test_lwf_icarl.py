"""Learning without forgetting, and iCaRL, are those of their papers."""

import copy

import pytest
import torch
from torch import nn

from gr_cli.errors import ConfigError
from gr_cli.models import SimpleMLP
from gr_cli.scenario import Scenario
from gr_cli.strategies import Finetune, ICaRL, LearningWithoutForgetting, WeightPenalty
from gr_cli.strategies.context import TrainingStep
from gr_cli.strategies.icarl import herding
from helpers.small_runs import (
    ITERATIONS,
    TASKS,
    assert_each_learns_what_it_learns_alone,
    assert_goes_on_from_its_state,
    batches,
    data,
    learner_of,
    passes,
    train,
)

alone_and_together = pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=["alone", "together"])


def solve(learner):
    return lambda x: learner.solvers.call("__call__", x)


# --- learning without forgetting


@alone_and_together
@pytest.mark.parametrize("kind", ["class", "domain", "task"])
def test_earlier_answers_to_current_samples_are_learnt_beside_their_labels(kind, seeds):
    learner = learner_of(LearningWithoutForgetting(), kind, seeds)
    train(learner, 0)
    train(learner, 1)
    before = copy.deepcopy(learner.solvers.modules)
    learner.begin_task(2, passes(learner, 2))
    for i in range(4):  # teacher and solver differ after the first step
        batch = next(batches(learner, 2, i))
        learner.step(batch, TrainingStep(2, i, ITERATIONS))
    asked = []
    terms = learner.strategy.loss(
        lambda x: (asked.append(x), solve(learner)(x))[1], batch, TrainingStep(2, 3, ITERATIONS)
    )
    assert len(asked) == 1 and asked[0] is batch.x
    # The third task has two before it: the mean over heads counts twice, but where all classes share one answer.
    assert (terms["current"].weight, terms["replay"].weight) == (1.0, {"class": 1.0, "domain": 2.0, "task": 2.0}[kind])
    known, now = {
        "class": ([[0, 1, 2, 3]], [[0, 1, 2, 3, 4, 5]]),
        "domain": ([[0, 1]], [[0, 1]]),
        "task": ([[0, 1], [2, 3]], [[0, 1], [2, 3]]),
    }[kind]
    for r, solver in enumerate(learner.solvers.modules):
        old, new = before[r](batch.x[r]), solver(batch.x[r])
        expected = []
        for knew, competing in zip(known, now, strict=True):
            target = (old[:, knew] / 2).softmax(1)
            said = (new[:, competing] / 2).log_softmax(1)[:, : len(knew)]
            expected.append(-(target * said).sum(1).mean())
        torch.testing.assert_close(terms["replay"].value[r], sum(expected) / len(expected))


@pytest.mark.parametrize(
    ("kind", "rule", "expected"),
    [
        ("class", "by_scenario", [(1, 1), (1, 1)]),
        ("domain", "by_scenario", [(1, 1), (1, 2)]),
        ("task", "by_scenario", [(1, 1), (1, 2)]),
        ("class", "by_old_tasks", [(1, 1), (1, 2)]),
        ("domain", 1.0, [(1, 1), (1, 1)]),
        ("task", "by_tasks", [(1 / 2, 1 / 2), (1 / 3, 2 / 3)]),
    ],
)
def test_the_weight_of_earlier_answers_follows_from_rule_and_scenario(kind, rule, expected):
    learner, found = learner_of(LearningWithoutForgetting(replay_weight=rule), kind), []
    for task in range(TASKS):
        if task:
            learner.begin_task(task, passes(learner, task))
            terms = learner.strategy.loss(
                solve(learner), next(batches(learner, task)), TrainingStep(task, 0, ITERATIONS)
            )
            found.append((terms["current"].weight, terms["replay"].weight))
        train(learner, task)
    assert found == [pytest.approx(pair) for pair in expected]
    # What is asked for is what comes out: the default is the rule, whatever the scenario.
    assert LearningWithoutForgetting().replay_weight == "by_scenario"


@pytest.mark.parametrize("temperature", [3.0, torch.tensor([3.0, 0.5], dtype=torch.float64)], ids=["one", "each"])
def test_distillation_is_scaled_by_the_temperature_squared_if_asked_for(temperature):
    strategy = LearningWithoutForgetting(temperature=temperature, distillation_scale="temperature_squared")
    learner = learner_of(strategy, "class", (0, 1))
    train(learner, 0)
    before = copy.deepcopy(learner.solvers.modules)
    learner.begin_task(1, passes(learner, 1))
    for i in range(4):
        batch = next(batches(learner, 1, i))
        learner.step(batch, TrainingStep(1, i, ITERATIONS))
    terms = strategy.loss(solve(learner), batch, TrainingStep(1, 3, ITERATIONS))
    for r, solver in enumerate(learner.solvers.modules):
        t = float(temperature[r]) if isinstance(temperature, torch.Tensor) else temperature
        target = (before[r](batch.x[r])[:, :2] / t).softmax(1)
        said = (solver(batch.x[r])[:, :4] / t).log_softmax(1)[:, :2]
        torch.testing.assert_close(terms["replay"].value[r], -t * t * (target * said).sum(1).mean())


@alone_and_together
def test_the_teacher_is_the_solver_as_it_was_and_gets_no_gradient(seeds):
    learner = learner_of(LearningWithoutForgetting(), "class", seeds)
    train(learner, 0)
    assert learner.strategy.teacher is None
    before = {name: value.clone() for name, value in learner.solvers.state_dict().items()}

    def observe(position, losses):
        teacher = learner.strategy.teacher
        assert all(p.grad is None and not p.requires_grad for p in teacher.modules[0].parameters())
        assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())

    train(learner, 1, observe)
    assert any(not torch.equal(before[name], value) for name, value in learner.solvers.state_dict().items())
    assert learner.strategy.teacher is None and not LearningWithoutForgetting.stores_raw_samples


@pytest.mark.parametrize("kind", ["class", "task"])
def test_each_replica_learns_what_it_learns_alone(kind):
    assert_each_learns_what_it_learns_alone(
        lambda temperature: LearningWithoutForgetting(temperature=temperature), kind, [2.0, 1.0]
    )
    assert_each_learns_what_it_learns_alone(
        lambda weight: LearningWithoutForgetting(replay_weight=weight), kind, [2.0, 0.5]
    )


@pytest.mark.parametrize("regularizer", [None, WeightPenalty()])
def test_a_run_goes_on_from_its_state(regularizer):
    assert_goes_on_from_its_state(lambda: LearningWithoutForgetting(regularizer=copy.deepcopy(regularizer)), "task")


# --- iCaRL


def test_herding_by_hand():
    """The mean of all points in the right direction, of length 1; the next choice makes up for the last one."""
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    mean = features.mean(0) / features.mean(0).norm()  # (0.576, 0.817)
    chosen = herding(features, 5)
    assert sorted(chosen.tolist()) == [0, 1, 2, 3, 4]
    assert chosen[:1].tolist() == [2]  # (0.6, 0.8) is next to it
    for k in range(2, 6):
        distance = {
            i: (mean - features[[*chosen[: k - 1].tolist(), i]].mean(0)).norm().item()
            for i in range(5)
            if i not in chosen[: k - 1]
        }
        assert distance[chosen[k - 1].item()] == pytest.approx(min(distance.values()))
    assert herding(features, 2).tolist() == chosen[:2].tolist()


@alone_and_together
def test_exemplars_are_herded_from_normalised_features(seeds):
    learner = learner_of(ICaRL(per_class=6), seeds=seeds)
    train(learner, 0)
    train(learner, 1)
    for replica, solver in enumerate(learner.solvers.modules):
        kept = dict(learner.strategy.exemplars.classes_of(replica))
        assert {unit: len(x) for unit, x in kept.items()} == dict.fromkeys(range(4), 6)
        x, y = data(learner, 1, replica)
        for unit in (2, 3):
            mine = x[y == unit]
            features = solver.features(mine)
            chosen = herding(features / features.norm(dim=1, keepdim=True), 6)
            torch.testing.assert_close(kept[unit], mine[chosen], rtol=0, atol=0)


def test_a_budget_is_shared_by_all_classes_and_the_first_of_each_stay():
    learner = learner_of(ICaRL(per_class=20, budget=24))
    train(learner, 0)
    first = dict(learner.strategy.exemplars.classes_of(0))
    assert {unit: len(x) for unit, x in first.items()} == {0: 12, 1: 12}
    train(learner, 1)
    train(learner, 2)
    then = dict(learner.strategy.exemplars.classes_of(0))
    assert {unit: len(x) for unit, x in then.items()} == dict.fromkeys(range(6), 4)
    assert all(torch.equal(then[unit], first[unit][:4]) for unit in first)


@alone_and_together
def test_the_loss_of_icarl_by_hand(seeds):
    learner = learner_of(ICaRL(per_class=6, batch_size=3, temperature=3.0), seeds=seeds)
    train(learner, 0)
    before = copy.deepcopy(learner.solvers.modules)
    learner.begin_task(1, passes(learner, 1))
    for i in range(4):
        batch = next(batches(learner, 1, i))
        learner.step(batch, TrainingStep(1, i, ITERATIONS))
    asked = []
    terms = learner.strategy.loss(
        lambda x: (asked.append(x), solve(learner)(x))[1], batch, TrainingStep(1, 3, ITERATIONS)
    )
    (x,) = asked
    assert x.shape[1] == 13 and torch.equal(x[:, :10], batch.x)
    for r, solver in enumerate(learner.solvers.modules):
        kept = torch.cat([mine for _, mine in learner.strategy.exemplars.classes_of(r)])
        assert all((row == kept).all(1).any() for row in x[r, 10:])
        said, told = solver(x[r]).sigmoid(), (before[r](x[r]) / 3.0).sigmoid().detach()
        is_class = torch.zeros_like(said)
        is_class[range(10), batch.y[r]] = 1.0  # exemplars are of none of the current classes

        def binary(p, q):
            return -(q * p.log() + (1 - q) * (1 - p).log()).sum(1).mean()

        torch.testing.assert_close(terms["current"].value[r], binary(said[:, 2:4], is_class[:, 2:4]))
        torch.testing.assert_close(terms["distillation"].value[r], binary(said[:, :2], told[:, :2]))


@alone_and_together
def test_exemplars_are_as_often_in_a_batch_as_in_the_union_with_the_task(seeds):
    learner = learner_of(ICaRL(per_class=10), seeds=seeds)
    train(learner, 0)
    learner.begin_task(1, passes(learner, 1))  # 20 exemplars, and 40 samples of the task
    exemplars, old, number = learner.strategy.exemplars, 0, 0
    for i in range(300):
        batch, position = next(batches(learner, 1, i)), TrainingStep(1, i, ITERATIONS)
        x, y = learner.strategy._mix_in_exemplars(exemplars, batch, position)
        assert x.shape == batch.x.shape
        kept = y < 2
        assert torch.equal(x[~kept], batch.x[~kept]) and torch.equal(y[~kept], batch.y[~kept])
        for r in range(len(seeds)):
            known = torch.cat([mine for _, mine in exemplars.classes_of(r)])
            assert all((row == known).all(1).any() for row in x[r][kept[r]])
        old, number = old + kept.sum().item(), number + kept.numel()
    assert old / number == pytest.approx(20 / 60, abs=0.04)


def test_the_first_task_is_learnt_with_a_sigmoid_for_each_class():
    learner, seen = learner_of(ICaRL()), []
    learner.begin_task(0, passes(learner, 0))
    batch = next(batches(learner, 0))
    terms = learner.strategy.loss(solve(learner), batch, TrainingStep(0, 0, ITERATIONS))
    target = nn.functional.one_hot(batch.y[0], 6).double()[:, :2]
    expected = nn.functional.binary_cross_entropy_with_logits(learner.solver(batch.x[0])[:, :2], target) * 2
    torch.testing.assert_close(terms["current"].value[0], expected)
    train(learner, 0, lambda position, losses: seen.append(set(losses)))
    assert all(names == {"current", "total"} for names in seen)


@alone_and_together
def test_the_nearest_mean_of_exemplars_answers(seeds):
    learner = learner_of(ICaRL(per_class=6), seeds=seeds)
    strategy = learner.strategy
    assert strategy.classifier(0, learner.solver) is learner.solver
    train(learner, 0)
    train(learner, 1)
    for replica, solver in enumerate(learner.solvers.modules):
        x, _ = data(learner, 2, replica)
        score = strategy.classifier(replica, solver)(x)
        features = nn.functional.normalize(solver.features(x), dim=1)
        for unit, kept in strategy.exemplars.classes_of(replica):
            mean = nn.functional.normalize(nn.functional.normalize(solver.features(kept), dim=1).mean(0), dim=0)
            torch.testing.assert_close(score[:, unit], -(features - mean).square().sum(1))
        # A class without exemplars is further away than any other.
        assert (score[:, 4:] < score[:, :4].min()).all() and score.isfinite().all()
        units = learner.scenario.testing_units(learner.task_units, 1, 1)
        xs, ys = data(learner, 1, replica)
        found = learner.evaluate([(xs, ys)], units, replica)
        assert found.accuracy == pytest.approx(
            (strategy.classifier(replica, solver)(xs).argmax(1) == ys).double().mean()
        )
        assert found.accuracy > 0.7


def test_each_replica_is_classified_and_learns_as_alone():
    together = learner_of(ICaRL(per_class=6), seeds=(0, 1))
    for task in range(TASKS):
        train(together, task)
    for seed in (0, 1):
        alone = learner_of(ICaRL(per_class=6), seeds=(seed,))
        for task in range(TASKS):
            train(alone, task)
        x, _ = data(alone, 2, 0)
        ours, theirs = (
            learner.strategy.classifier(replica, learner.solvers.modules[replica])(x)
            for learner, replica in ((together, seed), (alone, 0))
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("settings", [{}, {"budget": 20}, {"batch_size": 3}])
def test_a_run_of_icarl_goes_on_from_its_state(settings):
    assert_goes_on_from_its_state(lambda: ICaRL(**{"per_class": 6} | settings), "class")


@pytest.mark.parametrize("kind", ["domain", "task"])
def test_other_scenarios_are_refused(gr_run, kind):
    with pytest.raises(ConfigError, match="scenario"):
        ICaRL().check(Scenario(kind), SimpleMLP())
    code, _, err = gr_run("strategy=icarl", f"scenario={kind}")
    assert code == 2 and err.startswith(f"gr-run: scenario={kind}: iCaRL needs") and err.count("\n") == 1


def test_a_solver_without_features_is_refused():
    with pytest.raises(ConfigError, match="features"):
        ICaRL().check(Scenario("class"), nn.Linear(4, 2))
    Finetune().check(Scenario("class"), nn.Linear(4, 2))


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_it_is_told_that_samples_are_kept(gr_run, model):
    import json
    from pathlib import Path

    code, _, err = gr_run("strategy=icarl", f"model={model}", "train.iterations=3", "evaluate.every=2")
    assert (code, err) == (0, "")
    (path,) = Path("outputs").glob("*/*/*/status.json")
    assert json.loads(path.read_text())["stores_raw_samples"] is True
