"""Every shipped method resumes exactly from its state, and trains in a group as in a single run."""

import io

import pytest
import torch

from gr_cli.training.batches import sample_passes
from gr_cli.training.experiment import prepare
from gr_cli.training.stacking import stack_learners
from helpers.shipped_methods import SIZES, SMALL, STRATEGY_SIZES, names, settings_of, train


def saved(learner):
    buffer = io.BytesIO()
    torch.save([learner.state_of(replica) for replica in range(len(learner.random_streams))], buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def leaves(state):
    if isinstance(state, dict):
        return [leaf for value in state.values() for leaf in leaves(value)]
    if isinstance(state, (list, tuple)):
        return [leaf for value in state for leaf in leaves(value)]
    return [state]


VARIANTS = [
    *(f"strategy={name}" for name in names("strategy")),
    "strategy=generative_replay generator=mixture",
    "strategy=generative_replay generator=mixture strategy.generator_scope=per_task scenario=domain",
    "strategy=generative_replay generator=cvae",
    "strategy=dgr generator=conv_flow strategy.generator_distillation=3 strategy.replay_source=pool",
    "strategy=dgr generator=flow strategy.generator_distillation=3 strategy.generator_training=after",
    "strategy=dgr strategy.replay_candidates=3 scenario=task",
    "strategy=generative_replay generator=flow strategy.generator_scope=per_task",
    "strategy=generative_replay strategy.generator_scope=per_task strategy.generator_training=after",
    "strategy=generative_replay generator/optimizer=sgd generator.optimizer.momentum=0.5 generator.optimizer.warmup=2",
    "strategy=bir scenario=domain",
    "strategy=bir generator/optimizer=adamw strategy/regularizer=si strategy.regularizer.parameters=all",
    "strategy=dgr generator=cvae strategy.generator_training=before strategy.current_data=generated",
    "strategy=dgr generator=flow strategy.generator_scope=per_task strategy.generator_training=before",
    "strategy=generative_replay generator=cvae strategy.generator_training=before strategy.task_balanced=false",
    "preset=best_split_mnist benchmark=split_digits strategy.pool_size=50 train.iterations=6 optimizer.warmup=2",
    "strategy=generative_classifier generator=mixture",
    "strategy=generative_classifier generator=gaussian",
    "strategy=generative_classifier generator=private_gaussian",
    "strategy=generative_replay generator=private_gaussian strategy.current_data=generated "
    "strategy.generator_training=before strategy.targets=likelihood",
    "strategy=generative_replay generator=gaussian strategy.targets=likelihood",
    "strategy=generative_replay strategy/regularizer=si",
    "strategy=bir strategy/regularizer=si",
    "strategy=rtf scenario=task strategy.replay_reconstruction_weight=0.5",
    "strategy=er strategy/regularizer=weight_penalty",
]


def overrides_of(variant):
    overrides = variant.split()
    generator = next((w.partition("=")[2] for w in overrides if w.startswith("generator=")), "")
    generator = "mixture" if "preset" in variant else generator
    return [
        *overrides,
        *(w for w in SMALL if not ("preset" in variant and "iterations" in w)),
        *SIZES.get(generator, []),
        *STRATEGY_SIZES.get(overrides[0].partition("=")[2], []),
    ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_resumes_exactly_from_a_state(variant):
    def fresh():
        experiment = prepare(settings_of(*overrides_of(variant)))
        return experiment, experiment.learner

    experiment, uninterrupted = fresh()
    last = min(1, len(experiment.stages) - 1)
    for number in range(last + 1):
        train([experiment], uninterrupted, number)
    _, first = fresh()
    for number in range(last):
        train([experiment], first, number)
    state_between_tasks = saved(first)
    _, second = fresh()
    task = experiment.stages[last].task
    second.load_states(state_between_tasks, task, sample_passes([experiment], last))
    state_within_task = []

    def save(step, losses):
        if step.iteration == 3:
            state_within_task.extend(saved(second))

    train([experiment], second, last, observe=save)
    resumed = [second]
    if state_within_task:
        _, third = fresh()
        third.load_states(state_within_task, task, sample_passes([experiment], last))
        train([experiment], third, last, start=4)
        resumed.append(third)
    for end in resumed:
        for ours, theirs in zip(leaves(saved(end)), leaves(saved(uninterrupted)), strict=True):
            if isinstance(ours, torch.Tensor):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
            else:
                assert ours == theirs


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_replicas_match_single_runs(variant):
    def train_and_evaluate(*seeds):
        experiments = [
            prepare(
                settings_of(
                    *overrides_of(variant), f"seed={seed}", "benchmark.class_order=shuffled", "precision=float64"
                )
            )
            for seed in seeds
        ]
        learner, losses_of_steps = stack_learners(experiments), []
        for number in range(min(2, len(experiments[0].stages))):
            train(experiments, learner, number, observe=lambda step, losses: losses_of_steps.append(losses))
        results = []
        for replica, experiment in enumerate(experiments):
            units = learner.scenario.testing_units(learner.task_units, 0, 1)
            results.append(learner.evaluate(experiment.benchmark.tasks[0].test.batches(), units, replica))
        return losses_of_steps, results

    grouped, results = train_and_evaluate(0, 1)
    for replica in range(2):
        single, (result,) = train_and_evaluate(replica)
        for step, (ours, theirs) in enumerate(zip(grouped, single, strict=True)):
            assert ours.keys() == theirs.keys()
            for name, value in theirs.items():
                assert float(ours[name][replica]) == pytest.approx(float(value[0]), rel=1e-6, abs=1e-9), (name, step)
        assert results[replica].accuracy == pytest.approx(result.accuracy)
