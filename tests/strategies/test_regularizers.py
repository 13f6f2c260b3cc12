"""Penalties on the solver's parameters, compared with computations by hand."""

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
    assert_replicas_match_single_runs,
    assert_resumes_from_state,
    begin,
    data,
    learner_of,
    passes,
    train,
)

ALL = [ElasticWeightConsolidation, OnlineElasticWeightConsolidation, SynapticIntelligence, WeightPenalty]
each_regularizer = pytest.mark.parametrize("kind_of", ALL, ids=lambda kind_of: kind_of.__name__)


class Mixed(nn.Module):
    """A network with layers other than the package's own `Linear`."""

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
    parameters = (p.detach() for p in learner.functional_optimizers["solver"].parameters)
    return [p.unsqueeze(0) if len(learner.random_streams) == 1 else p for p in parameters]


def moved(parameters, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [p + torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3)])
def test_per_sample_squared_gradients_match_a_loop(shape):
    torch.manual_seed(0)
    first, second, x = Linear(3, 4), Linear(4, 2), torch.randn(shape)
    parameters = [*first.parameters(), *second.parameters()]

    def loss(x):
        return second(first(x).tanh()).square().sum()

    with per_sample_squared_gradients():
        batched = torch.autograd.grad(loss(x), parameters)
    by_sample = [torch.autograd.grad(loss(sample), parameters) for sample in x.flatten(0, -2)]
    for i, values in enumerate(batched):
        torch.testing.assert_close(values, sum(gradients[i].square() for gradients in by_sample))
    for values, expected in zip(
        torch.autograd.grad(loss(x), parameters), map(sum, zip(*by_sample, strict=True)), strict=True
    ):
        torch.testing.assert_close(values, expected)


@pytest.mark.parametrize("network", [deep, Mixed])
@pytest.mark.parametrize("labels", ["all", "true"])
@pytest.mark.parametrize("scenario_name", ["class", "domain", "task"])
def test_fisher_diagonal_matches_a_loop_over_samples_and_labels(network, labels, scenario_name):
    learner, task = learner_of(Finetune(), scenario_name, network=network), 1
    context, solver = learner._task_context(task, passes(learner, task)), learner.solver
    diagonal = fisher_diagonal(solver, context.sample_pass(0), context, 0, labels)
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
    for ours, theirs in zip(diagonal, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert all(not p.requires_grad and p.grad is None for p in diagonal)


def test_fisher_diagonal_of_a_logistic_regression():
    """d log p(y) / d w_c = (1[y = c] - p_c) x, so that the expected square is p_c (1 - p_c) x^2."""
    learner = learner_of(Finetune(), "task", network=linear)
    context, (x, _) = learner._task_context(1, passes(learner, 1)), data(learner, 1, 0)
    weight, bias = fisher_diagonal(learner.solver, context.sample_pass(0), context, 0, "all")
    p = learner.solver(x)[:, 2:4].softmax(1).detach()
    torch.testing.assert_close(bias[2:4], (p * (1 - p)).mean(0))
    torch.testing.assert_close(weight[2:4], ((p * (1 - p)).unsqueeze(2) * x.square().unsqueeze(1)).mean(0))
    # The units of other tasks did not compete.
    assert not weight[[0, 1, 4, 5]].any() and not bias[[0, 1, 4, 5]].any()


def test_sampled_labels_follow_the_predictions():
    learner = learner_of(Finetune(), network=linear)
    x, y = data(learner, 0, 0, n=2)
    x, y = x.repeat(20000, 1), y.repeat(20000)
    context = learner._task_context(0, lambda replica: [(x, y)])
    drawn, exact = (
        fisher_diagonal(learner.solver, context.sample_pass(0), context, 0, labels) for labels in ("sampled", "all")
    )
    for ours, theirs in zip(drawn, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.03, atol=1e-3)


def test_fisher_samples_are_a_uniform_subset():
    subsets = []
    for number in (7, 7, 39, 1000, None):
        regularizer = ElasticWeightConsolidation(samples=number)
        learner = learner_of(Finetune(regularizer))
        context = learner._task_context(0, passes(learner, 0))
        subset = torch.cat([x for x, _ in regularizer._fisher_samples(0, context)])
        all_samples = data(learner, 0, 0)[0].tolist()
        assert len(subset) == min(number or 40, 40) == len(subset.unique(dim=0))
        assert all(row in all_samples for row in subset.tolist())
        subsets.append(subset)
    assert torch.equal(subsets[0], subsets[1]) and not torch.equal(subsets[0], data(learner, 0, 0)[0][:7])


@each_regularizer
def test_no_penalty_in_the_first_task(kind_of):
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
def test_penalty_matches_its_definition_and_autograd(kind_of):
    """scale * strength * (sum importance * (parameter - anchor)^2 + constant), and its gradient."""
    strength = torch.tensor([0.3, 2.0], dtype=torch.float64)
    learner = learner_of(Finetune(kind_of(strength=strength)), seeds=(0, 1))
    train(learner, 0)
    train(learner, 1)
    regularizer = learner.strategy.regularizer
    state, parameters = regularizer.state_dict(), [p.requires_grad_() for p in moved(parameters_of(learner))]
    terms = zip(state["importance"], parameters, state["anchor"], strict=True)
    sum_of_squares = sum((i * (p - a).square()).flatten(1).sum(1) for i, p, a in terms)
    expected = regularizer.scale * strength * (sum_of_squares + state["constant"])
    value, gradients = regularizer.penalty([p.detach() for p in parameters])
    assert value.shape == (2,) and (value > 0).all()
    torch.testing.assert_close(value, expected.detach())
    for gradient, plain in zip(gradients, torch.autograd.grad(expected.sum(), parameters), strict=True):
        torch.testing.assert_close(gradient, plain)


@each_regularizer
def test_penalty_overwrites_its_gradient_and_nothing_else(kind_of):
    """The gradient's buffer is reused by the next call; state and parameters are not touched."""
    learner = learner_of(Finetune(kind_of(strength=2.0)))
    train(learner, 0)
    train(learner, 1)
    regularizer, parameters = learner.strategy.regularizer, moved(parameters_of(learner))
    copies, state = [p.clone() for p in parameters], learner.state_of(0)
    value, gradients = regularizer.penalty(parameters)
    first = [g.clone() for g in gradients]
    for gradient in gradients:
        gradient.add_(1.0)  # as an update may
    again, gradients = regularizer.penalty(parameters)
    assert torch.equal(again, value)
    for ours, expected in zip([*gradients, *parameters], [*first, *copies], strict=True):
        assert torch.equal(ours, expected)
    torch.testing.assert_close(learner.state_of(0), state, rtol=0, atol=0)


def random_fishers(regularizer, shapes, monkeypatch):
    """Replace the Fisher information by random numbers, half of them 0."""
    generator, fishers = torch.Generator().manual_seed(0), []

    def random_importance(parameters, situation):
        fishers.append([torch.rand(s, generator=generator, dtype=torch.float64).sub(0.5).clamp(min=0) for s in shapes])
        return [value.clone() for value in fishers[-1]]

    monkeypatch.setattr(regularizer, "_task_importance", random_importance)
    return fishers


def test_ewc_equals_the_sum_of_one_penalty_per_task(monkeypatch):
    regularizer, shapes = ElasticWeightConsolidation(strength=3.0), [(2, 4, 3), (2, 4)]
    fishers = random_fishers(regularizer, shapes, monkeypatch)
    start = [torch.zeros(shape, dtype=torch.float64) for shape in shapes]
    anchors = [moved(start, seed) for seed in range(4)]
    for anchor in anchors:
        regularizer.end_task(anchor, None)
    parameters = [p.requires_grad_() for p in moved(start, 9)]
    value, gradients = regularizer.penalty([p.detach() for p in parameters])
    expected = 1.5 * sum(
        (f * (p - a).square()).flatten(1).sum(1)
        for of_task, anchor in zip(fishers, anchors, strict=True)
        for f, p, a in zip(of_task, parameters, anchor, strict=True)
    )
    torch.testing.assert_close(value, expected.detach())
    for gradient, expected_gradient in zip(gradients, torch.autograd.grad(expected.sum(), parameters), strict=True):
        torch.testing.assert_close(gradient, expected_gradient)


def test_online_ewc_decays_the_fisher_information_around_the_newest_anchor(monkeypatch):
    regularizer, shapes = OnlineElasticWeightConsolidation(strength=3.0, decay=0.5), [(1, 4, 3)]
    fishers = random_fishers(regularizer, shapes, monkeypatch)
    anchors = [moved([torch.zeros(1, 4, 3, dtype=torch.float64)], seed) for seed in range(3)]
    for anchor in anchors:
        regularizer.end_task(anchor, None)
    parameters = moved(anchors[0], 9)
    running = 0.25 * fishers[0][0] + 0.5 * fishers[1][0] + fishers[2][0]
    expected = 1.5 * (running * (parameters[0] - anchors[2][0]).square()).flatten(1).sum(1)
    torch.testing.assert_close(regularizer.penalty(parameters)[0], expected)


def test_weight_penalty_is_the_distance_to_the_last_task():
    learner = learner_of(Finetune(WeightPenalty(strength=0.4)))
    train(learner, 0)
    train(learner, 1)
    parameters = moved(parameters_of(learner))
    expected = sum((p - a).square().sum() for p, a in zip(parameters, parameters_of(learner), strict=True))
    value, gradients = learner.strategy.regularizer.penalty(parameters)
    assert value.tolist() == pytest.approx([0.2 * float(expected)])
    torch.testing.assert_close(gradients[0], 0.4 * (parameters[0] - parameters_of(learner)[0]))


def test_path_integral_sums_to_the_decrease_of_the_loss():
    torch.manual_seed(0)
    learner, regularizer = learner_of(Finetune()), SynapticIntelligence()
    solver, (x, y) = learner.solver, data(learner, 0, 0)
    parameters = list(solver.parameters())

    def loss():
        return nn.functional.cross_entropy(solver(x), y)

    first_loss = loss().item()
    for _ in range(400):
        gradients = torch.autograd.grad(loss(), parameters)
        before = [p.detach().clone().unsqueeze(0) for p in parameters]
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p -= 0.002 * g
        regularizer.track_step(
            before, [p.detach().unsqueeze(0) for p in parameters], [g.unsqueeze(0) for g in gradients]
        )
    decrease = first_loss - loss().item()
    assert decrease > 0.05
    assert sum(path.sum().item() for path in regularizer._path_integral) == pytest.approx(decrease, rel=1e-2)


def test_synaptic_intelligence_matches_hand_computation():
    """One parameter, two steps per task: omega = -g delta, over distance^2 + damping, clamped at 0."""

    def one(value):
        return [torch.tensor([[value]], dtype=torch.float64)]

    regularizer = SynapticIntelligence(strength=3.0, damping=0.5)
    regularizer.track_step(one(1.0), one(0.8), one(2.0))
    regularizer.track_step(one(0.8), one(0.5), one(1.0))
    regularizer.end_task(one(0.5), None)
    importance = (2.0 * 0.2 + 1.0 * 0.3) / (0.5**2 + 0.5)
    value, gradients = regularizer.penalty(one(0.9))
    assert value.item() == pytest.approx(3 * importance * 0.4**2)
    assert gradients[0].item() == pytest.approx(6 * importance * 0.4)
    regularizer.track_step(one(0.5), one(0.6), one(1.0))
    regularizer.end_task(one(0.6), None)
    importance += -0.1 / (0.1**2 + 0.5)
    assert regularizer.penalty(one(1.6))[0].item() == pytest.approx(3 * importance)
    regularizer.track_step(one(0.6), one(2.6), one(100.0))
    regularizer.end_task(one(2.6), None)
    assert regularizer.penalty(one(1.6))[0].item() == 0


def test_path_integral_excludes_the_penalty():
    """The path integral uses gradients of the loss without the penalty."""
    learner = learner_of(Finetune(SynapticIntelligence(strength=100.0)))
    train(learner, 0)
    regularizer = learner.strategy.regularizer
    gradients_of_steps = []
    track_step = regularizer.track_step
    regularizer.track_step = lambda before, after, gradients: (
        gradients_of_steps.append(gradients),
        track_step(before, after, gradients),
    )
    begin(learner, 1, 3)
    for gradients in gradients_of_steps:
        # Output units of other tasks don't contribute to the loss.
        assert not gradients[-1][0, 4:].any()
    assert len(gradients_of_steps) == 3


@each_regularizer
@pytest.mark.parametrize("scenario_name", ["class", "task"])
def test_replicas_match_single_runs(kind_of, scenario_name):
    assert_replicas_match_single_runs(lambda strength: Finetune(kind_of(strength)), scenario_name, [1.0, 20.0])


@each_regularizer
def test_training_resumes_from_a_state(kind_of):
    assert_resumes_from_state(lambda: Finetune(kind_of(3.0)), "domain")


def test_important_parameters_are_preserved():
    """With a very strong penalty, important parameters don't change."""
    learner = learner_of(Finetune(ElasticWeightConsolidation(strength=1e7)), "task", lr=0.001)
    train(learner, 0)
    x, _ = data(learner, 0, 0)
    predictions = learner.solver(x)[:, :2].softmax(1).detach()
    train(learner, 1)
    torch.testing.assert_close(learner.solver(x)[:, :2].softmax(1).detach(), predictions, rtol=0, atol=0.02)


@pytest.mark.parametrize("regularizer", ["ewc", "online_ewc", "si", "weight_penalty"])
@pytest.mark.parametrize("strategy", ["generative_replay", "cumulative"])
def test_a_regularizer_is_added_to_any_strategy_by_one_override(gr_run, strategy, regularizer):
    overrides = [f"strategy={strategy}", f"strategy/regularizer={regularizer}", "train.iterations=3", "scenario=task"]
    code, _, err = gr_run(*overrides, "strategy.regularizer.strength=1")
    assert (code, err) == (0, "")


def test_a_negative_strength_is_refused(gr_run):
    code, _, err = gr_run("strategy=si", "strategy.regularizer.strength=-1")
    assert code == 2 and err.startswith("gr-run: strategy.regularizer.strength=-1: must be a number ≥ 0")


def test_ewc_includes_convolutions(gr_run):
    code, _, err = gr_run("strategy=ewc", "model=cnn", "train.iterations=3", "strategy.regularizer.samples=20")
    assert (code, err) == (0, "")
