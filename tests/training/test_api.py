"""The Python API as documented for users."""

import json

import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

import gr_cli
from gr_cli import ContinualTrainer, SimpleMLP
from gr_cli.errors import ConfigError, DataError
from helpers.trainers import batches, make_trainer, small, task_data


def test_documented_example_runs():
    device = "cpu"
    model = SimpleMLP(input_size=784, hidden_sizes=[256, 128], output_size=10)
    make_trainer = ContinualTrainer(
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
    assert not hasattr(make_trainer, "generator_model")
    for task_id, (train_loader, val_loader) in enumerate(task_data()):
        make_trainer.train_task(
            train_loader=train_loader,
            val_loader=val_loader,
            task_id=task_id,
            task_name=f"task_{task_id}",
            num_epochs=10,
        )
        if hasattr(make_trainer, "generator_model"):
            samples = make_trainer.generator_model.generate(num_samples=10, device=device)
    assert samples.shape == (10, 1, 28, 28)
    assert len(make_trainer.accuracy_matrix) == 2
    assert make_trainer.accuracy_matrix[0][1] is None
    # The caller's model holds the trained weights.
    x, y = next(iter(task_data()[1][1]))
    assert (model(x).argmax(1) == y).float().mean() > 0.9


def test_generator_inside_strategy_settings():
    model, _ = small()
    config = {
        "continual_strategy": {
            "generative_replay": {"enabled": True, "batch_size": 16},
            "generator": {"type": "conv_vae", "hidden_dims": [4], "latent_dim": 3, "dropout": 0.1},
        }
    }
    make_trainer = ContinualTrainer(model, config)
    make_trainer.train_task(task_data(1, 8)[0][0])
    assert type(make_trainer.generator_model) is gr_cli.ConvVAE
    assert make_trainer.generator_model.latent_dim == 3
    assert make_trainer.accuracy_matrix == [[None]]


def test_defaults_equal_those_of_the_classes():
    model, _ = small()
    make_trainer = ContinualTrainer(model, {"continual_strategy": {"generative_replay": {}}})
    make_trainer.train_task(task_data(1, 8)[0][0])
    strategy = make_trainer._learner.strategy
    assert (strategy.memory_size, strategy.batch_size, strategy.replay_weight) == (500, 32, 1.0)
    assert (strategy.generator_update_freq, strategy.task_balanced) == (5, True)


def test_accuracy_matrix_has_a_row_and_column_per_task():
    model, config = small()
    make_trainer = ContinualTrainer(model, config)
    (first, val), (second, _) = task_data(2, 8)
    make_trainer.train_task(first, val)
    make_trainer.train_task(second)
    assert [[a is None for a in row] for row in make_trainer.accuracy_matrix] == [[False, True], [False, True]]


def test_same_seed_same_result_and_global_stream_unchanged():
    result = []
    for shift in range(2):
        model, config = small({"generator_update_freq": 1})
        torch.manual_seed(100 + shift)
        before = torch.get_rng_state()
        make_trainer = ContinualTrainer(model, config | {"seed": 3})
        for train, val in task_data(2, 8):
            make_trainer.train_task(train, val, num_epochs=2)
        assert torch.equal(before, torch.get_rng_state())
        result.append([*(p.detach().clone() for p in model.parameters()), *make_trainer.generator_model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*result, strict=True))


def test_custom_model_may_draw_from_global_stream():
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(32, 10)
        )
        make_trainer = ContinualTrainer(model, {"continual_strategy": {"generative_replay": {}}})
        for train, val in task_data(2, 8):
            make_trainer.train_task(train, val)
        assert model.training
        results.append(make_trainer.accuracy_matrix)
        torch.rand(7)
    assert results[0] == results[1]


def test_model_buffers_keep_their_dtypes():
    class Phased(SimpleMLP):
        def __init__(self) -> None:
            super().__init__(6, [8], 4)
            self.register_buffer("phase", torch.tensor([1 + 2j, 1j]))
            self.register_buffer("exact", torch.tensor([1 / 3], dtype=torch.float64))

    model = Phased()
    make_trainer(model).train_task(batches(), batches())
    assert model.phase.tolist() == [1 + 2j, 1j] and model.exact.dtype == torch.float64


def test_training_loaders_are_not_stored():
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


def test_loader_without_length_is_exhausted():
    model, config = small({})
    steps = []
    make_trainer = ContinualTrainer(model, config)
    x, y = torch.rand(8, 64), torch.arange(8) % 2

    class Endless:
        def __iter__(self):
            for _ in range(5):
                steps.append(1)
                yield x, y

    make_trainer.train_task(Endless(), num_epochs=2)
    assert len(steps) == 2 * 5


def test_normalised_data_gets_an_unbounded_generator():
    model, config = small({"generator_update_freq": 1})
    make_trainer = ContinualTrainer(model, config)
    make_trainer.train_task([(torch.randn(16, 64), torch.arange(16) % 2)] * 3)
    assert make_trainer.generator_model.spec.value_range is None


def test_finetune_without_strategy_or_with_disabled_ones():
    model, config = small()
    make_trainer = ContinualTrainer(model, config | {"continual_strategy": {"generative_replay": {"enabled": False}}})
    accuracies = {}
    for train, val in task_data(2, 8):
        accuracies = make_trainer.train_task(train, val, num_epochs=20)
    assert not hasattr(make_trainer, "generator_model")
    assert accuracies[0] < 0.5 < accuracies[1]
    assert make_trainer.metrics["forgetting"] > 0.4


@pytest.mark.parametrize("scenario", ["class", "domain", "task"])
def test_scenarios(scenario):
    model, config = small({}, scenario=scenario)
    make_trainer = ContinualTrainer(model, config)
    for train, val in task_data(3, 8):
        result = make_trainer.train_task(train, val, num_epochs=3)
    assert set(result) == {0, 1, 2}
    assert make_trainer._learner.task_units.sum().item() == (30 if scenario == "domain" else 6)


def test_no_output_without_output_dir(tmp_path):
    model, config = small({})
    ContinualTrainer(model, config).train_task(*task_data(1, 8)[0])
    assert list(tmp_path.iterdir()) == []
    make_trainer = ContinualTrainer(model, config, output_dir=tmp_path / "run")
    for train, val in task_data(2, 8):
        make_trainer.train_task(train, val, num_epochs=8)
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
def test_invalid_config_raises_at_construction(config, message):
    with pytest.raises(ConfigError, match=message):
        ContinualTrainer(SimpleMLP(64), config)


def test_invalid_data_raises():
    model, config = small({})
    make_trainer = ContinualTrainer(model, config)
    with pytest.raises(DataError, match="no batch"):
        make_trainer.train_task([])
    with pytest.raises(DataError, match="pairs"):
        make_trainer.train_task([torch.rand(3, 64)])
    with pytest.raises(DataError, match=r"labels must be whole numbers from 0 to 9.*\[10\]"):
        make_trainer.train_task([(torch.rand(2, 1, 8, 8), torch.tensor([10, 10]))])
    late = [(torch.rand(2, 1, 8, 8), torch.tensor([0, 1])), (torch.rand(2, 64), torch.tensor([0, 1]))]
    with pytest.raises(DataError, match=r"shape of the first ones, \(1, 8, 8\), not \(64,\)"):
        make_trainer.train_task(late)
    assert make_trainer._learner.strategy.memory is None
    with pytest.raises(ConfigError, match="num_epochs=0"):
        make_trainer.train_task(task_data(1, 8)[0][0], num_epochs=0)
    make_trainer.train_task(task_data(1, 8)[0][0], task_id=7)
    assert len(make_trainer._learner.task_units) == 1
    with pytest.raises(ConfigError, match="task_id=7: was trained already"):
        make_trainer.train_task(task_data(1, 8)[0][0], task_id=7)


def test_public_api():
    assert gr_cli.__all__ == [
        "ContinualTrainer", "ConvVAE", "GrError", "Release", "Run", "SimpleMLP", "Sweep", "VAE", "load_evaluations",
        "load_histories", "load_release", "load_results", "load_run", "load_tables", "run", "sweep", "__version__",
    ]  # fmt: skip
    assert all(hasattr(gr_cli, name) for name in gr_cli.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gr_cli.nothing


def test_training_mode_is_set_and_restored():
    class Watched(SimpleMLP):
        def __init__(self):
            super().__init__(64, [8], 10)
            self.frozen = torch.nn.BatchNorm1d(3).eval()
            self.modes = []

        def forward(self, x, noise=None):
            self.modes.append(self.training)
            return super().forward(x, noise)

    model = Watched().eval()
    make_trainer = ContinualTrainer(model, {})
    train, val = task_data(1, 8)[0]
    make_trainer.train_task(train, val)
    assert model.modes[1 : 1 + len(train)] == [True] * len(train)
    assert not any(model.modes[1 + len(train) :])
    assert not model.training
    model.train()
    model.frozen.eval()
    make_trainer.train_task(*task_data(2, 8)[1])
    assert model.training
    assert not model.frozen.training


def test_iterator_as_loader_loses_no_batch():
    model, config = small({"generator_update_freq": 1}, log_every=1)
    make_trainer = ContinualTrainer(model, config)
    make_trainer.train_task((torch.rand(8, 64), torch.arange(8) % 2) for _ in range(4))
    assert [row["iteration"] for row in make_trainer._record.history] == [1, 2, 3, 4]


def test_iterable_dataset_without_length():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([(torch.rand(64), i % 2) for i in range(20)])

    model, config = small({}, log_every=1)
    make_trainer = ContinualTrainer(model, config)
    make_trainer.train_task(DataLoader(Stream(), batch_size=8), num_epochs=2)
    assert len(make_trainer._record.history) == 6
    model, config = small({"generator_training": "after"})
    with pytest.raises(ConfigError, match="need the number of batches"):
        ContinualTrainer(model, config).train_task(DataLoader(Stream(), batch_size=8))


def test_failed_task_does_not_change_the_trainer():
    model, config = small({}, log_every=1)
    make_trainer = ContinualTrainer(model, config)
    good = [(torch.rand(4, 64), torch.arange(4) % 2)] * 3
    with pytest.raises(DataError, match=r"must lie in \[0, 1\]"):
        make_trainer.train_task([*good, (torch.full((4, 64), 2.0), torch.arange(4) % 2)])
    make_trainer.train_task(good, task_id=0)
    assert len(make_trainer._record.history) == 3
    assert make_trainer.accuracy_matrix == [[None]]
    with pytest.raises(DataError, match="no batch"):
        make_trainer.train_task(good, [])


def test_existing_run_is_not_overwritten(tmp_path):
    from collections import OrderedDict

    model, config = small({}, optimizer=OrderedDict(type="adam", lr=0.01))
    ContinualTrainer(model, config, output_dir=tmp_path / "run").train_task(*task_data(1, 8)[0])
    with pytest.raises(gr_cli.GrError, match="contains a run already"):
        ContinualTrainer(model, config, output_dir=tmp_path / "run")
