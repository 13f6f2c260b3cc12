"""Every strategy with every generator in every scenario: it runs or is refused with a clear message."""

from math import isfinite
from pathlib import Path

import pytest
import torch
import yaml

from gr_cli import load_run
from gr_cli.cli.compose import compose_settings
from gr_cli.cli.launchers.program_width import choose_width
from gr_cli.config.instantiate import accepts_argument, import_target
from gr_cli.errors import ConfigError
from gr_cli.strategies import FeedbackReplay, GenerativeClassifier
from gr_cli.strategies.context import TrainingStep
from gr_cli.training.batches import batches, sample_passes
from gr_cli.training.experiment import prepare
from gr_cli.training.generator_update import generator_learning_rate
from helpers.shipped_methods import CONF, NEED_A_BUDGET, SIZES, SMALL, STRATEGY_SIZES, names, train

SCENARIOS = ("class", "domain", "task")


def target(strategy):
    """The class behind a strategy's YAML, which may inherit from another."""
    node = yaml.safe_load((CONF / "strategy" / f"{strategy}.yaml").read_text())
    if "_target_" in node:
        return import_target(node["_target_"], "strategy")
    (parent,) = [part for part in node["defaults"] if isinstance(part, str) and part != "_self_"]
    return target(parent)


def requires_generator(strategy):
    return accepts_argument(
        {"_target_": f"{target(strategy).__module__}.{target(strategy).__name__}"}, "strategy", "generator"
    )


def expected_refusal(strategy, generator, scenario):
    """The message for combinations that are refused; None for the others."""
    strategy_class = target(strategy)
    if strategy == "icarl" and scenario != "class":
        return "iCaRL needs one output unit per class"
    if not requires_generator(strategy):
        return None
    reads_features = generator in ("feedback", "rtf", "bir")
    if strategy_class is FeedbackReplay:
        return None if reads_features else "does not read the solver's features"
    if strategy_class is GenerativeClassifier:
        if generator not in ("class_vae", "class_conv_vae", "mixture", "gaussian"):
            return "has no likelihood"
        return "learns each class once" if scenario == "domain" else None
    if reads_features:
        return "shares its network with the solver"
    return "tasks have classes in common" if generator in ("gaussian", "mixture") and scenario == "domain" else None


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("strategy", names("strategy"))
def test_every_combination_runs_or_is_refused(strategy, scenario):
    # Variants of another strategy: only with their default generator.
    own_generators = {"dgr_distill": ["symmetric_vae"], "dgr_gan": ["wgan_gp"], "bir": ["bir"]}
    # Unconditional generators don't depend on the scenario.
    unconditional = (
        {"conv_vae", "symmetric_vae", "wgan_gp"} if scenario != "class" and strategy not in own_generators else set()
    )
    for generator in (
        sorted({*own_generators.get(strategy, names("generator"))} - unconditional - {*NEED_A_BUDGET})
        if requires_generator(strategy)
        else ["vae"]
    ):
        overrides = [f"strategy={strategy}", f"generator={generator}", f"scenario={scenario}", *SMALL]
        overrides += SIZES.get(generator, []) if requires_generator(strategy) else STRATEGY_SIZES.get(strategy, [])
        expected = expected_refusal(strategy, generator, scenario)
        if expected is not None:
            with pytest.raises(ConfigError, match=expected) as caught:
                prepare(compose_settings(overrides))
            assert "\n" not in str(caught.value) and "try " in str(caught.value)
            continue
        experiment = prepare(compose_settings(overrides))
        learner = experiment.learner
        losses_of_steps = []
        for number in range(min(2, len(experiment.stages))):
            train(
                [experiment],
                learner,
                number,
                observe=lambda step, losses, losses_of_steps=losses_of_steps: losses_of_steps.append(losses),
            )
            # One entry of the accuracy matrix.
            task = experiment.benchmark.tasks[number]
            units = learner.scenario.testing_units(learner.task_units, task.id, experiment.stages[number].task)
            score = learner.evaluate(task.test.batches(), units)
            assert 0 <= score.accuracy <= 1 and score.loss is not None and isfinite(score.loss), overrides
        assert all(isfinite(float(value)) for losses in losses_of_steps for value in losses.values()), overrides
        if learner.generator is not None:
            x = learner.strategy.sampling_generator(0, learner.generator).generate(7)
            assert x.shape == (7, *experiment.benchmark.spec.shape) and x.isfinite().all(), overrides
            assert x.min() >= 0 and x.max() <= 1
            spec = experiment.benchmark.spec
            if spec.has_preview:
                preview = spec.preview(x)
                assert preview.shape[0] == 7 and preview.shape[1] in (1, 3) and 0 <= preview.min() <= preview.max() <= 1


@pytest.mark.parametrize(
    ("overrides", "includes_decoder"),
    [
        (["si", "strategy.regularizer.parameters=all"], True),
        (["si"], False),
        (["ewc"], False),  # the Fisher information of the labels does not depend on the decoder
    ],
)
def test_synaptic_intelligence_can_include_a_shared_decoder(overrides, includes_decoder):
    choice, *more = overrides
    overrides = ["strategy=bir", f"strategy/regularizer={choice}", *more, "strategy.regularizer.strength=3.0", *SMALL]
    experiment = prepare(compose_settings(overrides))
    learner, penalty = experiment.learner, experiment.learner.strategy.regularizer
    parameters = [
        p
        for name, d in learner.functional_optimizers.items()
        if includes_decoder or name == "solver"
        for p in d.parameters
    ]
    train([experiment], learner, 0)
    state = penalty.state_dict()
    assert all(torch.equal(a[0], p) for a, p in zip(state["anchor"], parameters, strict=True))
    importance, anchor = ([value.clone() for value in state[name]] for name in ("importance", "anchor"))
    assert all(value.any() for value in importance[-2:])  # the decoder's last layer
    positions, penalties = [], []

    def observe(step, losses):
        penalties.append(losses["penalty"].item())
        positions.append([p.detach().clone() for p in parameters])

    train([experiment], learner, 1, 3, observe=observe)
    for value, position in zip(penalties[1:], positions, strict=False):
        distances = zip(importance, anchor, position, strict=True)
        scale = penalty.scale * 3.0
        assert value == pytest.approx(scale * sum((i[0] * (p - a[0]).square()).sum().item() for i, a, p in distances))
    assert penalties[0] == 0.0 and penalties[1] > 0.0


@pytest.mark.parametrize("training", ["alongside", "before", "after"])
def test_per_task_generators_are_restricted_to_their_classes(training):
    overrides = [
        "generator=cvae",
        "strategy.generator_scope=per_task",
        f"strategy.generator_training={training}",
        *SMALL,
    ]
    experiment = prepare(compose_settings(overrides))
    for number in range(3):
        train([experiment], experiment.learner, number)
    ensemble = experiment.learner.strategy.sampling_generator(0, experiment.learner.generator)
    assert [member.balanced_labels(4).tolist() for member in ensemble.members] == [
        [0, 1, 0, 1],
        [2, 3, 2, 3],
        [4, 5, 4, 5],
    ]


def test_a_loaded_run_generates_samples_of_all_tasks(gr_run):
    overrides = ["generator=cvae", "strategy.generator_scope=per_task", *SMALL]
    assert gr_run(*overrides)[0] == 0
    (status,) = Path("outputs").glob("*/*/*/status.json")
    loaded = load_run(status.parent)
    assert len(loaded.generator.members) == 5 and loaded.generator.generate(12).shape == (12, 1, 8, 8)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_generator_learning_rate_follows_the_schedule_without_a_solver(schedule):
    overrides = ["strategy=generative_classifier", f"optimizer.schedule={schedule}", *SMALL, "train.iterations=10"]
    learner = prepare(compose_settings(overrides)).learner
    optimizer = learner.optimizers[0]
    rates = [generator_learning_rate(learner.strategy, TrainingStep(0, i, 10))(optimizer) for i in range(10)]
    assert rates == [optimizer.lr_at(i, 10) for i in range(10)] and min(rates) > 0


@pytest.mark.parametrize(
    "overrides", [["strategy=ewc", "strategy.regularizer=5"], ["strategy=ewc", "strategy.regularizer=si"]]
)
def test_values_that_are_no_regularizer_are_refused(gr_run, overrides):
    code, _, err = gr_run(*overrides)
    assert code == 2 and err.startswith("gr-run: strategy.regularizer=") and err.count("\n") == 1


def test_benchmarking_the_width_uses_few_samples(monkeypatch):
    monkeypatch.setattr("gr_cli.benchmarks.base.EVALUATION_BATCH", 50)
    monkeypatch.setattr("gr_cli.cli.launchers.program_width.EVALUATION_BATCH", 50)
    overrides = [
        "preset=best_split_mnist",
        "benchmark=split_digits",
        "strategy.pool_size=50",
        *SIZES["mixture"],
        *SMALL,
    ]
    assert choose_width([compose_settings([*overrides, f"seed={seed}"]) for seed in range(2)], 32, 4 << 30).width >= 1
    overrides = ["strategy=generative_classifier", "generator=mixture", *SIZES["mixture"], *SMALL]
    assert (
        choose_width([compose_settings([*overrides, f"seed={seed}"]) for seed in range(2)], 32, 4 << 30).reason
        == "the strategy has no gradient steps"
    )


@pytest.mark.parametrize("strategy", ["rtf", "bir"])
@pytest.mark.parametrize(
    ("overrides", "current", "replayed"),
    [
        ([], 1 / 2, 1 / 2),  # by_tasks, as the solver's loss
        (["strategy.replay_weight=4", "strategy.replay_reconstruction_weight=by_tasks"], 1 / 2, 1 / 2),
        (["strategy.replay_weight=4", "strategy.replay_reconstruction_weight=0.25"], 1, 0.25),
        (["strategy.replay_weight=4"], 1, 4),
    ],
)
def test_replay_reconstruction_weight(strategy, overrides, current, replayed):
    experiment = prepare(compose_settings([f"strategy={strategy}", "precision=float64", *SMALL, *overrides]))
    learner = experiment.learner
    train([experiment], learner, 0)
    learner.begin_task(1, sample_passes([experiment], 1))
    method, solvers = learner.strategy, learner.solvers
    batch, step = next(batches([experiment], 1, 0)), TrainingStep(1, 0, 6)

    class Solver:
        def features(self, x):
            return solvers.call("features", x)

        def readout(self, features):
            return solvers.call("readout", features)

    terms, replay = method.loss(Solver(), batch, step), method.replay(batch, step)
    x = torch.cat([batch.x, replay.x], 1)
    losses_per_sample = method._generator_losses(x, Solver().features(x), batch, replay, step)
    assert set(losses_per_sample) == {"reconstruction", "kl"}
    for name, values in losses_per_sample.items():
        expected = current * values[0, :8].mean() + replayed * values[0, 8:].mean()
        torch.testing.assert_close(terms[name].weight * terms[name].value[0], expected, rtol=1e-9, atol=0)
    solver_weight = 4.0 if overrides else 1 / 2
    assert terms["replay"].weight == pytest.approx(solver_weight)


@pytest.mark.parametrize(("scenario", "gates"), [("class", 10), ("task", 10), ("domain", 5)])
def test_brain_inspired_replay_gates_tasks_in_the_domain_scenario(scenario, gates, monkeypatch):
    experiment = prepare(compose_settings(["strategy=bir", f"scenario={scenario}", "precision=float64", *SMALL]))
    learner, calls = experiment.learner, []
    assert learner.generator.gate0.shape == (gates, 16)
    call = learner.generators.call
    monkeypatch.setattr(
        learner.generators, "call", lambda name, *a: (calls.append(a) if name == "losses" else None, call(name, *a))[1]
    )
    for number in range(3):
        train([experiment], learner, number)
    for number, arguments in enumerate(calls):
        task, tasks = number // 6, arguments[-1]
        if scenario != "domain":
            assert tasks is None
            continue
        # Current samples use the gates of their task, replayed ones those that they were generated with.
        assert tasks[0, :8].tolist() == [task] * 8
        assert set(tasks[0, 8:].tolist()) <= set(range(task)) and (tasks.shape[1] > 8) == (task > 0)
    if scenario == "domain":
        assert {0, 1} == {task for arguments in calls[12:] for task in arguments[-1][0, 8:].tolist()}
        assert learner.generator.num_learned_tasks == 3


@pytest.mark.parametrize("strategy", ["generative_replay", "rtf"])
def test_generator_optimizer_has_its_own_learning_rate(strategy):
    """SGD with a warmup of four steps: the first step is lr / 4 times the gradient."""

    def moved(rate):
        overrides = ["generator/optimizer=sgd", f"generator.optimizer.lr={rate}", "generator.optimizer.warmup=4"]
        overrides += ["strategy.generator_update_freq=1"] if strategy == "generative_replay" else []
        experiment = prepare(compose_settings([f"strategy={strategy}", "precision=float64", *overrides, *SMALL]))
        learner = experiment.learner
        networks = (learner.solver, learner.generator)
        before = [torch.cat([p.detach().flatten().clone() for p in net.parameters()]) for net in networks]
        learner.begin_task(0, sample_passes([experiment], 0))
        learner.step(next(batches([experiment], 0, 0)), TrainingStep(0, 0, 6))
        after = [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in networks]
        return [b - a for a, b in zip(before, after, strict=True)], learner

    (solver, generator), learner = moved(0.4)
    (solver_again, generator_at_twice_the_rate), _ = moved(0.8)
    torch.testing.assert_close(generator_at_twice_the_rate, 2 * generator, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(solver_again, solver, rtol=0, atol=0)
    assert generator.abs().max() > 0
    # The solver uses Adam, whose first step has size lr for every nonzero gradient.
    assert solver.abs().max().item() == pytest.approx(0.001, rel=1e-3)
    assert (learner.optimizers[0].lr, learner.generator_optimizers[0].lr) == (0.001, 0.4)


def test_the_gan_has_the_published_optimizer():
    for overrides in (["strategy=dgr_gan"], ["generator=wgan_gp"]):
        learner = prepare(compose_settings([*overrides, *SMALL])).learner
        (own,), (solvers,) = learner.generator_optimizers, learner.optimizers
        assert (type(own).__name__, own.lr, tuple(own.betas)) == ("Adam", 0.0001, (0.0, 0.9))
        assert (solvers.lr, tuple(solvers.betas)) == (0.001, (0.9, 0.999))
        assert all(
            d._param_groups[0][0] is (solvers if n == "solver" else own)
            for n, d in learner.functional_optimizers.items()
        )
    learner = prepare(compose_settings(["generator=vae", *SMALL])).learner
    assert learner.generator_optimizers == learner.optimizers


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["generator=mixture", "+generator/optimizer=adam"], "generator.optimizer=.*fitted in closed form"),
        (["generator/optimizer=adam", "generator.optimizer.lr=0"], "generator.optimizer.lr=0: must be a number > 0"),
        (["generator/optimizer=adam", "generator.optimizer.betas=[1]"], "generator.optimizer.betas"),
        (
            ["+generator.optimizer=3"],
            "generator.optimizer=3: must name an option of this group; try generator/optimizer=<option>",
        ),
        (
            ["generator/optimizer=sgd", "+generator.optimizer.betas=[0,0.9]"],
            "generator.optimizer.betas=.*no such setting",
        ),
    ],
)
def test_invalid_generator_optimizers_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        prepare(compose_settings([*overrides, *SMALL]))


@pytest.mark.parametrize("likelihood", ["generator", "gaussian"])
def test_generative_classifier_scores_by_the_chosen_likelihood(likelihood):
    overrides = ["strategy=generative_classifier", f"strategy.likelihood={likelihood}", *SMALL, *SIZES["class_vae"]]
    experiment = prepare(compose_settings(overrides))
    learner = experiment.learner
    train([experiment], learner, 0)
    x = experiment.benchmark.tasks[0].test.batch(torch.arange(20))[0]
    scores = learner.strategy.classifier(0, learner.solver)(x)
    stream = learner.streams.generator(0, "likelihood")
    expected = learner.generator.estimate_log_likelihoods(x, stream, 100, unit_variance=likelihood == "gaussian")
    known = learner.generator.learned_classes
    assert known.sum() == 2
    torch.testing.assert_close(scores[:, known], expected[:, known], rtol=0, atol=0)


def test_paper_preset_of_the_generative_classifier_uses_the_gaussian_likelihood():
    def likelihood(*overrides):
        return compose_settings(["strategy=generative_classifier", *overrides]).config["strategy"]["likelihood"]

    assert likelihood("preset=split_mnist_paper") == "gaussian"
    assert likelihood() == likelihood("preset=split_mnist_paper", "strategy.likelihood=generator") == "generator"


@pytest.mark.parametrize("strategy", ["rtf", "bir", "dgr_distill", "lwf"])
def test_paper_presets_set_the_published_distillation_scale(strategy):
    def scale(*overrides):
        return compose_settings([f"strategy={strategy}", *overrides]).config["strategy"]["distillation_scale"]

    assert scale("preset=split_cifar100_paper") == "temperature_squared"
    assert scale("preset=split_mnist_paper") == scale() == "none"
    assert scale("preset=split_cifar100_paper", "strategy.distillation_scale=none") == "none"
