"""Penalties on a solver's parameters are those of their papers."""

import pytest
import torch
from torch import nn

from gr_cli.models import SimpleMLP
from gr_cli.nn.linear import Linear, per_sample_squared_gradients
from gr_cli.nn.losses import masked_log_softmax
from gr_cli.strategies import (
    ElasticWeightConsolidation,
    Finetune,
    OnlineElasticWeightConsolidation,
    SynapticIntelligence,
    WeightPenalty,
)
from gr_cli.strategies.fisher import fisher_diagonal
from helpers.small_runs import (
    SIZE,
    assert_each_learns_what_it_learns_alone,
    assert_goes_on_from_its_state,
    begin,
    data,
    learner_of,
    passes,
    train,
)

ALL = [ElasticWeightConsolidation, OnlineElasticWeightConsolidation, SynapticIntelligence, WeightPenalty]
each_regularizer = pytest.mark.parametrize("kind_of", ALL, ids=lambda kind_of: kind_of.__name__)


class Mixed(nn.Module):
    """Not made of the package's own linear layers."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.convolution, self.output = nn.Conv1d(1, 2, 3), nn.Linear(2 * (SIZE - 2), units)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.convolution(x.unsqueeze(1)).relu().flatten(1))


def deep(units: int) -> nn.Module:
    return SimpleMLP(SIZE, [7, 5], units)


def linear(units: int) -> nn.Module:
    return SimpleMLP(SIZE, [], units)


def parameters_of(learner):
    held = (p.detach() for p in learner.functional_optimizers["solver"].parameters)
    return [p.unsqueeze(0) if len(learner.random_streams) == 1 else p for p in held]


def moved(parameters, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [p + torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3)])
def test_squared_gradients_are_sums_of_squares_of_each_samples_own(shape):
    torch.manual_seed(0)
    first, second, x = Linear(3, 4), Linear(4, 2), torch.randn(shape)
    parameters = [*first.parameters(), *second.parameters()]

    def loss(x):
        return second(first(x).tanh()).square().sum()

    with per_sample_squared_gradients():
        at_once = torch.autograd.grad(loss(x), parameters)
    each = [torch.autograd.grad(loss(sample), parameters) for sample in x.flatten(0, -2)]
    for i, found in enumerate(at_once):
        torch.testing.assert_close(found, sum(gradients[i].square() for gradients in each))
    for found, expected in zip(
        torch.autograd.grad(loss(x), parameters), map(sum, zip(*each, strict=True)), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("network", [deep, Mixed])
@pytest.mark.parametrize("labels", ["all", "true"])
@pytest.mark.parametrize("kind", ["class", "domain", "task"])
def test_fisher_is_that_of_a_loop_over_samples_and_labels(network, labels, kind):
    learner, task = learner_of(Finetune(), kind, network=network), 1
    situation, solver = learner._task_context(task, passes(learner, task)), learner.solver
    found = fisher_diagonal(solver, situation.sample_pass(0), situation, 0, labels)
    units = learner.scenario.training_units(learner.task_units, task)
    parameters = list(solver.parameters())
    x, y = data(learner, task, 0)
    expected = [torch.zeros_like(p) for p in parameters]
    for sample, label in zip(x, y, strict=True):
        log_p = masked_log_softmax(solver(sample.unsqueeze(0))[0], units)
        for unit in units.nonzero().squeeze(1) if labels == "all" else label.unsqueeze(0):
            weight = log_p[unit].exp().item() if labels == "all" else 1.0
            for total, g in zip(expected, torch.autograd.grad(log_p[unit], parameters, retain_graph=True), strict=True):
                total += weight * g.square() / len(x)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert all(not p.requires_grad and p.grad is None for p in found)


def test_fisher_of_a_logistic_regression_is_known():
    """d log p(y) / d w_c = (1[y = c] - p_c) x, so that the expected square is p_c (1 - p_c) x^2."""
    learner = learner_of(Finetune(), "task", network=linear)
    situation, (x, _) = learner._task_context(1, passes(learner, 1)), data(learner, 1, 0)
    weight, bias = fisher_diagonal(learner.solver, situation.sample_pass(0), situation, 0, "all")
    p = learner.solver(x)[:, 2:4].softmax(1).detach()
    torch.testing.assert_close(bias[2:4], (p * (1 - p)).mean(0))
    torch.testing.assert_close(weight[2:4], ((p * (1 - p)).unsqueeze(2) * x.square().unsqueeze(1)).mean(0))
    # The units of other tasks did not compete.
    assert not weight[[0, 1, 4, 5]].any() and not bias[[0, 1, 4, 5]].any()


def test_labels_are_drawn_as_the_solver_predicts_them():
    learner = learner_of(Finetune(), network=linear)
    x, y = data(learner, 0, 0, n=2)
    x, y = x.repeat(20000, 1), y.repeat(20000)
    situation = learner._task_context(0, lambda replica: [(x, y)])
    drawn, exact = (
        fisher_diagonal(learner.solver, situation.sample_pass(0), situation, 0, labels) for labels in ("sampled", "all")
    )
    for ours, theirs in zip(drawn, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.03, atol=1e-3)


def test_the_fisher_information_may_be_that_of_some_samples():
    seen = []
    for number in (7, 7, 39, 1000, None):
        regularizer = ElasticWeightConsolidation(samples=number)
        learner = learner_of(Finetune(regularizer))
        situation = learner._task_context(0, passes(learner, 0))
        chosen = torch.cat([x for x, _ in regularizer._fisher_samples(0, situation)])
        whole = data(learner, 0, 0)[0].tolist()
        assert len(chosen) == min(number or 40, 40) == len(chosen.unique(dim=0))
        assert all(row in whole for row in chosen.tolist())
        seen.append(chosen)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], data(learner, 0, 0)[0][:7])


@each_regularizer
def test_there_is_no_penalty_before_the_first_task_is_over(kind_of):
    learner, rows = learner_of(Finetune(kind_of())), []
    free = learner_of(Finetune())
    train(learner, 0, lambda position, losses: rows.append(losses))
    train(free, 0)
    assert all("penalty" not in losses for losses in rows)
    for ours, theirs in zip(learner.solver.parameters(), free.solver.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    train(learner, 1, lambda position, losses: rows.append(losses))
    for losses in rows[-11:]:
        assert losses["penalty"] > 0
        torch.testing.assert_close(losses["total"], losses["current"] + losses["penalty"])


@each_regularizer
def test_the_gradient_is_that_of_the_value(kind_of):
    learner = learner_of(Finetune(kind_of(strength=torch.tensor([0.3, 2.0]))), seeds=(0, 1))
    train(learner, 0)
    train(learner, 1)
    place = [p.requires_grad_() for p in moved(parameters_of(learner))]
    value, pulls = learner.strategy.regularizer.penalty(place)
    assert value.shape == (2,) and (value > 0).all()
    for pull, expected in zip(pulls, torch.autograd.grad(value.sum(), place), strict=True):
        torch.testing.assert_close(pull, expected)


def random_fishers(regularizer, shapes, monkeypatch):
    """Fisher informations by chance instead of from samples; half of all values are 0."""
    generator, found = torch.Generator().manual_seed(0), []

    def invented(parameters, situation):
        found.append([torch.rand(s, generator=generator, dtype=torch.float64).sub(0.5).clamp(min=0) for s in shapes])
        return [value.clone() for value in found[-1]]

    monkeypatch.setattr(regularizer, "_task_importance", invented)
    return found


def test_the_completed_square_is_the_sum_of_the_tasks_penalties(monkeypatch):
    regularizer, shapes = ElasticWeightConsolidation(strength=3.0), [(2, 4, 3), (2, 4)]
    fishers = random_fishers(regularizer, shapes, monkeypatch)
    start = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    anchors = [moved(start, seed) for seed in range(4)]
    for anchor in anchors:
        regularizer.end_task(anchor, None)
    place = [p.requires_grad_() for p in moved(start, 9)]
    value, pulls = regularizer.penalty([p.detach() for p in place])
    expected = 1.5 * sum(
        (f * (p - a).square()).flatten(1).sum(1)
        for of_task, anchor in zip(fishers, anchors, strict=True)
        for f, p, a in zip(of_task, place, anchor, strict=True)
    )
    torch.testing.assert_close(value, expected.detach())
    for pull, wanted in zip(pulls, torch.autograd.grad(expected.sum(), place), strict=True):
        torch.testing.assert_close(pull, wanted)


def test_online_the_fisher_information_decays_and_the_anchor_is_the_newest(monkeypatch):
    regularizer, shapes = OnlineElasticWeightConsolidation(strength=3.0, decay=0.5), [(1, 4, 3)]
    fishers = random_fishers(regularizer, shapes, monkeypatch)
    anchors = [moved([torch.zeros(1, 4, 3, dtype=torch.float64)], seed) for seed in range(3)]
    for anchor in anchors:
        regularizer.end_task(anchor, None)
    place = moved(anchors[0], 9)
    running = 0.25 * fishers[0][0] + 0.5 * fishers[1][0] + fishers[2][0]
    expected = 1.5 * (running * (place[0] - anchors[2][0]).square()).flatten(1).sum(1)
    torch.testing.assert_close(regularizer.penalty(place)[0], expected)


def test_a_weight_penalty_is_the_distance_to_the_last_task():
    learner = learner_of(Finetune(WeightPenalty(strength=0.4)))
    train(learner, 0)
    train(learner, 1)
    place = moved(parameters_of(learner))
    expected = sum((p - a).square().sum() for p, a in zip(place, parameters_of(learner), strict=True))
    value, pulls = learner.strategy.regularizer.penalty(place)
    assert value.tolist() == pytest.approx([0.2 * float(expected)])
    torch.testing.assert_close(pulls[0], 0.4 * (place[0] - parameters_of(learner)[0]))


def test_along_small_steps_synaptic_intelligence_sums_to_what_the_loss_fell():
    torch.manual_seed(0)
    learner, regularizer = learner_of(Finetune()), SynapticIntelligence()
    solver, (x, y) = learner.solver, data(learner, 0, 0)
    parameters = list(solver.parameters())

    def loss():
        return nn.functional.cross_entropy(solver(x), y)

    begun = loss().item()
    for _ in range(400):
        gradients = torch.autograd.grad(loss(), parameters)
        before = [p.detach().clone().unsqueeze(0) for p in parameters]
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p -= 0.002 * g
        regularizer.track_step(
            before, [p.detach().unsqueeze(0) for p in parameters], [g.unsqueeze(0) for g in gradients]
        )
    fell = begun - loss().item()
    assert fell > 0.05
    assert sum(path.sum().item() for path in regularizer._path_integral) == pytest.approx(fell, rel=1e-2)


def test_synaptic_intelligence_by_hand():
    """One parameter, two steps a task: omega = -g delta, over distance^2 + damping, the sum never below 0."""

    def one(value):
        return [torch.tensor([[value]], dtype=torch.float64)]

    regularizer = SynapticIntelligence(strength=3.0, damping=0.5)
    regularizer.track_step(one(1.0), one(0.8), one(2.0))
    regularizer.track_step(one(0.8), one(0.5), one(1.0))
    regularizer.end_task(one(0.5), None)
    importance = (2.0 * 0.2 + 1.0 * 0.3) / (0.5**2 + 0.5)
    value, pulls = regularizer.penalty(one(0.9))
    assert value.item() == pytest.approx(3 * importance * 0.4**2)
    assert pulls[0].item() == pytest.approx(6 * importance * 0.4)
    regularizer.track_step(one(0.5), one(0.6), one(1.0))
    regularizer.end_task(one(0.6), None)
    importance += -0.1 / (0.1**2 + 0.5)
    assert regularizer.penalty(one(1.6))[0].item() == pytest.approx(3 * importance)
    regularizer.track_step(one(0.6), one(2.6), one(100.0))
    regularizer.end_task(one(2.6), None)
    assert regularizer.penalty(one(1.6))[0].item() == 0


def test_a_path_is_followed_without_the_penalty():
    """The gradients are those of the loss alone: a penalty that is all that pulls leaves no trace."""
    learner = learner_of(Finetune(SynapticIntelligence(strength=100.0)))
    train(learner, 0)
    path = learner.strategy.regularizer
    seen = []
    follow = path.track_step
    path.track_step = lambda before, after, gradients: (seen.append(gradients), follow(before, after, gradients))
    begin(learner, 1, 3)
    for gradients in seen:
        # The output of a class of another task has no part in the loss.
        assert not gradients[-1][0, 4:].any()
    assert len(seen) == 3


@each_regularizer
@pytest.mark.parametrize("kind", ["class", "task"])
def test_each_replica_learns_what_it_learns_alone(kind_of, kind):
    assert_each_learns_what_it_learns_alone(lambda strength: Finetune(kind_of(strength)), kind, [1.0, 20.0])


@each_regularizer
def test_a_run_goes_on_from_its_state(kind_of):
    assert_goes_on_from_its_state(lambda: Finetune(kind_of(3.0)), "domain")


def test_what_matters_is_held():
    """With a very strong penalty an important parameter does not move, whatever the current task pulls at it."""
    learner = learner_of(Finetune(ElasticWeightConsolidation(strength=1e7)), "task", lr=0.001)
    train(learner, 0)
    x, _ = data(learner, 0, 0)
    kept = learner.solver(x)[:, :2].softmax(1).detach()
    train(learner, 1)
    torch.testing.assert_close(learner.solver(x)[:, :2].softmax(1).detach(), kept, rtol=0, atol=0.02)


@pytest.mark.parametrize("regularizer", ["ewc", "online_ewc", "si", "weight_penalty"])
@pytest.mark.parametrize("strategy", ["generative_replay", "cumulative"])
def test_beside_other_strategies_it_is_one_override(gr_run, strategy, regularizer):
    words = [f"strategy={strategy}", f"strategy/regularizer={regularizer}", "train.iterations=3", "scenario=task"]
    code, _, err = gr_run(*words, "strategy.regularizer.strength=1")
    assert (code, err) == (0, "")


def test_a_strength_below_zero_is_one_line(gr_run):
    code, _, err = gr_run("strategy=si", "strategy.regularizer.strength=-1")
    assert code == 2 and err.startswith("gr-run: strategy.regularizer.strength=-1: must be a number ≥ 0")


def test_convolutions_are_held_too(gr_run):
    code, _, err = gr_run("strategy=ewc", "model=cnn", "train.iterations=3", "strategy.regularizer.samples=20")
    assert (code, err) == (0, "")
