"""Runs in the space of frozen features, from the command line."""

import json
from collections import OrderedDict
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from gr_cli import load_run
from gr_cli.benchmarks import ConvFeatureExtractor, Digits
from gr_cli.cli.compose import compose_settings
from gr_cli.system import cache
from helpers import small_mnist
from helpers.features import vectors_of
from helpers.interruption import only_run

SMALL = ("benchmark/features=conv_random", "benchmark.features.channels=[6,8]", "log.every=10")


def forget(monkeypatch) -> None:
    """Empty the in-memory cache, as in a new process."""
    monkeypatch.setattr(cache, "_recent", OrderedDict())


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch):
    forget(monkeypatch)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("benchmark=permuted_mnist benchmark/features=conv", "features=conv: this benchmark has no features"),
        ("benchmark/features=conf", "there are conv, conv_cifar10, conv_fashion_mnist, conv_mnist, "),
        ("benchmark/feature=conv", "did you mean 'benchmark/features'?"),
        ("benchmark/features=torchvision", "benchmark.features.weights=null: must be a file"),
        ("benchmark/features=torchvision benchmark.features.name=alexnett", "is no network of torchvision"),
        ("benchmark/features=conv benchmark.features.weights=none.pt", "none.pt: can't be read"),
        ("benchmark/features=conv benchmark.features.pretrain_iterations=0", "must be a whole number ≥ 1"),
        ("benchmark/features=conv_random model=cnn", "model=cnn: needs images"),
        ("benchmark/features=conv_random generator=conv_vae", "generator=conv_vae: needs images"),
        ("benchmark/features=conv_random augment.shift=1", "augment.shift=1: needs images"),
        ("benchmark/features=conv_mnist data_root=nowhere download=false", "MNIST is not there"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(gr_run, words, message):
    code, _, err = gr_run(*words.split())
    assert code == 2
    last = err.splitlines()[-1]
    assert message in last
    assert all(line.startswith("gr-run: ") for line in err.splitlines())
    assert not Path("outputs").exists()


def test_features_affect_the_identity_of_a_run_and_the_cache_folder_does_not():
    def identity(*words: str) -> str:
        return compose_settings(words).identity

    assert identity("benchmark/features=none") == identity()
    options = ("none", "conv", "conv_random", "conv_mnist", "conv_fashion_mnist")
    assert len({identity(f"benchmark/features={option}") for option in options}) == len(options)
    conv = "benchmark/features=conv"
    assert identity(conv) == identity(conv, "cache_root=elsewhere")
    assert identity(conv) != identity(conv, "benchmark.features.pretrain_seed=1")


@pytest.mark.parametrize(
    "words",
    [
        *(f"generator={name}" for name in ("vae", "symmetric_vae", "cvae", "class_vae", "mixture", "flow", "wgan_gp")),
        "strategy=rtf",
        "strategy=bir",
        "strategy=generative_classifier",
        "strategy=icarl",
    ],
)
def test_every_generator_learns_vectors(gr_run, words):
    code, _, err = gr_run(*SMALL, "train.iterations=3", "benchmark.classes_per_task=5", words)
    assert code == 0, err
    generator = load_run(only_run()).generator
    if generator is not None:
        samples = generator.generate(4)
        assert samples.shape == (4, 8 * 16)
        assert samples.isfinite().all()
    if words.endswith(("vae", "flow", "gp")):
        assert samples.min() < 0  # unbounded


@pytest.mark.usefixtures("pictures")
def test_a_run_in_feature_space_has_the_usual_files(gr_run):
    code, _, err = gr_run(*SMALL, "train.iterations=30")
    assert code == 0, err
    assert "computing features of 1,797 images" in err
    assert {path.name for path in (only_run() / "figures").iterdir()} == {"accuracy_matrix.png", "accuracy_curves.png"}
    assert str(only_run()).startswith("outputs/split_digits/generative_replay-vae/features=conv_random")
    features = vectors_of(ConvFeatureExtractor([6, 8], "random", cache_root="other"), Digits().load())
    x, y = features.test.batch(torch.arange(len(features.test)))
    loaded = load_run(only_run())
    accuracy = (loaded.solver(x).argmax(1) == y).float().mean().item()
    last = pd.read_csv(only_run() / "evaluations.csv").query("after_task == 4")
    assert accuracy == pytest.approx((last["accuracy"] * last["n"]).sum() / last["n"].sum(), abs=1e-4)
    # No vector of a training sample outlives its task, any more than the sample would.
    train = {tuple(row) for row in features.train.x.tolist()}

    def count(value) -> int:
        if isinstance(value, torch.Tensor):
            fits = value.is_floating_point() and value.shape[-1:] == (128,)
            return sum(tuple(row) in train for row in value.reshape(-1, 128).tolist()) if fits else 0
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        return sum(map(count, parts))

    assert count(features.train.x) == len(features.train)
    assert count(torch.load(only_run() / "checkpoint.pt", weights_only=True)) == 0
    # The stored run is shown without its features.
    assert gr_run(*SMALL, "train.iterations=30")[::2] == (0, "")


def test_an_interrupted_run_resumes_with_the_same_features(goes_on, monkeypatch):
    goes_on(*SMALL, "strategy=bir", "train.iterations=12", at=(2, 5), forget=partial(forget, monkeypatch))


PATCHES = ("benchmark/features=patches", "benchmark.features.num_filters=6", "benchmark.features.components=8")


def test_an_interrupted_run_resumes_with_the_same_patch_features(goes_on, monkeypatch):
    goes_on(*PATCHES, "train.iterations=12", at=(2, 5), forget=partial(forget, monkeypatch))


@pytest.mark.parametrize("filters", ["centres", "raw"])
def test_status_says_whether_filters_are_training_samples(gr_run, filters):
    code, _, err = gr_run(*PATCHES, f"benchmark.features.filters={filters}", "train.iterations=2")
    assert code == 0, err
    status = json.loads((only_run() / "status.json").read_text(encoding="utf-8"))
    assert status["stores_raw_samples"] == (filters == "raw")


def test_patches_of_grey_images_of_28_pixels(gr_run, tmp_path):
    small_mnist.write(tmp_path)
    words = ("benchmark=split_mnist", f"data_root={tmp_path}", "strategy=slda", "benchmark.features.components=4")
    code, _, err = gr_run(*PATCHES, *words)
    assert code == 0, err
    assert load_run(only_run()).matrix.shape == (5, 5)


def test_a_batched_sweep_shares_one_network_and_its_features(gr_run):
    code, _, err = gr_run("-m", *SMALL, "seed=0,1,2", "train.iterations=5", "hydra/launcher=batched",
                          "benchmark.class_order=shuffled", "benchmark.classes_per_task=5")  # fmt: skip
    assert code == 0, err
    assert err.count("computing features") == 1
    assert len(list(Path("outputs").glob("*/*/*/status.json"))) == 3
    assert len(list(Path("cache/features").iterdir())) == 1


# --- learning


def average(gr_run, *words: str) -> float:
    code, _, err = gr_run(*words, "fresh=true")
    assert code == 0, err
    newest = max(Path("outputs").glob("*/*/*/status.json"), key=lambda path: path.stat().st_mtime_ns)
    return float(load_run(newest.parent).matrix.iloc[-1].mean())


def test_internal_replay_prevents_forgetting(gr_run):
    words = ("benchmark/features=conv", "benchmark.features.pretrain_iterations=60")
    replay = average(gr_run, *words, "strategy=bir", "train.iterations=100")
    mixture = average(gr_run, *words, "generator=mixture", "train.iterations=50")
    finetune = average(gr_run, *words, "strategy=finetune", "train.iterations=50")
    assert finetune < 0.25
    assert replay > finetune + 0.50
    assert mixture > finetune + 0.60


@pytest.mark.usefixtures("mnist_root")
def test_internal_replay_on_mnist_with_convolutions_pretrained_on_fashion_mnist(gr_run):
    words = ("benchmark=split_mnist", "benchmark/features=conv_fashion_mnist", "benchmark.features.channels=[8,16,16]",
             "benchmark.features.pretrain_iterations=20", "threads=1")  # fmt: skip
    replay = average(gr_run, *words, "strategy=bir", "train.iterations=60")
    assert replay > 0.20 + 0.40
