"""Likelihood targets: class probabilities of generated samples, of earlier tasks and of the current one."""

import pytest
import torch

from gr_cli.training.batches import batches
from gr_cli.training.experiment import prepare
from helpers.shipped_methods import settings_of, train

SMALL = ["threads=1", "precision=float64", "train.iterations=2", "train.batch_size=8", "model.hidden_sizes=[8]"]
METHOD = ["generator=gaussian", "generator.latent_dim=8", "strategy.generator_training=before", "strategy.batch_size=6"]
LIKELIHOOD = ["strategy.targets=likelihood", "strategy.current_targets=likelihood", "strategy.temperature=3"]


@pytest.mark.parametrize("source", ["fresh", "pool"])
@pytest.mark.parametrize("current", ["generated", "real"])
def test_targets_are_class_probabilities_at_the_temperature(source, current):
    overrides = [f"strategy.replay_source={source}", "strategy.pool_size=40", f"strategy.current_data={current}"]
    experiment = prepare(settings_of(*SMALL, *METHOD, *LIKELIHOOD, *overrides))
    learner, strategy = experiment.learner, experiment.learner.strategy
    seen = []

    def expected(x):
        log_p = learner.generator.log_likelihoods(x)
        probabilities = torch.zeros_like(log_p)
        known = learner.generator.learned_classes
        probabilities[:, known] = (log_p[:, known] / 3).softmax(-1)
        return probabilities

    def check(step, losses):
        for batch in batches([experiment], step.task, step.iteration):
            trained = strategy._solver_batch(batch, step)
            assert trained.x.equal(batch.x) == (current == "real")
            torch.testing.assert_close(strategy.current_targets(trained).target[0, :, 0], expected(trained.x[0]))
            replayed = strategy.replay(batch, step)
            if step.task:
                torch.testing.assert_close(replayed.target[0, :, 0], expected(replayed.x[0]))
            seen.append((step.task, replayed is not None))
            return

    for task in range(2):
        train([experiment], learner, task, observe=check)
    assert set(seen) == {(0, False), (1, True)}


def test_a_pool_has_its_targets_once(monkeypatch):
    overrides = ["strategy.replay_source=pool", "strategy.pool_size=40", "strategy.current_data=generated"]
    experiment = prepare(settings_of(*SMALL, *METHOD, *LIKELIHOOD, *overrides))
    generator, sizes = experiment.learner.generator, []
    plain = type(generator).learned_log_likelihoods

    def counted(self, x):
        sizes.append(len(x))
        return plain(self, x)

    monkeypatch.setattr(type(generator), "learned_log_likelihoods", counted)
    train([experiment], experiment.learner, 0)
    assert sizes == [40]
