"""Learning without Forgetting and iCaRL, compared with computations by hand."""

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
    assert_replicas_match_single_runs,
    assert_resumes_from_state,
    batches,
    data,
    learner_of,
    passes,
    train,
)

one_and_two_replicas = pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=["alone", "together"])


def forward(learner):
    return lambda x: learner.solvers.call("__call__", x)


# --- Learning without Forgetting


@one_and_two_replicas
@pytest.mark.parametrize("scenario_name", ["class", "domain", "task"])
def test_lwf_distills_the_teacher_on_current_samples(scenario_name, seeds):
    learner = learner_of(LearningWithoutForgetting(), scenario_name, seeds)
    train(learner, 0)
    train(learner, 1)
    teachers = copy.deepcopy(learner.solvers.modules)
    learner.begin_task(2, passes(learner, 2))
    for i in range(4):  # teacher and solver differ after the first step
        batch = next(batches(learner, 2, i))
        learner.step(batch, TrainingStep(2, i, ITERATIONS))
    inputs = []
    terms = learner.strategy.loss(
        lambda x: (inputs.append(x), forward(learner)(x))[1], batch, TrainingStep(2, 3, ITERATIONS)
    )
    assert len(inputs) == 1 and inputs[0] is batch.x
    # Two earlier tasks: `by_old_tasks` gives weight 2, class-incremental weight 1.
    assert (terms["current"].weight, terms["replay"].weight) == (
        1.0,
        {"class": 1.0, "domain": 2.0, "task": 2.0}[scenario_name],
    )
    old_units_of_heads, units_of_heads = {
        "class": ([[0, 1, 2, 3]], [[0, 1, 2, 3, 4, 5]]),
        "domain": ([[0, 1]], [[0, 1]]),
        "task": ([[0, 1], [2, 3]], [[0, 1], [2, 3]]),
    }[scenario_name]
    for r, solver in enumerate(learner.solvers.modules):
        old, new = teachers[r](batch.x[r]), solver(batch.x[r])
        expected = []
        for old_units, units in zip(old_units_of_heads, units_of_heads, strict=True):
            target = (old[:, old_units] / 2).softmax(1)
            log_p = (new[:, units] / 2).log_softmax(1)[:, : len(old_units)]
            expected.append(-(target * log_p).sum(1).mean())
        torch.testing.assert_close(terms["replay"].value[r], sum(expected) / len(expected))


@pytest.mark.parametrize(
    ("scenario_name", "rule", "expected"),
    [
        ("class", "by_scenario", [(1, 1), (1, 1)]),
        ("domain", "by_scenario", [(1, 1), (1, 2)]),
        ("task", "by_scenario", [(1, 1), (1, 2)]),
        ("class", "by_old_tasks", [(1, 1), (1, 2)]),
        ("domain", 1.0, [(1, 1), (1, 1)]),
        ("task", "by_tasks", [(1 / 2, 1 / 2), (1 / 3, 2 / 3)]),
    ],
)
def test_lwf_weights_follow_from_rule_and_scenario(scenario_name, rule, expected):
    learner, weights = learner_of(LearningWithoutForgetting(replay_weight=rule), scenario_name), []
    for task in range(TASKS):
        if task:
            learner.begin_task(task, passes(learner, task))
            terms = learner.strategy.loss(
                forward(learner), next(batches(learner, task)), TrainingStep(task, 0, ITERATIONS)
            )
            weights.append((terms["current"].weight, terms["replay"].weight))
        train(learner, task)
    assert weights == [pytest.approx(pair) for pair in expected]
    # The default is the rule's name; `check` resolves it for a scenario.
    assert LearningWithoutForgetting().replay_weight == "by_scenario"


@pytest.mark.parametrize("temperature", [3.0, torch.tensor([3.0, 0.5], dtype=torch.float64)], ids=["one", "each"])
def test_distillation_loss_can_be_scaled_by_the_squared_temperature(temperature):
    strategy = LearningWithoutForgetting(temperature=temperature, distillation_scale="temperature_squared")
    learner = learner_of(strategy, "class", (0, 1))
    train(learner, 0)
    teachers = copy.deepcopy(learner.solvers.modules)
    learner.begin_task(1, passes(learner, 1))
    for i in range(4):
        batch = next(batches(learner, 1, i))
        learner.step(batch, TrainingStep(1, i, ITERATIONS))
    terms = strategy.loss(forward(learner), batch, TrainingStep(1, 3, ITERATIONS))
    for r, solver in enumerate(learner.solvers.modules):
        t = float(temperature[r]) if isinstance(temperature, torch.Tensor) else temperature
        target = (teachers[r](batch.x[r])[:, :2] / t).softmax(1)
        log_p = (solver(batch.x[r])[:, :4] / t).log_softmax(1)[:, :2]
        torch.testing.assert_close(terms["replay"].value[r], -t * t * (target * log_p).sum(1).mean())


@one_and_two_replicas
def test_teacher_is_a_frozen_copy_without_gradient(seeds):
    learner = learner_of(LearningWithoutForgetting(), "class", seeds)
    train(learner, 0)
    assert learner.strategy.teacher is None
    before = {name: value.clone() for name, value in learner.solvers.state_dict().items()}

    def observe(step, losses):
        teacher = learner.strategy.teacher
        assert all(p.grad is None and not p.requires_grad for p in teacher.modules[0].parameters())
        assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())

    train(learner, 1, observe)
    assert any(not torch.equal(before[name], value) for name, value in learner.solvers.state_dict().items())
    assert learner.strategy.teacher is None and not LearningWithoutForgetting.stores_raw_samples


@pytest.mark.parametrize("scenario_name", ["class", "task"])
def test_replicas_match_single_runs(scenario_name):
    assert_replicas_match_single_runs(
        lambda temperature: LearningWithoutForgetting(temperature=temperature), scenario_name, [2.0, 1.0]
    )
    assert_replicas_match_single_runs(
        lambda weight: LearningWithoutForgetting(replay_weight=weight), scenario_name, [2.0, 0.5]
    )


@pytest.mark.parametrize("regularizer", [None, WeightPenalty()])
def test_lwf_resumes_from_a_state(regularizer):
    assert_resumes_from_state(lambda: LearningWithoutForgetting(regularizer=copy.deepcopy(regularizer)), "task")


# --- iCaRL


def test_herding_matches_hand_computation():
    """Each selected sample brings the mean of the selection closest to the normalized mean of all."""
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    mean = features.mean(0) / features.mean(0).norm()  # (0.576, 0.817)
    selected = herding(features, 5)
    assert sorted(selected.tolist()) == [0, 1, 2, 3, 4]
    assert selected[:1].tolist() == [2]  # (0.6, 0.8) is closest
    for k in range(2, 6):
        distance = {
            i: (mean - features[[*selected[: k - 1].tolist(), i]].mean(0)).norm().item()
            for i in range(5)
            if i not in selected[: k - 1]
        }
        assert distance[selected[k - 1].item()] == pytest.approx(min(distance.values()))
    assert herding(features, 2).tolist() == selected[:2].tolist()


@one_and_two_replicas
def test_exemplars_are_herded_from_normalized_features(seeds):
    learner = learner_of(ICaRL(per_class=6), seeds=seeds)
    train(learner, 0)
    train(learner, 1)
    for replica, solver in enumerate(learner.solvers.modules):
        exemplars = dict(learner.strategy.exemplars.classes_of(replica))
        assert {unit: len(x) for unit, x in exemplars.items()} == dict.fromkeys(range(4), 6)
        x, y = data(learner, 1, replica)
        for unit in (2, 3):
            samples = x[y == unit]
            features = solver.features(samples)
            selected = herding(features / features.norm(dim=1, keepdim=True), 6)
            torch.testing.assert_close(exemplars[unit], samples[selected], rtol=0, atol=0)


def test_a_budget_is_divided_evenly_and_keeps_the_first_exemplars():
    learner = learner_of(ICaRL(per_class=20, budget=24))
    train(learner, 0)
    first = dict(learner.strategy.exemplars.classes_of(0))
    assert {unit: len(x) for unit, x in first.items()} == {0: 12, 1: 12}
    train(learner, 1)
    train(learner, 2)
    last = dict(learner.strategy.exemplars.classes_of(0))
    assert {unit: len(x) for unit, x in last.items()} == dict.fromkeys(range(6), 4)
    assert all(torch.equal(last[unit], first[unit][:4]) for unit in first)


@one_and_two_replicas
def test_icarl_loss_matches_hand_computation(seeds):
    learner = learner_of(ICaRL(per_class=6, batch_size=3, temperature=3.0), seeds=seeds)
    train(learner, 0)
    teachers = copy.deepcopy(learner.solvers.modules)
    learner.begin_task(1, passes(learner, 1))
    for i in range(4):
        batch = next(batches(learner, 1, i))
        learner.step(batch, TrainingStep(1, i, ITERATIONS))
    inputs = []
    terms = learner.strategy.loss(
        lambda x: (inputs.append(x), forward(learner)(x))[1], batch, TrainingStep(1, 3, ITERATIONS)
    )
    (x,) = inputs
    assert x.shape[1] == 13 and torch.equal(x[:, :10], batch.x)
    for r, solver in enumerate(learner.solvers.modules):
        stored = torch.cat([samples for _, samples in learner.strategy.exemplars.classes_of(r)])
        assert all((row == stored).all(1).any() for row in x[r, 10:])
        probabilities, teacher_probabilities = solver(x[r]).sigmoid(), (teachers[r](x[r]) / 3.0).sigmoid().detach()
        is_class = torch.zeros_like(probabilities)
        is_class[range(10), batch.y[r]] = 1.0  # exemplars have no current class

        def binary(p, q):
            return -(q * p.log() + (1 - q) * (1 - p).log()).sum(1).mean()

        torch.testing.assert_close(terms["current"].value[r], binary(probabilities[:, 2:4], is_class[:, 2:4]))
        torch.testing.assert_close(
            terms["distillation"].value[r], binary(probabilities[:, :2], teacher_probabilities[:, :2])
        )


@one_and_two_replicas
def test_batches_have_the_exemplars_share_in_the_union_with_the_task(seeds):
    learner = learner_of(ICaRL(per_class=10), seeds=seeds)
    train(learner, 0)
    learner.begin_task(1, passes(learner, 1))  # 20 exemplars, and 40 samples of the task
    exemplars, num_exemplars, num_samples = learner.strategy.exemplars, 0, 0
    for i in range(300):
        batch, step = next(batches(learner, 1, i)), TrainingStep(1, i, ITERATIONS)
        x, y = learner.strategy._mix_in_exemplars(exemplars, batch, step)
        assert x.shape == batch.x.shape
        is_exemplar = y < 2
        assert torch.equal(x[~is_exemplar], batch.x[~is_exemplar]) and torch.equal(
            y[~is_exemplar], batch.y[~is_exemplar]
        )
        for r in range(len(seeds)):
            stored = torch.cat([samples for _, samples in exemplars.classes_of(r)])
            assert all((row == stored).all(1).any() for row in x[r][is_exemplar[r]])
        num_exemplars, num_samples = num_exemplars + is_exemplar.sum().item(), num_samples + is_exemplar.numel()
    assert num_exemplars / num_samples == pytest.approx(20 / 60, abs=0.04)


def test_first_task_uses_binary_cross_entropy_per_class():
    learner, names_of_terms = learner_of(ICaRL()), []
    learner.begin_task(0, passes(learner, 0))
    batch = next(batches(learner, 0))
    terms = learner.strategy.loss(forward(learner), batch, TrainingStep(0, 0, ITERATIONS))
    target = nn.functional.one_hot(batch.y[0], 6).double()[:, :2]
    expected = nn.functional.binary_cross_entropy_with_logits(learner.solver(batch.x[0])[:, :2], target) * 2
    torch.testing.assert_close(terms["current"].value[0], expected)
    train(learner, 0, lambda step, losses: names_of_terms.append(set(losses)))
    assert all(names == {"current", "total"} for names in names_of_terms)


@one_and_two_replicas
def test_classification_by_the_nearest_mean_of_exemplars(seeds):
    learner = learner_of(ICaRL(per_class=6), seeds=seeds)
    strategy = learner.strategy
    assert strategy.classifier(0, learner.solver) is learner.solver
    train(learner, 0)
    train(learner, 1)
    for replica, solver in enumerate(learner.solvers.modules):
        x, _ = data(learner, 2, replica)
        score = strategy.classifier(replica, solver)(x)
        features = nn.functional.normalize(solver.features(x), dim=1)
        for unit, exemplars in strategy.exemplars.classes_of(replica):
            mean = nn.functional.normalize(nn.functional.normalize(solver.features(exemplars), dim=1).mean(0), dim=0)
            torch.testing.assert_close(score[:, unit], -(features - mean).square().sum(1))
        # Classes without exemplars have the lowest score.
        assert (score[:, 4:] < score[:, :4].min()).all() and score.isfinite().all()
        units = learner.scenario.testing_units(learner.task_units, 1, 1)
        xs, ys = data(learner, 1, replica)
        result = learner.evaluate([(xs, ys)], units, replica)
        assert result.accuracy == pytest.approx(
            (strategy.classifier(replica, solver)(xs).argmax(1) == ys).double().mean()
        )
        assert result.accuracy > 0.7


def test_icarl_replicas_match_single_runs():
    grouped = learner_of(ICaRL(per_class=6), seeds=(0, 1))
    for task in range(TASKS):
        train(grouped, task)
    for seed in (0, 1):
        single = learner_of(ICaRL(per_class=6), seeds=(seed,))
        for task in range(TASKS):
            train(single, task)
        x, _ = data(single, 2, 0)
        ours, theirs = (
            learner.strategy.classifier(replica, learner.solvers.modules[replica])(x)
            for learner, replica in ((grouped, seed), (single, 0))
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("settings", [{}, {"budget": 20}, {"batch_size": 3}])
def test_icarl_resumes_from_a_state(settings):
    assert_resumes_from_state(lambda: ICaRL(**{"per_class": 6} | settings), "class")


@pytest.mark.parametrize("scenario_name", ["domain", "task"])
def test_icarl_refuses_other_scenarios(gr_run, scenario_name):
    with pytest.raises(ConfigError, match="scenario"):
        ICaRL().check(Scenario(scenario_name), SimpleMLP())
    code, _, err = gr_run("strategy=icarl", f"scenario={scenario_name}")
    assert code == 2 and err.startswith(f"gr-run: scenario={scenario_name}: iCaRL needs") and err.count("\n") == 1


def test_icarl_refuses_solvers_without_features():
    with pytest.raises(ConfigError, match="features"):
        ICaRL().check(Scenario("class"), nn.Linear(4, 2))
    Finetune().check(Scenario("class"), nn.Linear(4, 2))


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_status_says_that_raw_samples_are_stored(gr_run, model):
    import json
    from pathlib import Path

    code, _, err = gr_run("strategy=icarl", f"model={model}", "train.iterations=3", "evaluate.every=2")
    assert (code, err) == (0, "")
    (path,) = Path("outputs").glob("*/*/*/status.json")
    assert json.loads(path.read_text())["stores_raw_samples"] is True
