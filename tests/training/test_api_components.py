"""Every strategy, generator and regularizer from the Python API."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import gr_cli
from gr_cli import ContinualTrainer, SimpleMLP
from gr_cli.errors import ConfigError, DataError
from helpers.shipped_methods import NEED_A_BUDGET
from helpers.trainers import small, task_data


def options(group):
    return sorted(path.stem for path in (Path(gr_cli.__file__).parent.parent / "conf" / group).glob("*.yaml"))


SIZES = {"ranpac": {"projection_dim": 16}}  # with which it takes no seconds
METHODS = sorted(set(options("strategy")) - {"joint", "cumulative"})


@pytest.mark.parametrize("strategy", METHODS)
def test_every_strategy_trains_with_custom_loaders(strategy):
    trainer = ContinualTrainer(
        SimpleMLP(64, [16], 4),
        {"continual_strategy": {strategy: SIZES.get(strategy, {})}, "optimizer": {"type": "adam", "lr": 0.01}},
    )
    for task in range(2):
        x, y = torch.rand(40, 1, 8, 8), torch.randint(0, 2, (40,)) + 2 * task
        loader = DataLoader(TensorDataset(x, y), batch_size=10)
        result = trainer.train_task(loader, loader, num_epochs=2)
    assert set(result) == {0, 1} and all(0 <= accuracy <= 1 for accuracy in result.values())
    if hasattr(trainer, "generator_model"):
        assert trainer.generator_model.generate(5).shape == (5, 1, 8, 8)


@pytest.mark.parametrize(
    ("generator", "expected"),
    [
        ({"type": "vae", "optimizer": {"type": "sgd", "lr": 0.5}}, ("SGD", 0.5, None)),
        ({"type": "vae", "optimizer": {"lr": 0.02}}, ("Adam", 0.02, [0.9, 0.999])),
        ({"type": "vae"}, ("Adam", 0.003, [0.9, 0.999])),  # the solver's
        ({"type": "wgan_gp"}, ("Adam", 0.0001, [0.0, 0.9])),
        ({"type": "wgan_gp", "optimizer": {"lr": 0.02}}, ("Adam", 0.02, [0.0, 0.9])),
        ({"type": "wgan_gp", "optimizer": None}, ("Adam", 0.003, [0.9, 0.999])),
    ],
)
def test_generator_with_its_own_optimizer(generator, expected):
    model, config = small({"generator_update_freq": 1}, generator=generator | {"hidden_dims": [8]})
    config["optimizer"] = {"type": "adam", "lr": 0.003}
    trainer = gr_cli.ContinualTrainer(model, config)
    trainer.train_task(task_data(1, size=8)[0][0])
    (own,) = trainer._learner.generator_optimizers
    assert (type(own).__name__, own.lr) == expected[:2] and trainer._learner.optimizers[0].lr == 0.003
    assert expected[2] is None or list(own.betas) == expected[2]


@pytest.mark.parametrize("generator", [name for name in options("generator") if name not in NEED_A_BUDGET])
def test_every_generator_trains_with_custom_loaders(generator):
    strategy = {"feedback": "rtf", "rtf": "rtf", "bir": "bir"}.get(generator, "generative_replay")
    trainer = ContinualTrainer(
        SimpleMLP(64, [16], 4), {"continual_strategy": {strategy: {}}, "generator": {"type": generator}}
    )
    for task in range(2):
        data = TensorDataset(torch.rand(40, 1, 8, 8), torch.randint(0, 2, (40,)) + 2 * task)
        trainer.train_task(DataLoader(data, batch_size=10))
    assert trainer.generator_model.generate(5).shape == (5, 1, 8, 8)


def test_regularizer_combined_with_a_strategy():
    config = {"continual_strategy": {"generative_replay": {"regularizer": {"type": "si", "strength": 2.0}}}}
    trainer = ContinualTrainer(SimpleMLP(64, [16], 4), config)
    data = TensorDataset(torch.rand(20, 64), torch.randint(0, 2, (20,)))
    trainer.train_task(DataLoader(data, batch_size=10))
    assert trainer._learner.strategy.regularizer.strength == 2.0
    with pytest.raises(ConfigError, match=r"regularizer\.type=sii: must be one of .* did you mean"):
        ContinualTrainer(SimpleMLP(64), {"continual_strategy": {"finetune": {"regularizer": {"type": "sii"}}}})


def test_iterator_is_refused_where_a_second_pass_is_needed():
    pairs = iter([(torch.rand(10, 64), torch.randint(0, 2, (10,))) for _ in range(3)])
    trainer = ContinualTrainer(SimpleMLP(64, [16], 4), {"continual_strategy": {"ewc": {}}})
    with pytest.raises(DataError, match="can be iterated only once"):
        trainer.train_task(pairs)
