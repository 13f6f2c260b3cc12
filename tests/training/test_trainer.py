"""Tasks that fail, are interrupted or can't be evaluated, and labels that don't fit the scenario."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

import gr_cli
from gr_cli import ContinualTrainer, SimpleMLP
from gr_cli.errors import ConfigError, DataError, GrError, OutOfMemoryError
from gr_cli.training.learner import Learner
from helpers.trainers import REPLAY, VAE, batches, make_trainer, mlp


class Failing:
    """Valid batches, then `error` on every pass while it is set."""

    def __init__(self, error, task=0):
        self.error, self.task = error, task

    def __len__(self):
        return 4

    def __iter__(self):
        yield from batches(self.task)
        if self.error is not None:
            raise self.error
        yield batches(self.task)[0]


BAD = (torch.full((4, 6), torch.nan), torch.arange(4) % 2)
STRATEGIES = [None, REPLAY, {"er_plus": {}}, {"er": {}}, {"ewc": {}}, {"si": {}}, {"lwf": {}}, {"bir": {}}]


# --- training


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("failing_task", [0, 1])
@pytest.mark.parametrize("error", [RuntimeError("no such file"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_failed_task_is_rolled_back(strategy, failing_task, error):
    result = []
    for fails in (False, True):
        config = {"generator": {"type": "bir" if strategy == {"bir": {}} else "vae", "latent_dim": 2}}
        trainer = make_trainer(mlp(), strategy, **config)
        for task in range(2):
            before = copy.deepcopy(trainer.model.state_dict())
            if fails and task == failing_task:
                with pytest.raises(type(error)):
                    trainer.train_task(Failing(error, task), batches(task), num_epochs=2)
                assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
                assert len(trainer.accuracy_matrix) == task
            trainer.train_task(batches(task), batches(task), num_epochs=2)
        result.append((trainer.accuracy_matrix, *trainer.model.parameters()))
    assert result[0][0] == result[1][0]
    assert all(torch.equal(a, b) for a, b in zip(result[0][1:], result[1][1:], strict=True))


def test_inferred_format_is_reset_when_the_first_task_fails():
    trainer = make_trainer(mlp())
    x, y = batches()[0]
    with pytest.raises(DataError, match=r"samples must lie in \[0, 1\].*set value_range=\[low, high\], or null"):
        trainer.train_task([(x, y), (x * 3, y)])
    assert not hasattr(trainer, "generator_model")
    trainer.train_task([(x * 3, y), (x, y)])
    assert trainer.generator_model.spec.value_range is None


def test_torch_globals_are_restored_after_a_failure():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        for error in (RuntimeError("broken"), KeyboardInterrupt()):
            with pytest.raises(type(error)):
                make_trainer(mlp_without_seed()).train_task(Failing(error))
        assert torch.get_num_threads() == 2
        assert torch.equal(state, torch.get_rng_state())
        assert (torch.full((1,), 2e-39) * 0.5).item() > 0
    finally:
        torch.set_num_threads(threads)


def mlp_without_seed():
    with torch.random.fork_rng():
        return mlp()


def test_loader_with_wrong_length_is_refused():
    class Sized(list):
        def __len__(self):
            return 2

    with pytest.raises(DataError, match="len\\(\\) is 2, and it yields more batches"):
        make_trainer(mlp()).train_task(Sized(batches()))
    with pytest.raises(DataError, match="len\\(\\) is 2, and it yields 1 batches"):
        make_trainer(mlp()).train_task(Sized(batches(number=1)))


class Once:
    """An iterable that yields its batches only once, without being an iterator."""

    def __init__(self):
        self.batches = iter(batches())

    def __iter__(self):
        return self.batches


@pytest.mark.parametrize("loader", [iter(batches()), Once()])
def test_several_epochs_of_an_iterator_are_refused(loader):
    trainer = make_trainer(mlp())
    before = copy.deepcopy(trainer.model.state_dict())
    with pytest.raises(DataError, match=r"only once, and num_epochs is 5|no batch when iterated again"):
        trainer.train_task(loader, num_epochs=5)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_train_task_inside_a_loader_is_refused():
    trainer = make_trainer(mlp())

    def loader():
        yield batches()[0]
        trainer.train_task(batches(1))

    with pytest.raises(GrError, match="called by a loader while a task is trained"):
        trainer.train_task(loader())
    assert trainer.accuracy_matrix == []
    trainer.train_task(batches(), batches())


def test_out_of_memory_is_one_line_and_rolls_back():
    trainer = make_trainer(mlp(), {"generative_replay": {"memory_size": 10**13}})
    with pytest.raises(OutOfMemoryError, match=r"^out of memory.*smaller memories") as raised:
        trainer.train_task(batches())
    assert "\n" not in str(raised.value)
    assert trainer.accuracy_matrix == []


# --- evaluation


def test_failing_validation_loader_costs_one_accuracy(capsys):
    trainer = make_trainer(mlp())
    with pytest.raises(DataError, match=r"val_loader of task 0: samples hold NaN.*task 0 is trained, and recorded"):
        trainer.train_task(batches(), [BAD])
    assert trainer.accuracy_matrix == [[None]]
    assert set(trainer.train_task(batches(1), batches(1))) == {1}
    assert "val_loader of task 0: samples hold NaN" in capsys.readouterr().err
    matrix = trainer.accuracy_matrix
    assert matrix[0] == [None, None] and matrix[1][0] is None and matrix[1][1] is not None
    assert trainer.metrics["average_accuracy"] is None


def test_validation_loader_is_retried_after_a_failure(tmp_path):
    loader = Failing(OSError("the disk is away"))
    trainer = ContinualTrainer(mlp(), {"continual_strategy": REPLAY, "generator": VAE}, output_dir=tmp_path / "run")
    with pytest.raises(OSError, match="the disk is away") as raised:
        trainer.train_task(batches(), loader)
    assert "task 0 is trained, and recorded without this accuracy" in raised.value.__notes__[0]
    assert (tmp_path / "run" / "checkpoint.pt").exists()
    loader.error = None
    assert set(trainer.train_task(batches(1), batches(1))) == {0, 1}
    matrix = pd.read_csv(tmp_path / "run" / "accuracy_matrix.csv")
    assert matrix.after_task.tolist() == [1] and matrix.notna().all().all()
    assert [task["id"] for task in json.loads((tmp_path / "run" / "status.json").read_text())["tasks"]] == [0, 1]


def test_interrupt_during_evaluation_keeps_the_task():
    trainer, loader = make_trainer(mlp()), Failing(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        trainer.train_task(batches(), loader)
    assert trainer.accuracy_matrix == [[None]]
    loader.error = None
    assert set(trainer.train_task(batches(1), batches(1))) == {0, 1}


@pytest.mark.parametrize("loader", [iter(batches()), (pair for pair in batches())])
def test_iterator_as_validation_loader_is_refused(loader):
    trainer = make_trainer(mlp())
    with pytest.raises(DataError, match="val_loader of task 3: can be iterated only once"):
        trainer.train_task(batches(), loader, task_id=3)
    assert trainer.accuracy_matrix == []


@pytest.mark.parametrize("name", ["train_loader", "val_loader"])
@pytest.mark.parametrize("value", ["train", 5, {"x": 1}, torch.rand(2, 6)])
def test_non_iterable_loader_is_refused(name, value):
    loaders = {"train_loader": batches(), "val_loader": batches(), name: value}
    with pytest.raises(ConfigError, match=f"{name}.*={type(value).__name__}: must be an iterable of batches"):
        make_trainer(mlp()).train_task(**loaders)


# --- labels and scenarios


def test_task_incremental_labels_that_restart_at_0_are_refused():
    trainer = make_trainer(mlp(), scenario="task")
    trainer.train_task(batches(), batches())
    message = r"labels \[0, 1\] are outputs of an earlier task.*add 2 to labels that count from 0.*scenario=domain"
    with pytest.raises(DataError, match=message):
        trainer.train_task(batches(), batches())
    late = [*batches(1), (torch.rand(4, 6), torch.tensor([2, 3, 1, 2]))]
    with pytest.raises(DataError, match=r"labels \[1\] are outputs of an earlier task"):
        trainer.train_task(late)
    assert set(trainer.train_task(batches(1), batches(1))) == {0, 1}


@pytest.mark.parametrize(
    ("scenario", "second", "line"),
    [
        ("class", 0, "task 1: has no new class; if its labels count from 0 in each task, add an offset"),
        (
            "domain",
            1,
            "task 1: shares no class with earlier tasks; with scenario=domain all tasks have the same labels",
        ),
        ("class", 1, ""),
        ("domain", 0, ""),
    ],
)
def test_labels_of_another_scenario_print_a_warning(capsys, scenario, second, line):
    trainer = make_trainer(mlp(), scenario=scenario)
    trainer.train_task(batches(), batches())
    trainer.train_task(batches(second), batches(second))
    err = capsys.readouterr().err
    assert line in err if line else err == ""


def test_untrained_validation_labels_print_a_warning(capsys):
    trainer = make_trainer(mlp(), scenario="task")
    trainer.train_task(batches(), batches())
    trainer.train_task(batches(1), batches(0))
    assert "val_loader of task 1: labels [0, 1] are in no training batch of this task" in capsys.readouterr().err


# --- configuration


def test_config_of_numpy_torch_and_omegaconf_values(tmp_path):
    config = OmegaConf.create(
        {
            "size": 16,
            "config": {
                "continual_strategy": {"generative_replay": {"memory_size": "${size}", "batch_size": 4}},
                "generator": {"type": "vae", "hidden_dims": [8], "latent_dim": 2},
            },
        }
    ).config
    numbers = {
        "optimizer": {"lr": np.float32(0.25), "betas": np.array([0.5, 0.75]), "weight_decay": torch.tensor(0.5)},
        "seed": np.int64(3),
        "log_every": torch.tensor(2),
        "value_range": (0, np.int8(1)),
    }
    trainer = ContinualTrainer(mlp(), {**config, **numbers}, output_dir=tmp_path / "run")
    trainer.train_task(batches(), batches(), task_id=np.int64(4), task_name=np.str_("first"), num_epochs=np.int32(2))
    written = OmegaConf.to_container(OmegaConf.load(tmp_path / "run" / "config.yaml"))["python_api"]
    assert written == {
        "continual_strategy": {"generative_replay": {"memory_size": 16, "batch_size": 4}},
        "generator": {"type": "vae", "hidden_dims": [8], "latent_dim": 2},
        "optimizer": {"lr": 0.25, "betas": [0.5, 0.75], "weight_decay": 0.5},
        "seed": 3,
        "log_every": 2,
        "value_range": [0, 1],
    }
    assert trainer._learner.optimizers[0].lr == 0.25
    (task,) = json.loads((tmp_path / "run" / "status.json").read_text())["tasks"]
    assert (task["id"], task["name"]) == (4, "first")


@pytest.mark.parametrize("text", ["1e-3", "1E-3", ".1e-2", "+1.0e-3"])
def test_exponent_numbers_that_yaml_reads_as_text(text):
    trainer = ContinualTrainer(mlp(), {"optimizer": {"lr": text}})
    trainer.train_task(batches())
    assert trainer._learner.optimizers[0].lr == pytest.approx(1e-3, rel=1e-12)


def strategy(**parameters):
    return {"continual_strategy": {"generative_replay": parameters}}


def inner(generator):
    return {"continual_strategy": {"generative_replay": {}, "generator": generator}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"optimizer": {"lr": "0.001"}}, r'^optimizer\.lr="0\.001": must be a number > 0'),
        (strategy(memory_size=-1), r"^continual_strategy\.generative_replay\.memory_size=-1: "),
        (strategy(memory_size="500"), 'memory_size="500": must be a whole number'),
        (strategy(regularizer={"type": "si", "strength": -1}), r"generative_replay\.regularizer\.strength=-1: "),
        (inner({"latent_dim": 0}), r"^continual_strategy\.generator\.latent_dim=0"),
        (inner({"type": "vea"}), r"^continual_strategy\.generator\.type=vea: .*did you mean 'vae'"),
        ({**inner({}), "generator": {}}, "is set in config.generator, too; leave out one"),
        ({"generator": {"hidden_dims": "256"}}, r'generator\.hidden_dims="256": must be a list'),
        ({"generator": SimpleMLP(6)}, r"^config\.generator=SimpleMLP: must be null, true or false"),
        ({"optimizer": OmegaConf.create({"lr": "???"})}, r"^config\.optimizer=DictConfig: can't be read \(Missing"),
        ({"optimizer": OmegaConf.create({"lr": "${nowhere}"})}, r"^config\.optimizer=DictConfig: can't be read"),
        ({"scenario": "Task"}, r"^config\.scenario=Task: must be one of class, domain, task"),
        ({"value_range": [1, 0]}, r"value_range=\[1, 0\]: must be \[low, high\], the lower first"),
        ({"value_range": "01"}, "value_range.*: must be auto or null or a list of 2 numbers"),
        ({"value_range": [0, float("inf")]}, "value_range.*: must be auto or null or a list of 2 numbers"),
    ],
)  # fmt: skip
def test_invalid_setting_is_named_by_its_path(config, message):
    with pytest.raises(ConfigError, match=message) as raised:
        ContinualTrainer(mlp(), config)
    assert "\n" not in str(raised.value)


def test_recursive_config_is_refused():
    config = {}
    config["optimizer"] = config
    with pytest.raises(ConfigError, match="can't be read"):
        ContinualTrainer(mlp(), config)


@pytest.mark.parametrize("model", [SimpleMLP, None, lambda x: x, "mlp"])
def test_model_must_be_a_module(model):
    with pytest.raises(ConfigError, match=r"^model=.*: must be a torch\.nn\.Module"):
        ContinualTrainer(model, {})


def test_unwritable_folder_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", ""):
        with pytest.raises(GrError):
            ContinualTrainer(mlp(), {}, output_dir=folder)


def test_two_trainers_cannot_share_a_folder(tmp_path):
    first, second = (ContinualTrainer(mlp(), {}, output_dir=tmp_path / "run") for _ in range(2))
    first.train_task(batches(), batches())
    before = copy.deepcopy(second.model.state_dict())
    with pytest.raises(GrError, match="contains a run already"):
        second.train_task(batches(), batches())
    assert all(torch.equal(value, before[name]) for name, value in second.model.state_dict().items())
    first.train_task(batches(1), batches(1))


def test_load_run_refuses_a_trainer_folder(tmp_path):
    ContinualTrainer(mlp(), {}, output_dir=tmp_path / "run").train_task(batches(), batches())
    with pytest.raises(GrError, match="ContinualTrainer"):
        gr_cli.load_run(tmp_path / "run")


def test_trust_takes_a_single_name(monkeypatch, tmp_path):
    """Iterating over `trust="strange"` would trust every package named by one of its letters."""
    (tmp_path / "config.yaml").write_text("seed: 0\nchoices: {}\n", encoding="utf-8")
    monkeypatch.setattr(
        "gr_cli.python.run_result.stored_settings", lambda folder, trust: pytest.fail(f"trusted: {trust}")
    )
    with pytest.raises(pytest.fail.Exception, match=r"trusted: \['strange'\]"):
        _ = gr_cli.load_run(tmp_path, trust="strange").solver


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
def test_competing_units_are_new_tensors_where_a_label_is_new_only(monkeypatch, scenario):
    units, step = [], Learner.step

    def observed(self, batch, position):
        units.append(batch.active_units)
        return step(self, batch, position)

    monkeypatch.setattr(Learner, "step", observed)
    x = torch.rand(2, 6)
    loader = [(x, torch.tensor(labels)) for labels in ([0, 1], [1, 0], [1, 1], [2, 0], [0, 2])]
    make_trainer(mlp(), strategy={}, scenario=scenario).train_task(loader)
    first, last = ([scenario == "domain" or unit < number for unit in range(4)] for number in (2, 3))
    assert [each.tolist() for each in units] == 3 * [first] + 2 * [last]
    assert units[0] is units[2] and units[3] is units[4] is not units[0]
