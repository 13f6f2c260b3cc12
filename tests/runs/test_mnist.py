"""Real MNIST, where GR_DATA_ROOT names a folder that holds it: the published protocol, cut short."""

from pathlib import Path

import pandas as pd
import pytest

from gr_cli import load_run


def final(gr_run, *words: str) -> list[float]:
    code, _, err = gr_run(*words)
    assert code == 0, err
    (status,) = Path("outputs").glob("*/*/*/status.json")
    return load_run(status.parent).matrix[-1]


@pytest.mark.usefixtures("mnist_root")
def test_dgr_keeps_what_finetuning_forgets_after_a_tenth_of_the_published_iterations(gr_run, tmp_path, monkeypatch):
    short = ("train.iterations=200", "threads=1")
    replay = final(gr_run, "preset=dgr_paper", *short)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    finetune = final(gr_run, "preset=split_mnist_paper", "strategy=finetune", *short)
    assert finetune[-1] > 0.95
    assert sum(finetune[:-1]) < 0.05
    assert sum(replay) / 5 > sum(finetune) / 5 + 0.25


@pytest.mark.usefixtures("mnist_root")
def test_permuted_mnist_in_the_domain_scenario(gr_run):
    accuracies = final(gr_run, "preset=permuted_mnist_paper", "strategy=finetune", "benchmark.tasks=2",
                       "model.hidden_sizes=[100]", "train.iterations=150", "optimizer.lr=0.001")  # fmt: skip
    assert all(accuracy > 0.8 for accuracy in accuracies)
    (folder,) = Path("outputs/permuted_mnist/finetune").iterdir()
    evaluations = pd.read_csv(folder / "evaluations.csv")
    assert (evaluations["n"] == 10_000).all()
    assert evaluations["loss"].notna().all()
    metrics = pd.read_csv(folder / "metrics.csv").set_index("metric")["value"]
    assert metrics["forward_transfer"] < 0.2


@pytest.mark.usefixtures("mnist_root")
def test_convolutions_on_fashion_mnist(gr_run):
    found = final(gr_run, "benchmark=split_fashion_mnist", "model=cnn", "model.channels=[4,8]", "generator=conv_vae",
                  "generator.hidden_dims=[4,8]", "benchmark.classes_per_task=5", "train.iterations=60")  # fmt: skip
    assert len(found) == 2
    assert found[1] > 0.6
