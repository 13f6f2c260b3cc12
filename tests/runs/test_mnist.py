"""MNIST, if GR_DATA_ROOT has it: the published protocol, shortened."""

from pathlib import Path

import pandas as pd
import pytest

from gr_cli import load_run

# Only learning takes long.
CHEAP = ("evaluate.generated_samples=0", "evaluate.samples=500", "threads=1")


def final(gr_run, *words: str) -> list[float]:
    code, _, err = gr_run(*words)
    assert code == 0, err
    (status,) = Path("outputs").glob("*/*/*/status.json")
    return load_run(status.parent).matrix.iloc[-1].tolist()


@pytest.mark.usefixtures("mnist_root")
def test_dgr_prevents_forgetting(gr_run, tmp_path, monkeypatch):
    """Two tasks, a tenth of the published iterations, smaller networks."""
    short = ("benchmark.classes_per_task=5", "train.iterations=200", "model.hidden_sizes=[100]", *CHEAP)
    replay = final(gr_run, "preset=dgr_paper", "generator.hidden_dims=[100]", "optimizer.lr=0.002", *short)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    finetune = final(gr_run, "preset=split_mnist_paper", "strategy=finetune", *short)
    assert finetune[0] < 0.05 and finetune[1] > 0.9
    assert replay[0] > finetune[0] + 0.2 and replay[1] > 0.9


@pytest.mark.usefixtures("mnist_root")
def test_permuted_mnist_in_the_domain_scenario(gr_run):
    accuracies = final(gr_run, "preset=permuted_mnist_paper", "strategy=finetune", "benchmark.tasks=2",
                       "model.hidden_sizes=[100]", "train.iterations=150", "optimizer.lr=0.001",
                       "evaluate.generated_samples=0", "threads=1")  # fmt: skip
    assert all(accuracy > 0.8 for accuracy in accuracies)
    (folder,) = Path("outputs/permuted_mnist/finetune").iterdir()
    evaluations = pd.read_csv(folder / "evaluations.csv")
    assert (evaluations["n"] == 10_000).all()
    assert evaluations["loss"].notna().all()
    metrics = pd.read_csv(folder / "metrics.csv").set_index("metric")["value"]
    assert metrics["forward_transfer"] < 0.2


@pytest.mark.usefixtures("mnist_root")
def test_convolutions_on_fashion_mnist(gr_run):
    accuracies = final(gr_run, "benchmark=split_fashion_mnist", "model=cnn", "model.channels=[4,8]",
                       "generator=conv_vae", "generator.hidden_dims=[4,8]", "benchmark.classes_per_task=5",
                       "train.iterations=60", *CHEAP)  # fmt: skip
    assert len(accuracies) == 2
    assert accuracies[1] > 0.6
