"""The Python door: what the user's document shows works as written there, but for the import lines."""

import json

import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

import gr_cli
from gr_cli import ContinualTrainer, SimpleMLP
from gr_cli.errors import ConfigError, DataError
from helpers.trainers import batches, small, task_data, trainer


def test_the_example_of_the_document():
    device = "cpu"
    model = SimpleMLP(input_size=784, hidden_sizes=[256, 128], output_size=10)
    trainer = ContinualTrainer(
        model=model,
        config={
            "optimizer": {"type": "adam", "lr": 0.001},
            "continual_strategy": {
                "generative_replay": {
                    "enabled": True,
                    "memory_size": 500,
                    "replay_weight": 1.0,
                    "generator_update_freq": 5,
                }
            },
            "generator": {"type": "vae", "hidden_dims": [256, 128], "latent_dim": 32},
        },
    )
    assert not hasattr(trainer, "generator_model")
    for task_id, (train_loader, val_loader) in enumerate(task_data()):
        trainer.train_task(
            train_loader=train_loader,
            val_loader=val_loader,
            task_id=task_id,
            task_name=f"task_{task_id}",
            num_epochs=10,
        )
        if hasattr(trainer, "generator_model"):
            samples = trainer.generator_model.generate(num_samples=10, device=device)
    assert samples.shape == (10, 1, 28, 28)
    assert len(trainer.accuracy_matrix) == 2
    assert trainer.accuracy_matrix[0][1] is None
    # The caller's model holds the trained weights.
    x, y = next(iter(task_data()[1][1]))
    assert (model(x).argmax(1) == y).float().mean() > 0.9


def test_the_yaml_form_with_the_generator_inside():
    model, _ = small()
    config = {
        "continual_strategy": {
            "generative_replay": {"enabled": True, "batch_size": 16},
            "generator": {"type": "conv_vae", "hidden_dims": [4], "latent_dim": 3, "dropout": 0.1},
        }
    }
    trainer = ContinualTrainer(model, config)
    trainer.train_task(task_data(1, 8)[0][0])
    assert type(trainer.generator_model) is gr_cli.ConvVAE
    assert trainer.generator_model.latent_dim == 3
    assert trainer.accuracy_matrix == [[None]]


def test_defaults_are_those_of_the_classes():
    model, _ = small()
    trainer = ContinualTrainer(model, {"continual_strategy": {"generative_replay": {}}})
    trainer.train_task(task_data(1, 8)[0][0])
    strategy = trainer._learner.strategy
    assert (strategy.memory_size, strategy.batch_size, strategy.replay_weight) == (500, 32, 1.0)
    assert (strategy.generator_update_freq, strategy.task_balanced) == (5, True)


def test_the_matrix_has_a_row_and_a_column_for_every_task():
    model, config = small()
    trainer = ContinualTrainer(model, config)
    (first, val), (second, _) = task_data(2, 8)
    trainer.train_task(first, val)
    trainer.train_task(second)
    assert [[a is None for a in row] for row in trainer.accuracy_matrix] == [[False, True], [False, True]]


def test_same_seed_same_result_and_the_global_stream_is_left_alone():
    found = []
    for shift in range(2):
        model, config = small({"generator_update_freq": 1})
        torch.manual_seed(100 + shift)
        before = torch.get_rng_state()
        trainer = ContinualTrainer(model, config | {"seed": 3})
        for train, val in task_data(2, 8):
            trainer.train_task(train, val, num_epochs=2)
        assert torch.equal(before, torch.get_rng_state())
        found.append([*(p.detach().clone() for p in model.parameters()), *trainer.generator_model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_model_of_ones_own_may_draw_from_the_global_stream():
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(32, 10)
        )
        trainer = ContinualTrainer(model, {"continual_strategy": {"generative_replay": {}}})
        for train, val in task_data(2, 8):
            trainer.train_task(train, val)
        assert model.training
        results.append(trainer.accuracy_matrix)
        torch.rand(7)
    assert results[0] == results[1]


def test_buffers_of_a_model_keep_their_types():
    class Phased(SimpleMLP):
        def __init__(self) -> None:
            super().__init__(6, [8], 4)
            self.register_buffer("phase", torch.tensor([1 + 2j, 1j]))
            self.register_buffer("exact", torch.tensor([1 / 3], dtype=torch.float64))

    model = Phased()
    trainer(model).train_task(batches(), batches())
    assert model.phase.tolist() == [1 + 2j, 1j] and model.exact.dtype == torch.float64


def test_loaders_are_iterated_and_not_kept():
    class Counting:
        def __init__(self, loader):
            self.loader, self.passes = loader, 0

        def __len__(self):
            return len(self.loader)

        def __iter__(self):
            self.passes += 1
            return iter(self.loader)

    model, config = small({})
    loader = Counting(task_data(1, 8)[0][0])
    ContinualTrainer(model, config).train_task(loader, num_epochs=3)
    assert loader.passes == 3


def test_a_loader_without_length_is_read_to_its_end():
    model, config = small({})
    steps = []
    trainer = ContinualTrainer(model, config)
    x, y = torch.rand(8, 64), torch.arange(8) % 2

    class Endless:
        def __iter__(self):
            for _ in range(5):
                steps.append(1)
                yield x, y

    trainer.train_task(Endless(), num_epochs=2)
    assert len(steps) == 2 * 5


def test_normalised_data_gets_a_generator_that_is_unbounded():
    model, config = small({"generator_update_freq": 1})
    trainer = ContinualTrainer(model, config)
    trainer.train_task([(torch.randn(16, 64), torch.arange(16) % 2)] * 3)
    assert trainer.generator_model.spec.value_range is None


def test_finetune_without_a_strategy_and_disabled_ones():
    model, config = small()
    trainer = ContinualTrainer(model, config | {"continual_strategy": {"generative_replay": {"enabled": False}}})
    accuracies = {}
    for train, val in task_data(2, 8):
        accuracies = trainer.train_task(train, val, num_epochs=20)
    assert not hasattr(trainer, "generator_model")
    assert accuracies[0] < 0.5 < accuracies[1]
    assert trainer.metrics["forgetting"] > 0.4


@pytest.mark.parametrize("scenario", ["class", "domain", "task"])
def test_scenarios(scenario):
    model, config = small({}, scenario=scenario)
    trainer = ContinualTrainer(model, config)
    for train, val in task_data(3, 8):
        found = trainer.train_task(train, val, num_epochs=3)
    assert set(found) == {0, 1, 2}
    assert trainer._learner.task_units.sum().item() == (30 if scenario == "domain" else 6)


def test_nothing_is_written_unless_asked(tmp_path):
    model, config = small({})
    ContinualTrainer(model, config).train_task(*task_data(1, 8)[0])
    assert list(tmp_path.iterdir()) == []
    trainer = ContinualTrainer(model, config, output_dir=tmp_path / "run")
    for train, val in task_data(2, 8):
        trainer.train_task(train, val, num_epochs=8)
    matrix = pd.read_csv(tmp_path / "run" / "accuracy_matrix.csv")
    assert matrix.shape == (2, 3)
    assert pd.isna(matrix["task_1"][0])
    assert json.loads((tmp_path / "run" / "status.json").read_text())["stores_raw_samples"] is False
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert torch.equal(state["learner"]["solver"]["output.weight"], model.output.weight)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"optimiser": {}}, r"config\.optimiser=.*no such setting.*did you mean 'optimizer'"),
        ({"optimizer": {"type": "adan"}}, r"optimizer\.type=adan: must be one of adam, adamw, sgd"),
        ({"optimizer": {"lr": -1}}, r"optimizer\.lr=-1: must be a number > 0"),
        ({"continual_strategy": {"generative_replay": {"memorysize": 3}}}, "memorysize=3: no such.*mean 'memory_size'"),
        ({"continual_strategy": {"replay": {}}}, "continual_strategy=replay: must be one of"),
        ({"continual_strategy": {"joint": {}}}, "trains on several tasks at once"),
        ({"continual_strategy": {"finetune": {}, "generative_replay": {}}}, "only one strategy"),
        ({"generator": {"latent_dim": "x"}}, r"generator\.latent_dim=x: must be a whole number ≥ 1"),
        ({"generator": {"optimizer": {"lr": -1.0}}}, r"generator\.optimizer\.lr=-1.0: must be a number > 0"),
        ({"generator": {"optimizer": {"type": "adm"}}}, r"generator\.optimizer\.type=adm: must be one of"),
        ({"generator": {"optimizer": "adam"}}, r"generator\.optimizer=adam: must be a mapping of settings"),
        ({"scenario": "tasks"}, r"config\.kind=tasks|scenario=tasks: must be one of class, domain, task"),
        ({"optimizer": "adam"}, "optimizer=adam: must be a mapping of settings"),
        ({"continual_strategy": {"generative_replay": True}}, "generative_replay=True: must be a mapping"),
        ({"continual_strategy": {"finetune": {"enabled": "false"}}}, "enabled=false: must be true or false"),
        ({"seed": -1}, r"config\.seed=-1: must be a whole number ≥ 0"),
    ],
)  # fmt: skip
def test_a_wrong_config_is_refused_at_once(config, message):
    with pytest.raises(ConfigError, match=message):
        ContinualTrainer(SimpleMLP(64), config)


def test_wrong_data_is_named():
    model, config = small({})
    trainer = ContinualTrainer(model, config)
    with pytest.raises(DataError, match="no batch"):
        trainer.train_task([])
    with pytest.raises(DataError, match="pairs"):
        trainer.train_task([torch.rand(3, 64)])
    with pytest.raises(DataError, match=r"labels must be whole numbers from 0 to 9.*\[10\]"):
        trainer.train_task([(torch.rand(2, 1, 8, 8), torch.tensor([10, 10]))])
    late = [(torch.rand(2, 1, 8, 8), torch.tensor([0, 1])), (torch.rand(2, 64), torch.tensor([0, 1]))]
    with pytest.raises(DataError, match=r"shape of the first ones, \(1, 8, 8\), not \(64,\)"):
        trainer.train_task(late)
    assert trainer._learner.strategy.memory is None
    with pytest.raises(ConfigError, match="num_epochs=0"):
        trainer.train_task(task_data(1, 8)[0][0], num_epochs=0)
    trainer.train_task(task_data(1, 8)[0][0], task_id=7)
    assert len(trainer._learner.task_units) == 1
    with pytest.raises(ConfigError, match="task_id=7: was trained already"):
        trainer.train_task(task_data(1, 8)[0][0], task_id=7)


def test_the_public_surface():
    assert gr_cli.__all__ == [
        "ContinualTrainer", "ConvVAE", "GrError", "SimpleMLP", "VAE", "load_run", "__version__",
    ]  # fmt: skip
    assert all(hasattr(gr_cli, name) for name in gr_cli.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gr_cli.nothing


def test_training_is_in_training_mode_and_modes_are_put_back():
    class Watched(SimpleMLP):
        def __init__(self):
            super().__init__(64, [8], 10)
            self.frozen = torch.nn.BatchNorm1d(3).eval()
            self.modes = []

        def forward(self, x, noise=None):
            self.modes.append(self.training)
            return super().forward(x, noise)

    model = Watched().eval()
    trainer = ContinualTrainer(model, {})
    train, val = task_data(1, 8)[0]
    trainer.train_task(train, val)
    assert model.modes[1 : 1 + len(train)] == [True] * len(train)
    assert not any(model.modes[1 + len(train) :])
    assert not model.training
    model.train()
    model.frozen.eval()
    trainer.train_task(*task_data(2, 8)[1])
    assert model.training
    assert not model.frozen.training


def test_a_loader_that_can_be_read_once_loses_nothing():
    model, config = small({"generator_update_freq": 1}, log_every=1)
    trainer = ContinualTrainer(model, config)
    trainer.train_task((torch.rand(8, 64), torch.arange(8) % 2) for _ in range(4))
    assert [row["iteration"] for row in trainer._record.history] == [1, 2, 3, 4]


def test_an_iterable_data_set_ends_where_its_loader_does():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([(torch.rand(64), i % 2) for i in range(20)])

    model, config = small({}, log_every=1)
    trainer = ContinualTrainer(model, config)
    trainer.train_task(DataLoader(Stream(), batch_size=8), num_epochs=2)
    assert len(trainer._record.history) == 6
    model, config = small({"generator_training": "after"})
    with pytest.raises(ConfigError, match="need the number of batches"):
        ContinualTrainer(model, config).train_task(DataLoader(Stream(), batch_size=8))


def test_a_task_that_failed_leaves_no_trace():
    model, config = small({}, log_every=1)
    trainer = ContinualTrainer(model, config)
    good = [(torch.rand(4, 64), torch.arange(4) % 2)] * 3
    with pytest.raises(DataError, match=r"must lie in \[0, 1\]"):
        trainer.train_task([*good, (torch.full((4, 64), 2.0), torch.arange(4) % 2)])
    trainer.train_task(good, task_id=0)
    assert len(trainer._record.history) == 3
    assert trainer.accuracy_matrix == [[None]]
    with pytest.raises(DataError, match="no batch"):
        trainer.train_task(good, [])


def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path):
    from collections import OrderedDict

    model, config = small({}, optimizer=OrderedDict(type="adam", lr=0.01))
    ContinualTrainer(model, config, output_dir=tmp_path / "run").train_task(*task_data(1, 8)[0])
    with pytest.raises(gr_cli.GrError, match="contains a run already"):
        ContinualTrainer(model, config, output_dir=tmp_path / "run")
