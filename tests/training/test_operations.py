"""The counted operations of every shipped method are those that its steps execute."""

import pytest
import torch

from gr_cli.nn import operation_count
from gr_cli.strategies import generated_samples
from gr_cli.training.experiment import prepare
from helpers.shipped_methods import SIZES, SMALL, STRATEGY_SIZES, names, settings_of, train

OTHER_STRATEGY_NEEDED = ("bir", "rtf", "feedback", "gaussian", "mixture", "private_gaussian")
METHODS = [
    *(f"strategy={name}" for name in names("strategy")),
    *(f"strategy=dgr generator={name}" for name in names("generator") if name not in OTHER_STRATEGY_NEEDED),
    "strategy=generative_replay generator=mixture",
    "strategy=generative_replay generator=gaussian",
    "strategy=generative_replay generator=private_gaussian strategy.current_data=generated "
    "strategy.generator_training=before",
    "strategy=generative_replay strategy.replay_source=pool strategy.pool_size=20",
    "strategy=generative_replay train.task_boundaries=unknown strategy.consolidate_every=4",
    "strategy=dgr strategy/regularizer=si",
    "strategy=dgr strategy.generator_training=before",
    "strategy=dgr strategy.generator_training=after",
]


@pytest.mark.parametrize("method", METHODS)
def test_counted_operations_are_those_of_all_steps(method):
    words = method.split()
    generator = next((word.partition("=")[2] for word in words if word.startswith("generator=")), "")
    overrides = [*words, *SMALL, *SIZES.get(generator, []), *STRATEGY_SIZES.get(words[0].partition("=")[2], [])]
    experiment = prepare(settings_of(*overrides))
    learner = experiment.learner
    for stage in range(min(2, len(experiment.stages))):
        with pytest.MonkeyPatch.context() as patch, operation_count._Counter() as executed:
            patch.setattr(generated_samples, "_CHUNK_SIZE", 1)  # no samples for steps that do not follow
            before = sum(learner.operations.by_phase().values())
            train([experiment], learner, stage)
        counted = sum(learner.operations.by_phase().values()) - before
        assert counted == executed.operations + sum(work for work, _ in executed.shared.values())
        assert counted > 0 or method == "strategy=ncm"  # sums alone


def test_samples_that_are_generated_for_several_steps(monkeypatch):
    monkeypatch.setattr(generated_samples, "_CHUNK_SIZE", 3 * 16)  # 6 steps of 16 samples: two blocks
    experiment = prepare(settings_of("strategy=generative_replay", "strategy.batch_size=16", *SMALL))
    train([experiment], experiment.learner, 0)
    before = experiment.learner.operations.by_phase()["solver"]
    with operation_count._Counter() as executed:
        train([experiment], experiment.learner, 1)
    by_phase = experiment.learner.operations.by_phase()
    counted = sum(by_phase.values()) - before - by_phase["generator"] // 2
    assert counted == executed.operations + sum(work for work, _ in executed.shared.values())


def test_samples_that_only_the_generator_is_trained_on(monkeypatch):
    monkeypatch.setattr(generated_samples, "_CHUNK_SIZE", 4 * 8)  # 12 steps of 8 samples: the second block is of both
    experiment = prepare(settings_of("strategy=dgr", "strategy.generator_training=after", *SMALL))
    train([experiment], experiment.learner, 0)
    before = sum(experiment.learner.operations.by_phase().values())
    with operation_count._Counter() as executed:
        train([experiment], experiment.learner, 1)
    counted = sum(experiment.learner.operations.by_phase().values()) - before
    assert counted == executed.operations + sum(work for work, _ in executed.shared.values())


def test_counting_changes_no_result(monkeypatch):
    overrides = ("strategy=dgr", *SMALL)

    def parameters():
        experiment = prepare(settings_of(*overrides))
        for stage in range(2):
            train([experiment], experiment.learner, stage)
        return [parameter.detach().clone() for parameter in experiment.learner.solver.parameters()]

    counted = parameters()
    monkeypatch.setattr(operation_count._Counter, "__enter__", lambda self: self)
    monkeypatch.setattr(operation_count._Counter, "__exit__", lambda self, *error: None)
    assert all(torch.equal(a, b) for a, b in zip(counted, parameters(), strict=True))
