"""Small trainers of the Python API, and batches for them."""

from __future__ import annotations

import torch

from gr_cli import ContinualTrainer, SimpleMLP

REPLAY = {"generative_replay": {"memory_size": 16, "batch_size": 4, "generator_update_freq": 1}}
VAE = {"type": "vae", "hidden_dims": [8], "latent_dim": 2}


def batches(task=0, number=3, size=4):
    draws = torch.Generator().manual_seed(task)
    return [(torch.rand(size, 6, generator=draws), torch.arange(size) % 2 + 2 * task) for _ in range(number)]


def mlp():
    torch.manual_seed(0)
    return SimpleMLP(6, [8], 4)


def trainer(model, strategy=REPLAY, **config):
    return ContinualTrainer(model, {"continual_strategy": strategy, "generator": VAE, **config})
