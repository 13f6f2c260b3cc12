"""Short runs of the shipped strategies and generators, with small networks."""

from functools import lru_cache
from itertools import islice
from pathlib import Path

import gr_cli
from gr_cli.cli.compose import compose_settings
from gr_cli.training.batches import batches, sample_passes

CONF = Path(gr_cli.__file__).parent.parent / "conf"
SMALL = ["train.iterations=6", "train.batch_size=8", "model.hidden_sizes=[16]", "threads=1"]
# Generator sizes with which these runs take seconds.
SIZES = {
    "conv_vae": ["generator.hidden_dims=[4,8]", "generator.latent_dim=4"],
    "gaussian": ["generator.latent_dim=8"],
    "private_gaussian": ["privacy.epsilon=1", "generator.frequencies=2", "generator.image_frequencies=3"],
    "mixture": ["generator.num_components=2", "generator.latent_dim=8"],
    "class_vae": ["generator.hidden_dims=[8]"],
    "class_conv_vae": ["generator.hidden_dims=[4,8]", "generator.latent_dim=4"],
    "conv_flow": ["generator.channels=[4,8]", "generator.steps=2"],
    "flow": ["generator.hidden_dims=[16]", "generator.steps=2"],
}
NEED_A_BUDGET = ("private_gaussian",)  # generators of runs with privacy.epsilon, which not all strategies can have
# Sizes of strategies with which these runs take seconds, by name.
STRATEGY_SIZES = {"ranpac": ["strategy.projection_dim=16"]}


@lru_cache(maxsize=4)
def settings_of(*overrides):
    """Composed settings, cached because composing takes longer than these runs."""
    return compose_settings(overrides)


def names(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def train(experiments, learner, number, iterations=None, start=0, observe=lambda step, losses: None):
    stage = experiments[0].stages[number]
    stream = islice(batches(experiments, number, start), iterations)
    learner.train_task(stage.task, stream, stage.iterations, observe, start, sample_passes(experiments, number))
