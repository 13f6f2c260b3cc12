"""Loaders of the Python API whose batches nothing can be learnt from: named, before they spoil anything."""

import pytest
import torch

from gr_cli import ContinualTrainer, SimpleMLP
from gr_cli.errors import DataError


def loader(n: int = 3, **changes):
    """Batches of 4 samples of 6 values in [0, 1]; `changes` are made to the last one."""
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


def trainer(strategy: dict | None = None) -> ContinualTrainer:
    settings = {"continual_strategy": strategy, "generator": {"type": "vae", "hidden_dims": [8], "latent_dim": 2}}
    return ContinualTrainer(SimpleMLP(6, [8], 4), settings if strategy else {})


@pytest.mark.parametrize("strategy", [None, REPLAY], ids=["finetune", "generative_replay"])
@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": holding(float("nan"))}, "samples hold NaN or infinity; remove or repair them"),
        ({"x": holding(float("inf"))}, "samples hold NaN or infinity; remove or repair them"),
        ({"x": 1e300 * (1 + holding(0.0).double())}, "samples hold NaN or infinity; remove or repair them"),
        ({"y": torch.tensor([0, 1, 2, 4])}, r"labels must be whole numbers from 0 to 3, .* got \[0, 1, 2, 4\]"),
        ({"y": torch.tensor([0, 1, 2, -1])}, r"labels must be whole numbers from 0 to 3, .* got \[-1, 0, 1, 2\]"),
        ({"y": torch.tensor([0.0, 1.0, 2.5, 1.0])}, "labels must be whole numbers"),
        ({"x": torch.rand(0, 6), "y": torch.arange(0)}, r"a batch holds nothing, its x is \(0, 6\); leave it out"),
    ],
)  # fmt: skip
def test_a_bad_batch_names_the_loader_and_leaves_no_task_behind(strategy, batches, changes, message):
    mine = trainer(strategy)
    with pytest.raises(DataError, match=f"train_loader: {message}"):
        mine.train_task(loader(batches, **changes))
    assert mine.accuracy_matrix == []
    # Nothing was learnt from what was refused that would spoil what comes: no generator without bounds, for one.
    assert mine.train_task(loader(), loader())[0] >= 0
    assert all(parameter.isfinite().all() for parameter in mine.model.parameters())
    if strategy:
        drawn = mine.generator_model.generate(5, device="cpu")
        assert drawn.min() >= 0 and drawn.max() <= 1


def test_a_bad_batch_of_a_validation_loader_is_told_from_one_of_training():
    mine = trainer()
    with pytest.raises(DataError, match="val_loader of task 5: samples hold NaN or infinity"):
        mine.train_task(loader(), loader(x=holding(float("nan"))), task_id=5)


@pytest.mark.parametrize("empty", [[], iter(())])
def test_an_empty_loader(empty):
    mine = trainer()
    before = [parameter.clone() for parameter in mine.model.parameters()]
    with pytest.raises(DataError, match="train_loader: task 0 has no batch"):
        mine.train_task(empty)
    with pytest.raises(DataError, match="val_loader of task 0: has no batch"):
        mine.train_task(loader(), [])
    # Found before training, not after.
    assert all(torch.equal(a, b) for a, b in zip(before, mine.model.parameters(), strict=True))


def test_bytes_and_numbers_of_other_types_are_taken_as_before():
    for x in (torch.randint(0, 256, (4, 6), dtype=torch.uint8), torch.rand(4, 6).double(), torch.rand(4, 6).numpy()):
        trainer(REPLAY).train_task([(x, torch.arange(4))] * 2)
