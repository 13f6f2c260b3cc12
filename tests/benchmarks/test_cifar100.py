"""The preset for Split CIFAR-100, on small files of the format of both sets."""

from importlib import import_module
from pathlib import Path

import pytest
from torchvision import datasets

import gr_cli
from gr_cli import load_run
from gr_cli.benchmarks import Torchvision
from gr_cli.benchmarks.sources.load import load_dataset
from gr_cli.cli.compose import compose_settings
from helpers.interruption import only_run
from helpers.small_sets import publish, write_cifar

ROOT = Path(gr_cli.__file__).parent.parent
PAPER = "preset=split_cifar100_paper"
BIR = ("strategy=bir", "generator.gating=0.7")
BIR_SI = (
    "strategy=bir", "generator.gating=0.6", "strategy/regularizer=si", "strategy.regularizer.strength=1e8",
)  # fmt: skip
CLASSIFIER = (
    "strategy=generative_classifier", "generator.hidden_dims=[85]", "generator.latent_dim=20", "optimizer.lr=0.001",
)  # fmt: skip
TINY = (
    "train.iterations=2", "train.batch_size=8", "log.every=1", "threads=1", "evaluate.samples=5",
    "benchmark.features.pretrain_iterations=1", "benchmark.features.channels=[4]", "data_root=data",
)  # fmt: skip
SMALL = ("model.hidden_sizes=[12,10]",)


@pytest.fixture
def both(monkeypatch):
    """Write files in the formats of both sets, the larger one with `classes` classes."""

    def write(classes: int = 100) -> None:
        write_cifar(Path("data"), fine=True, classes=classes)
        write_cifar(Path("data"), fine=False, classes=10)
        for dataset in (datasets.CIFAR10, datasets.CIFAR100):
            publish(monkeypatch, dataset, Path("data"))

    return write


def test_preset_is_the_published_protocol():
    config = compose_settings([PAPER, *BIR_SI]).config
    assert config["scenario"] == "class" and config["benchmark"]["classes_per_task"] == 10
    assert config["benchmark"]["features"]["pretrain"]["name"] == "CIFAR10"
    assert config["model"]["hidden_sizes"] == [2000, 2000] and config["optimizer"]["lr"] == 0.0001
    assert (config["train"]["iterations"], config["train"]["batch_size"]) == (5000, 256)
    assert config["generator"]["gating"] == 0.6 and config["strategy"]["regularizer"]["strength"] == 1e8


@pytest.mark.parametrize(
    "words",
    [("strategy=dgr", *SMALL), (*BIR, *SMALL), (*BIR_SI, *SMALL), CLASSIFIER],
    ids=["dgr", "bir", "bir+si", "gc"],
)
def test_each_method_of_the_paper_runs_on_files_of_that_format(gr_run, both, words):
    classes = 20 if words == CLASSIFIER else 100  # one generator per class
    both(classes)
    if words == CLASSIFIER:
        words = (*words, "strategy.importance_samples=2", "generator.hidden_dims=[3]")
    code, _, err = gr_run(PAPER, *words, *TINY)
    assert code == 0, err
    run = load_run(only_run())
    assert len(run.matrix) == classes // 10 and run.solver.output.out_features == classes
    if "strategy=dgr" in words:  # searching a hundred generators takes a minute
        assert gr_run(f"audit={only_run()}")[0] == 0


def test_run_with_replay_and_penalty_resumes_to_the_same_tables(goes_on, both, tmp_path):
    both()
    goes_on(PAPER, *BIR_SI, *SMALL, *TINY, f"data_root={tmp_path / 'data'}", at=(3, 0))


def test_stand_in_for_cifar_is_read_as_cifar(mnist_root, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    script = import_module("stand_in_cifar")
    script.write(Path("stand_in"), mnist_root, part=0.05)
    for dataset, name, classes, train in (
        (datasets.CIFAR10, "CIFAR10", 10, 2500),
        (datasets.CIFAR100, "CIFAR100", 100, 1000),
    ):
        publish(monkeypatch, dataset, Path("stand_in"))
        data = load_dataset(Torchvision(name, "stand_in"))
        assert data.train.store.shape == (train, 3, 32, 32) and len(data.classes) == classes
        assert data.train.y.bincount().tolist() == [train // classes] * classes
    assert data.classes[:2] == ("T-shirt/top 0", "T-shirt/top 1")
