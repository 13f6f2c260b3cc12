"""Data loaders as users pass them to `ContinualTrainer`."""

from __future__ import annotations

import torch

from gr_cli import ContinualTrainer, SimpleMLP


def loader(n: int = 3, **changes):
    """Batches of 4 samples of 6 values in [0, 1]; `changes` apply to the last one."""
    batches = [
        (torch.rand(4, 6, generator=torch.Generator().manual_seed(i)), torch.tensor([0, 1, 2, 3])) for i in range(n)
    ]
    x, y = batches[-1]
    batches[-1] = (changes.get("x", x), changes.get("y", y))
    return batches


def holding(value: float) -> torch.Tensor:
    x = torch.rand(4, 6)
    x[2, 3] = value
    return x


REPLAY = {"generative_replay": {"enabled": True, "memory_size": 16, "batch_size": 4}}


def make_trainer(strategy: dict | None = None) -> ContinualTrainer:
    settings = {"continual_strategy": strategy, "generator": {"type": "vae", "hidden_dims": [8], "latent_dim": 2}}
    return ContinualTrainer(SimpleMLP(6, [8], 4), settings if strategy else {})
