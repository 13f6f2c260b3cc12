"""Seeded noise: no two releases of a run have the same numbers, nor have runs of two seeds."""

import itertools

import torch

from gr_cli.generators import PrivateGaussian
from gr_cli.nn.gradient_rules.base import GradientStep
from gr_cli.nn.random_streams import RandomStreams, ReplicaStreams
from gr_cli.privacy import gaussian_noise, moments

REPLAY = (
    "strategy=generative_replay", "generator=private_gaussian", "generator.frequencies=2", "generator.scales=1",
    "generator.image_frequencies=3", "strategy.current_data=generated", "strategy.generator_training=before",
    "privacy.epsilon=1", "train.iterations=1", "train.tasks=2", "model.hidden_sizes=[4]", "threads=1",
)  # fmt: skip


def test_counts_means_and_covariances_of_all_classes_tasks_and_replicas_have_noise_of_their_own(gr_run, monkeypatch):
    drawn = []

    def record(shape, deviation, stream):
        values = gaussian_noise(shape, deviation, stream)
        drawn.append(values / deviation)
        return values

    monkeypatch.setattr(moments, "gaussian_noise", record)
    assert gr_run("-m", "hydra/launcher=batched", "seed=0,1", *REPLAY)[0] == 0
    # The launcher has trained the first tasks before, to compare losses: these draws are the same ones.
    releases = {tuple(each.flatten().tolist()) for each in drawn}
    assert len(releases) == 2 * 4 * 5  # a count, and of images and features each the means and covariances
    values = list(itertools.chain.from_iterable(releases))
    assert len(set(values)) == len(values)


def test_noise_of_the_system_is_drawn_by_the_run_alone_and_not_by_a_trial_of_the_launcher(gr_run, monkeypatch):
    fits = []
    monkeypatch.setattr(PrivateGaussian, "end_fit", lambda generator: fits.append(generator.privacy.secure))
    code, out, _ = gr_run("-m", "hydra/launcher=batched", "seed=0,1", *REPLAY, "privacy.secure=true")
    assert code == 0 and "a trial would read samples with noise that is not that of the run" in out
    assert fits == [True] * 2 * 2  # tasks of two runs


def test_steps_of_solver_and_generator_have_noise_of_their_own():
    streams = ReplicaStreams([RandomStreams(0), RandomStreams(1)])
    values = [
        gaussian_noise((8,), 1.0, GradientStep(name, task, iteration, streams).generator(replica))
        for name, task, iteration, replica in itertools.product(
            ("solver", "generator.elbo", "generator.critic"), range(2), range(3), range(2)
        )
    ]
    assert len(torch.cat(values).unique()) == 8 * len(values)
