"""DP-SGD: clipping, noise, padding, Poisson samples, replicas, resuming and refusals."""

import math

import pytest
import torch

from gr_cli.cli.compose import compose_settings
from gr_cli.errors import ConfigError
from gr_cli.nn.batch_order import PoissonOrder
from gr_cli.nn.gradient_rules.base import GradientStep, Loss
from gr_cli.nn.gradient_rules.dp_sgd import DPSGD
from gr_cli.nn.linear import Linear
from gr_cli.nn.random_streams import RandomStreams, ReplicaStreams
from gr_cli.nn.replicas import Replicas
from gr_cli.privacy.settings import PrivacySettings
from gr_cli.strategies.context import TrainingStep
from gr_cli.training.batches import batches, sample_passes
from gr_cli.training.experiment import prepare
from gr_cli.training.stacking import stack_learners

BUDGET = PrivacySettings(epsilon=8.0, delta=1e-5, sampling_rate=0.1)
NOISE = 2.0  # no calibration, which takes seconds


def rule_of(max_norm=1.0, noise=NOISE, steps=5, batch_size=64):
    return DPSGD(max_norm, noise, BUDGET, steps, batch_size)


def gradients_of(rule, networks, x, mask, weight=1.0, rest=None, seeds=(0,), iteration=0):
    """Gradients of the mean squared output, in the form that the learner passes a loss."""
    parameters = networks.select_parameters(lambda network: network.parameters())
    with rule.recording(networks):
        out = networks.call("__call__", x)
    contributions = out.square().sum(-1) * mask * (weight / x.shape[1])
    loss = Loss(contributions.sum(1), lambda: contributions, rest=rest, current_weight=weight)
    step = GradientStep("solver", 0, iteration, ReplicaStreams([RandomStreams(seed) for seed in seeds], torch.float64))
    return rule.gradients(loss, parameters, step)


def linear_network(seed=0):
    torch.manual_seed(seed)
    return Linear(3, 2).double()


def silent(rule):
    rule.noise_multiplier = 0.0  # what the settings refuse
    return rule


@pytest.fixture
def samples():
    torch.manual_seed(5)
    return torch.randn(1, 6, 3).double()


def test_gradients_are_clipped_before_they_are_summed(samples):
    network, mask = linear_network(), torch.ones(1, 6)
    rule = silent(rule_of(max_norm=0.7))
    weight, bias = gradients_of(rule, Replicas([network]), samples, mask, weight=0.5)
    expected = torch.zeros(8).double()
    for x in samples[0]:
        out = network(x.unsqueeze(0))[0]
        gradient = torch.cat([torch.outer(2 * out, x).flatten(), 2 * out]).detach()
        expected += gradient * min(1.0, 0.7 / float(gradient.norm()))
    expected *= 0.5 / (0.1 * rule.largest_task)
    torch.testing.assert_close(torch.cat([weight.flatten(), bias]), expected, rtol=1e-9, atol=1e-12)
    assert 0 < rule.metrics()["clipped"].item() <= 1


def test_padding_contributes_nothing(samples):
    mask = torch.tensor([[1.0, 1, 1, 1, 0, 0]])
    changed = samples.clone()
    changed[:, 4:] = 1e6
    first, second = (gradients_of(rule_of(), Replicas([linear_network()]), x, mask) for x in (samples, changed))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    removed = gradients_of(silent(rule_of()), Replicas([linear_network()]), samples[:, :4], mask[:, :4])
    padded = gradients_of(silent(rule_of()), Replicas([linear_network()]), samples, mask)
    torch.testing.assert_close(padded, removed, rtol=1e-12, atol=1e-15)  # the divisor is not the size of the batch


def test_one_sample_changes_the_sum_by_at_most_the_norm(samples):
    rule = silent(rule_of(max_norm=0.3))
    masks = torch.ones(1, 6), torch.tensor([[1.0, 1, 1, 1, 1, 0]])
    with_it, without = (gradients_of(rule, Replicas([linear_network()]), 100 * samples, mask) for mask in masks)
    change = torch.cat([(a - b).flatten() for a, b in zip(with_it, without, strict=True)])
    assert float(change.norm()) * rule.expected_batch_size == pytest.approx(0.3, rel=1e-6)


def test_one_sample_changes_the_sum_by_at_most_the_norm_in_bfloat16_too():
    torch.manual_seed(0)
    network, mask = Linear(100, 50), torch.ones(1, 400)
    x = torch.randn(1, 1, 100) + 0.3 * torch.randn(1, 400, 100)  # gradients that add up: rounding grows with the sum

    def clipped_sum(mask):
        rule = silent(rule_of(max_norm=1.0))
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            values = gradients_of(rule, Replicas([network]), x, mask)
        return torch.cat([value.flatten().double() for value in values]) * rule.expected_batch_size

    total = clipped_sum(mask)
    assert total.norm() > 200
    for sample in (0, 399):
        others = mask.clone()
        others[0, sample] = 0
        assert float((total - clipped_sum(others)).norm()) < 1.001


def test_noise_has_the_deviation_that_is_accounted_for():
    network = Linear(100, 50).double()
    rule = rule_of(max_norm=0.4)
    mask, x = torch.zeros(1, 4), torch.zeros(1, 4, 100).double()
    noises = [
        torch.cat([g.flatten() for g in gradients_of(rule, Replicas([network]), x, mask, iteration=i)])
        for i in range(8)
    ]
    values = torch.stack(noises) * rule.expected_batch_size / (NOISE * 0.4)  # 40400 standard normal numbers
    assert abs(float(values.mean())) < 5 / math.sqrt(values.numel())
    assert abs(float(values.std()) - 1) < 5 / math.sqrt(2 * values.numel())
    assert not torch.equal(noises[0], noises[1])
    again = torch.cat([g.flatten() for g in gradients_of(rule, Replicas([network]), x, mask, iteration=1)])
    assert torch.equal(noises[1], again)  # as after resuming


def test_the_rest_of_a_loss_is_neither_clipped_nor_noised(samples):
    network = linear_network()
    rest = {"without": None, "with": lambda: 1e3 * network.weight.sum().unsqueeze(0)}
    with_it, without = (
        gradients_of(rule_of(), Replicas([network]), samples, torch.ones(1, 6), rest=rest[name])
        for name in ("with", "without")
    )
    torch.testing.assert_close(with_it[0] - without[0], torch.full((2, 3), 1e3).double())
    assert torch.equal(with_it[1], without[1])


def test_replicas_equal_single_runs(samples):
    x, mask = torch.cat([samples, -2 * samples]), torch.ones(2, 6)
    stacked = gradients_of(rule_of(), Replicas([linear_network(0), linear_network(1)]), x, mask, seeds=(3, 4))
    for r in range(2):
        single = gradients_of(rule_of(), Replicas([linear_network(r)]), x[r : r + 1], mask[r : r + 1], seeds=(3 + r,))
        for a, b in zip(stacked, single, strict=True):
            torch.testing.assert_close(a[r], b, rtol=1e-12, atol=1e-15)


# --- Poisson samples


def test_poisson_samples_are_drawn_at_the_rate_whatever_the_size_of_the_task():
    for size in (200, 2000):
        order = PoissonOrder(size, 400, 0.1, RandomStreams(3), 0, secure=False)
        index, mask = order.block(0, 200)
        counts = mask.sum(1).double()
        deviation = math.sqrt(size * 0.1 * 0.9 / 200)
        assert abs(float(counts.mean()) - 0.1 * size) < 5 * deviation
        assert 0.5 < float(counts.var()) / (size * 0.1 * 0.9) < 1.6  # binomial, and not of fixed size
        drawn = torch.cat([i[m] for i, m in zip(index, mask, strict=True)]).bincount(minlength=size)
        assert int(drawn.max()) < 60  # 20 expected of each
        assert all(len(i[m].unique()) == int(m.sum()) for i, m in zip(index, mask, strict=True))
        later, later_mask = order.block(150, 50)
        assert torch.equal(later, index[150:]) and torch.equal(later_mask, mask[150:])


def test_positions_of_secure_samples_do_not_depend_on_how_many_are_drawn():
    order = PoissonOrder(3, 8, 1.0, RandomStreams(0), 0, secure=True)
    index, mask = order.block(0, 300)
    assert (mask.sum(1) == 3).all()
    for sample in range(3):
        steps, positions = ((index == sample) & mask).nonzero(as_tuple=True)
        assert steps.tolist() == list(range(300)) and set(positions.tolist()) == set(range(8))


def test_poisson_samples_beyond_the_batch_are_left_out_and_missing_ones_padded():
    index, mask = PoissonOrder(50, 3, 1.0, RandomStreams(0), 0, secure=False).block(0, 2)
    assert mask.all() and index.tolist() == [[0, 1, 2]] * 2
    index, mask = PoissonOrder(3, 5, 1.0, RandomStreams(0), 0, secure=False).block(0, 1)
    assert mask.tolist() == [[True] * 3 + [False] * 2] and index.tolist() == [[0, 1, 2, 0, 0]]


# --- in a run

SMALL = ["benchmark=split_digits", "threads=1", "precision=float64", "model.hidden_sizes=[12]", "train.iterations=3"]
SMALL += ["train.batch_size=96", "privacy.epsilon=8", "privacy.sampling_rate=0.05"]
OWN_RULE = ["generator/gradient_rule=dp_sgd", "generator.gradient_rule.noise_multiplier=2"]
REPLAY = ["strategy=generative_replay", "strategy.current_data=generated", "strategy.generator_training=before"]
REPLAY += ["strategy.generator_data=current_and_replay", "strategy.generator_update_freq=1", "strategy.batch_size=8"]
CVAE = ["generator=cvae", "generator.hidden_dims=[12]", *OWN_RULE, *REPLAY]
CLASSIFIER = ["strategy=generative_classifier", "generator=class_vae", "generator.hidden_dims=[12]", *OWN_RULE]
SOLVER = ["strategy=finetune", "gradient_rule=dp_sgd", "gradient_rule.noise_multiplier=2"]


def run_steps(overrides, seeds=(0,), tasks=2):
    experiments = [prepare(compose_settings([*SMALL, *overrides, f"seed={seed}"])) for seed in seeds]
    learner, losses = stack_learners(experiments), []
    for task in range(tasks):
        learner.begin_task(task, sample_passes(experiments, task))
        stream = batches(experiments, task, 0)
        steps = learner.strategy.num_steps(3)
        losses += [learner.step(next(stream), TrainingStep(task, i, 3)) for i in range(steps)]
        learner.end_task(task, sample_passes(experiments, task))
    return learner, losses


@pytest.mark.parametrize(
    "overrides",
    [
        CVAE,
        CLASSIFIER,
        SOLVER,
        [*CVAE, "generator=flow"],
        ["generator=conv_vae", "generator.hidden_dims=[4]", *CVAE[2:]],
    ],
    ids=["cvae", "class_vae", "solver", "flow", "conv_vae"],
)
def test_replicas_of_a_run_equal_single_runs(overrides):
    if "generator=conv_vae" in overrides:  # without labels the solver learns real samples: as a generator alone
        overrides = [o for o in overrides if o not in ("strategy.current_data=generated",)]
        overrides += ["gradient_rule=dp_sgd", "gradient_rule.noise_multiplier=2"]
    both, _ = run_steps(overrides, seeds=(0, 1))
    for r in range(2):
        single, _ = run_steps(overrides, seeds=(r,))
        for name in ("solver", "generator"):
            state, expected = both.state_of(r)[name], single.state_of(0)[name]
            for key in expected or {}:
                torch.testing.assert_close(state[key], expected[key], rtol=1e-7, atol=1e-9, msg=key)


@pytest.mark.parametrize("overrides", [CLASSIFIER, SOLVER], ids=["class_vae", "solver"])
def test_a_resumed_run_repeats_samples_and_noise(overrides):
    settings = compose_settings([*SMALL, *overrides])
    states = []
    for stop in (None, 1):
        experiment = prepare(settings)
        learner = experiment.learner
        learner.begin_task(0, sample_passes([experiment], 0))
        stream = batches([experiment], 0, 0)
        for i in range(stop or 3):
            learner.step(next(stream), TrainingStep(0, i, 3))
        if stop is not None:
            saved = learner.state_of(0)
            experiment = prepare(settings)
            learner = experiment.learner
            learner.load_states([saved], 0, sample_passes([experiment], 0))
            for i, batch in zip(range(stop, 3), batches([experiment], 0, stop), strict=False):
                learner.step(batch, TrainingStep(0, i, 3))
        states.append(learner.state_of(0))
    for name in ("solver", "generator"):
        for key, value in (states[0][name] or {}).items():
            assert torch.equal(value, states[1][name][key]), key


def test_losses_that_are_logged_leave_out_padding():
    _, losses = run_steps(SOLVER, tasks=1)
    assert losses[0]["current"].isfinite().all() and losses[0]["solver.clipped"].item() <= 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([*CVAE, "privacy.epsilon=null"], "needs a privacy budget; set privacy.epsilon"),
        ([*CVAE, "privacy.sampling_rate=null"], "privacy.sampling_rate=null: dp_sgd reads Poisson samples"),
        ([*CVAE, "train.batch_size=40"], "train.batch_size=40: .*try 4[0-9], which [0-9]+ samples"),
        ([*CVAE, "generator.gradient_rule.noise_multiplier=0.1"], "noise_multiplier=0.1: 3 steps would spend"),
        ([*CVAE, "gradient_rule=dp_sgd", "gradient_rule.noise_multiplier=2"], "add noise to a solver"),
        ([*SOLVER, "strategy=bir"], "trains solver and generator by one loss"),
        ([*SOLVER, "model=resnet18", "model.norm=batch"], "batch statistics, which mix samples"),
        (
            ["strategy=generative_classifier", "generator=class_conv_vae", "generator.hidden_dims=[4,8]", *OWN_RULE],
            "generator=class_conv_vae: has batch statistics.*; try generator.norm=none",
        ),
        (
            [*SOLVER, *OWN_RULE, "strategy=generative_replay", "generator=wgan_gp", *REPLAY[2:]],
            "generator=wgan_gp has a loss on gradients",
        ),
        ([*SOLVER, *OWN_RULE, "strategy=generative_replay", "generator=vae", *REPLAY[3:]], "read the same Poisson"),
        (["strategy=finetune", "privacy.epsilon=null"], "privacy.sampling_rate=0.05: is for gradient_rule=dp_sgd"),
    ],
)
def test_settings_that_would_void_the_accounting_are_refused(overrides, message):
    small = [word for word in SMALL if "model=resnet18" not in overrides or not word.startswith("model.")]
    settings = compose_settings([*small, *overrides])
    with pytest.raises(ConfigError, match=message):
        prepare(settings)


def test_losses_on_current_samples_that_are_not_of_single_ones_are_refused():
    """Distillation of learning without forgetting is on current samples, and has no losses of single ones."""
    with pytest.raises(ConfigError, match="a loss on current samples is not one of single samples"):
        run_steps([*SOLVER, "strategy=lwf"])
