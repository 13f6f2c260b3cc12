"""Small trainers of the Python API, and batches for them."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, TensorDataset

from gr_cli import ContinualTrainer, SimpleMLP
from gr_cli.benchmarks import Digits

REPLAY = {"generative_replay": {"memory_size": 16, "batch_size": 4, "generator_update_freq": 1}}
ALL = {"hidden.0.weight", "hidden.0.bias", "output.weight", "output.bias"}  # parameters of `mlp`
VAE = {"type": "vae", "hidden_dims": [8], "latent_dim": 2}


def batches(task=0, number=3, size=4):
    draws = torch.Generator().manual_seed(task)
    return [(torch.rand(size, 6, generator=draws), torch.arange(size) % 2 + 2 * task) for _ in range(number)]


def mlp():
    torch.manual_seed(0)
    return SimpleMLP(6, [8], 4)


def make_trainer(model, strategy=REPLAY, **config):
    return ContinualTrainer(model, {"continual_strategy": strategy, "generator": VAE, **config})


def trained_names(mine, task=1):
    """The names of parameters that change in one more task."""
    before = {name: parameter.detach().clone() for name, parameter in mine.model.named_parameters()}
    mine.train_task(batches(task), batches(task))
    return {name for name, p in mine.model.named_parameters() if not torch.equal(p, before[name])}


def task_data(tasks=2, size=28, shuffle=True):
    """Loaders of two-class tasks on digits, resized to the model's input."""
    data, found = Digits().load(), []
    for i in range(tasks):
        pair = []
        for part in (data.train, data.test):
            chosen = (part.y // 2 == i).nonzero().squeeze(1)
            x = torch.nn.functional.interpolate(part.x[chosen], size=(size, size)) if size != 8 else part.x[chosen]
            pair.append(DataLoader(TensorDataset(x, part.y[chosen]), batch_size=32, shuffle=shuffle and not pair))
        found.append(tuple(pair))
    return found


def small(strategy=None, **settings):
    """A small model for ten classes of digits, and the configuration of its trainer."""
    config = {"generator": {"type": "vae", "hidden_dims": [16], "latent_dim": 4}} | settings
    if strategy is not None:
        config["continual_strategy"] = {"generative_replay": strategy}
    torch.manual_seed(0)
    return SimpleMLP(64, [16], 10), config
