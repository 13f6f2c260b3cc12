"""The presets for Split CIFAR-100 and Split CIFAR-10, on small files of the format of both sets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from gr_cli import load_run
from gr_cli.benchmarks.features.batch_norm_convolutions import BatchNormConvolutions
from gr_cli.benchmarks.sources.cifar_folders import CLASS_NAMES
from gr_cli.cli.compose import compose_settings
from helpers.interruption import only_run
from helpers.small_sets import publish, write_cifar

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
    "benchmark.features.pretrain_epochs=1", "benchmark.features.channels=[4]", "data_root=data",
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
    features = config["benchmark"]["features"]
    assert features["channels"] == [16, 32, 64, 128, 256] and features["pretrain_epochs"] == 100
    assert features["channel_mean"] == [0.5071, 0.4865, 0.4409] and features["normalise"] is False
    assert config["strategy"]["regularizer"]["parameters"] == "solver"
    assert config["generator"]["gating"] == 0.6 and config["strategy"]["regularizer"]["strength"] == 1e8


@pytest.mark.parametrize(
    "words",
    [("strategy=dgr", *SMALL), (*BIR, *SMALL), (*BIR_SI, *SMALL), CLASSIFIER],
    ids=["dgr", "bir", "bir+si", "gc"],
)
def test_each_method_of_the_paper_runs_on_files_of_that_format(gr_run, gr_audit, both, words):
    classes = 20 if words == CLASSIFIER else 100  # one generator per class
    both(classes)
    if words == CLASSIFIER:
        words = (*words, "strategy.importance_samples=2", "generator.hidden_dims=[3]")
    code, _, err = gr_run(PAPER, *words, *TINY)
    assert code == 0, err
    run = load_run(only_run())
    assert len(run.matrix) == classes // 10 and run.solver.output.out_features == classes
    if "strategy=dgr" in words:  # searching a hundred generators takes a minute
        assert gr_audit(only_run(), "--raw-samples")[0] == 0


def test_run_with_replay_and_penalty_resumes_to_the_same_tables(goes_on, both, tmp_path):
    both()
    goes_on(PAPER, *BIR_SI, *SMALL, *TINY, f"data_root={tmp_path / 'data'}", at=(3, 0))


def test_preset_takes_class_folders_and_weights_of_a_file(gr_run, monkeypatch):
    names = ("cat", "dog")
    monkeypatch.setitem(CLASS_NAMES, "CIFAR100", names)
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in names:
            folder = Path("data/cifar100", part, name)
            folder.mkdir(parents=True)
            for i in range(3):
                Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{i}.png")
    torch.save({"state": BatchNormConvolutions((4,)).state_dict()}, "weights")
    code, _, err = gr_run(PAPER, *BIR, *SMALL, *TINY, "benchmark.features.weights=weights",
                          "benchmark.classes_per_task=1")  # fmt: skip
    assert code == 0, err
    assert load_run(only_run()).solver.hidden[0].in_features == 4 * 32 * 32


CIFAR10_PAPER = "preset=split_cifar10_paper"


def test_preset_of_cifar10_is_the_published_protocol():
    config = compose_settings([CIFAR10_PAPER, "strategy=joint"]).config
    assert config["scenario"] == "class" and config["benchmark"]["classes_per_task"] == 2
    assert "features" not in config["benchmark"] and config["optimizer"]["lr"] == 0.001
    assert (config["train"]["iterations"], config["train"]["batch_size"]) == (5000, 256)
    assert (config["model"]["width"], config["model"]["norm"]) == (20, "batch")
