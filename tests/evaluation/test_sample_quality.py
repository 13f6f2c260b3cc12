"""Quality of generated samples after every task, and the reference classifier."""

import math
from collections import OrderedDict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gr_cli.benchmarks import Digits
from gr_cli.cli.compose import compose_settings
from gr_cli.evaluation.audit import audit
from gr_cli.evaluation.base import EvaluationContext
from gr_cli.evaluation.measures.sample_quality import SampleQuality
from gr_cli.results.folder import RunFolder
from gr_cli.runner.run import run_together
from gr_cli.strategies import GenerativeReplay
from gr_cli.system import cache
from gr_cli.system.devices import thread_limit
from gr_cli.training.batches import batches, sample_passes
from gr_cli.training.experiment import prepare
from gr_cli.training.observer import RunObserver
from helpers.interruption import csvs, only_run

TINY = ("train.iterations=6", "log.every=3", "evaluate.generated_samples=20", "threads=1")
MEASURES = (
    "reference_accuracy",
    "label_agreement",
    "class_share",
    "class_entropy",
    "precision",
    "recall",
    "density",
    "coverage",
    "frechet",
)
# Digits in three permuted or rotated tasks with the same classes.
PERMUTED = ("benchmark=permuted_digits", "benchmark.tasks=3")
ROTATED = ("benchmark=rotated_digits", "benchmark.tasks=3")


@pytest.fixture
def run(gr_run):
    """The sample_quality.csv of a short run, with tasks as text."""

    def call(*words: str) -> pd.DataFrame:
        code, _, err = gr_run(*TINY, *words, "fresh=true")
        assert code == 0, err
        newest = max(Path("outputs").glob("*/*/*/status.json"), key=lambda path: path.stat().st_mtime_ns)
        return pd.read_csv(newest.parent / "sample_quality.csv", dtype={"task": str})

    return call


def clear_cache_in_memory(monkeypatch) -> None:
    """Clear the cache of this process, as if no reference classifier had been trained."""
    monkeypatch.setattr(cache, "_recent", OrderedDict())


@pytest.fixture
def quick_classifier(monkeypatch) -> None:
    """Reference classifiers of a few iterations, in a cache of their own."""
    clear_cache_in_memory(monkeypatch)
    monkeypatch.setattr("gr_cli.evaluation.reference_classifier._MAX_ITERATIONS", 5)


# --- table


def test_table_has_a_row_per_task_so_far_and_one_for_all(run):
    table = run()
    assert list(table) == ["after_task", "task", "n", "real", *MEASURES]
    expected = [(after, task) for after in range(5) for task in [*map(str, range(after + 1)), "all"]]
    assert list(zip(table["after_task"], table["task"], strict=True)) == expected
    pooled = table[table["task"] == "all"].set_index("after_task")
    per_task = table[table["task"] != "all"]
    assert pooled["n"].tolist() == [20, 40, 60, 80, 100] == per_task.groupby("after_task")["n"].sum().tolist()
    assert (per_task["real"] == 20).all() and pooled["real"].tolist() == pooled["n"].tolist()
    fractions = [name for name in MEASURES if name not in ("class_share", "density", "frechet")]
    assert table[fractions].stack().dropna().between(0, 1).all()
    # The shares of tasks average to the share of all classes so far.
    mean = per_task.groupby("after_task")["class_share"].mean()
    np.testing.assert_allclose(mean, pooled["class_share"], atol=2e-6)
    np.testing.assert_allclose(pooled["class_share"].iloc[-1], 1)
    metrics = pd.read_csv(only_run() / "metrics.csv", index_col="metric")["value"]
    for name in MEASURES[1:]:
        assert metrics[f"sample_{name}"] == pooled[name].iloc[-1]


def test_runs_without_a_generator_have_no_sample_quality(gr_run):
    assert gr_run(*TINY, "strategy=finetune")[0] == 0
    assert (
        not (only_run() / "sample_quality.csv").exists() and "sample_" not in (only_run() / "metrics.csv").read_text()
    )
    assert not Path("cache").exists()
    assert (
        compose_settings(["strategy=finetune"]).identity
        == compose_settings(["strategy=finetune", "evaluate.generated_samples=7"]).identity
    )
    assert (
        compose_settings(["evaluate.generated_samples=0"]).identity
        == compose_settings(["evaluate.generated_samples=null"]).identity
    )
    assert compose_settings(["evaluate.generated_samples=7"]).identity != compose_settings([]).identity


def test_sample_quality_does_not_change_training(gr_run, tmp_path, monkeypatch):
    tables = {}
    for number in ("30", "null", "0"):
        (tmp_path / number).mkdir()
        monkeypatch.chdir(tmp_path / number)
        code, _, err = gr_run(*TINY, "generator=cvae", f"evaluate.generated_samples={number}")
        assert code == 0, err
        tables[number] = csvs(only_run())
    assert tables["null"] == tables["0"] and set(tables["30"]) == {*tables["0"], "sample_quality.csv"}
    for name in ("accuracy_matrix.csv", "evaluations.csv", "history.csv"):
        assert tables["30"][name] == tables["0"][name]
    assert tables["30"]["metrics.csv"].startswith(tables["0"]["metrics.csv"].partition(b"parameters")[0])


def test_real_samples_for_comparison_are_not_stored(gr_run):
    assert gr_run(*TINY, "evaluate.generated_samples=200")[0] == 0
    result = audit(only_run())
    assert result.num_retained == result.num_traces == 0 and not result.violated


def test_resumed_run_has_the_same_sample_quality_and_is_verified(gr_run, goes_on, quick_classifier, monkeypatch):
    words = (*TINY, "benchmark.classes_per_task=5", "generator=cvae")
    goes_on(*words, at=(1, 4), forget=partial(clear_cache_in_memory, monkeypatch))
    assert "sample_quality.csv: the same byte for byte" in gr_run(f"verify={only_run()}")[1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluate.generated_samples=-1", "evaluate.generated_samples=-1: must be"),
        ("evaluate.generated_samples=1000000000000", "evaluate.generated_samples=1000000000000: needs"),
    ],
)
def test_mistakes_are_one_line(gr_run, override, message):
    code, _, err = gr_run(override)
    assert code == 2 and err.count("\n") == 1 and message in err
    assert not Path("outputs").exists()


# --- every benchmark, scenario and generator


@pytest.mark.parametrize(
    "overrides",
    [
        "strategy=rtf",
        "strategy=bir",
        "strategy=dgr_gan",
        "strategy=generative_classifier generator=mixture",
        "generator=mixture strategy.targets=likelihood",
        "generator=mixture strategy.generator_scope=per_task",
        "strategy.generator_scope=per_task scenario=domain",
        "strategy=bir scenario=task",
        "generator=cvae scenario=task",
        "scenario=task",
        "scenario=domain",
        "generator=cvae scenario=domain",
        "benchmark/features=conv_random benchmark.features.channels=[4,4]",
        "benchmark.task_overlap=0.2",
        "benchmark.classes_per_task=[5,3,2] benchmark.class_order=shuffled",
        "train.task_boundaries=unknown strategy.consolidate_every=7 generator=cvae",
        "precision=float64",
        "precision=bf16",
    ],
)
def test_all_generated_samples_are_evaluated(run, overrides):
    table = run(*overrides.split())
    per_task = table[table["task"] != "all"]
    assert set(zip(per_task["after_task"], per_task["task"].astype(int), strict=True)) == {
        (after, task) for after in range(table["after_task"].max() + 1) for task in range(after + 1)
    }
    pooled = table[table["task"] == "all"]
    assert pooled["n"].tolist() == [20 * (after + 1) for after in pooled["after_task"]]
    assert pooled[[name for name in MEASURES if name != "class_entropy"]].notna().all(axis=None)
    assert (pooled["class_entropy"].notna() == (pooled["class_share"] > 0)).all()
    if overrides.startswith(("generator=mixture", "strategy=generative_classifier", "generator=cvae scenario=task")):
        assert (per_task["n"] == 20).all() or "likelihood" in overrides  # as requested


@pytest.mark.parametrize("overrides", [PERMUTED, ROTATED], ids=["permuted", "rotated"])
@pytest.mark.parametrize("scenario", ["domain", "task", "class"])
def test_reference_classifier_separates_transformed_tasks_with_the_same_classes(run, overrides, scenario):
    table = run(*overrides, f"scenario={scenario}", "evaluate.generated_samples=50")
    per_task = table[table["task"] != "all"]
    assert per_task["task"].tolist() == ["0", "0", "1", "0", "1", "2"]
    assert (table["reference_accuracy"] > 0.85).all()


def test_round_of_earlier_classes_is_not_a_row_of_its_own(run):
    table = run("benchmark.repetitions=2", "benchmark.classes_per_task=5")
    assert table["task"].tolist() == ["0", "all", "0", "1", "all", "0", "1", "all", "0", "1", "all"]


@pytest.mark.parametrize("size", [8, 64])
def test_colour_images_of_any_size(run, size, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (40, size, size, 3), dtype=np.uint8)
    np.savez("set.npz", x=noise, y=np.arange(40) % 4)
    monkeypatch.setattr("gr_cli.evaluation.reference_classifier._MIN_ITERATIONS", 10)
    table = run("benchmark=arrays", "benchmark.source.path=set.npz", "train.iterations=1")
    assert table.loc[table["n"] > 1, "frechet"].gt(0).all() and (table["real"] > 1).all()


def test_slow_training_of_the_reference_classifier_is_reported(gr_run, monkeypatch):
    np.savez("set.npz", x=np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32), y=np.arange(40) % 2)
    monkeypatch.setattr("gr_cli.evaluation.reference_classifier._SLOW_TRAINING_VALUES", 0)
    code, _, err = gr_run(*TINY, "benchmark=arrays", "benchmark.source.path=set.npz", "train.iterations=1")
    assert code == 0 and "training the reference classifier for generated samples; it is cached in " in err


def test_runs_of_a_group_have_the_quality_of_single_runs(quick_classifier):
    overrides = [*TINY, "train.iterations=25", "precision=float64"]
    jobs = [compose_settings([*overrides, f"seed={seed}"]) for seed in range(2)]
    for batch in ([jobs[0]], [jobs[1]], jobs):
        run_together(batch, [RunFolder(Path(f"{len(batch)}-{job.seed}")) for job in batch], RunObserver())
    for seed in range(2):
        single, grouped = (pd.read_csv(f"{n}-{seed}/sample_quality.csv") for n in (1, 2))
        assert single["n"].sum() == pytest.approx(grouped["n"].sum(), rel=0.01)
        assert (single["task"] == grouped["task"]).all()
        np.testing.assert_allclose(single["frechet"], grouped["frechet"], rtol=0.02, atol=0.01)
    assert not pd.read_csv("2-0/sample_quality.csv").equals(pd.read_csv("2-1/sample_quality.csv"))


# --- measures of given samples


class FixedSamples(torch.nn.Module):
    """A generator of given samples (N, ...), in order."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor | None = None) -> None:
        super().__init__()
        self.x, self.y, self._next = x, y, 0

    def balanced_labels(self, number: int) -> torch.Tensor | None:
        return None if self.y is None else self.y[self._next : self._next + number]

    def generate(self, number: int, labels: torch.Tensor | None, generator: torch.Generator) -> torch.Tensor:
        self._next += number
        return self.x[self._next - number : self._next]


def quality_rows(generator: FixedSamples, after_task: int, *words: str) -> list:
    """The rows of a run whose generator makes these samples."""
    experiment = prepare(compose_settings([*TINY, "evaluate.generated_samples=70", *words]))
    experiment.learner.strategy.sampling_generator = lambda replica, shared: generator
    quality = SampleQuality.prepare(experiment)
    return quality.rows(EvaluationContext(experiment, experiment.learner, 0, after_task, 6, True))


def interleaved_digits(*digits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Training samples of these digits in turn, and their labels."""
    data = Digits().load()
    x, y = data.train.batch(torch.arange(len(data.train)))
    by_digit = [x[y == digit] for digit in digits]
    number = min(map(len, by_digit))
    order = torch.stack([samples[:number] for samples in by_digit], 1).flatten(0, 1)
    return order, torch.tensor(digits).repeat(number)


def test_real_samples_have_high_quality():
    *per_task, pooled = quality_rows(FixedSamples(*interleaved_digits(0, 1, 2, 3)), 1, "generator=cvae")
    assert [row["n"] for row in (*per_task, pooled)] == [70, 70, 140]
    for row in (*per_task, pooled):
        assert row["label_agreement"] > 0.95 and row["reference_accuracy"] > 0.95
        assert row["class_share"] == pytest.approx(1, abs=0.05) and row["class_entropy"] > 0.99
        assert row["precision"] > 0.9 and row["recall"] > 0.7 and row["coverage"] > 0.85
        assert row["density"] == pytest.approx(1, abs=0.2) and row["frechet"] < 0.1


def test_samples_of_one_class_have_low_entropy_and_coverage():
    x, _ = interleaved_digits(0)
    x = x.repeat(2, 1, 1, 1)
    *per_task, pooled = quality_rows(FixedSamples(x, torch.zeros(len(x), dtype=torch.long)), 1, "generator=cvae")
    assert per_task[0]["n"] == 140 and per_task[1]["n"] == 0
    assert per_task[0]["class_share"] > 1.9 and per_task[0]["class_entropy"] < 0.1 and per_task[0]["coverage"] < 0.6
    assert per_task[0]["precision"] > 0.8 > 0.6 > per_task[0]["recall"]
    missing = per_task[1]
    assert (
        missing["label_agreement"],
        missing["precision"],
        missing["recall"],
        missing["density"],
        missing["frechet"],
    ) == (None,) * 5
    assert missing["coverage"] == 0 and missing["class_share"] < 0.05
    assert pooled["class_entropy"] < 0.1 and pooled["coverage"] < 0.3


def test_rows_of_a_task_compare_no_more_samples_than_that_of_all(monkeypatch):
    monkeypatch.setattr("gr_cli.evaluation.measures.sample_quality._MAX_COMPARED_SAMPLES", 90)
    x, _ = interleaved_digits(0)
    x = x.repeat(2, 1, 1, 1)
    first, second, pooled = quality_rows(FixedSamples(x, torch.zeros(len(x), dtype=torch.long)), 1, "generator=cvae")
    assert [row["n"] for row in (first, second, pooled)] == [90, 0, 90]
    assert first["class_share"] > 1.9  # of all samples


def test_wrong_labels_disagree():
    x, y = interleaved_digits(0, 1, 2, 3)
    rows = quality_rows(FixedSamples(x, 3 - y), 1, "generator=cvae")
    assert all(row["label_agreement"] < 0.05 for row in rows)
    # Real samples of a later class belong to no class so far.
    rows = quality_rows(FixedSamples(*interleaved_digits(4, 5)), 0, "generator=cvae")
    assert rows[-1]["class_share"] < 0.05 and rows[-1]["label_agreement"] < 0.05


@pytest.mark.parametrize("scenario", ["domain", "task"])
def test_predicted_class_decides_the_task_where_labels_do_not(scenario, monkeypatch):
    x, digits = interleaved_digits(0, 1, 2, 3)
    # Correct labels in each head: in both tasks the even digit is first.
    heads = torch.stack([digits % 2, 2 + digits % 2], 1)[:70]
    labels = {"domain": heads[:, :1], "task": heads}[scenario]
    monkeypatch.setattr(GenerativeReplay, "replay_labels", lambda self, x, *_: labels)
    rows = quality_rows(FixedSamples(x), 1, f"scenario={scenario}", "evaluate.generated_samples=35")
    assert [row["n"] for row in rows] == pytest.approx([35, 35, 70], abs=2)
    assert all(row["label_agreement"] > 0.95 for row in rows)


@pytest.mark.parametrize(
    "words",
    [
        "generator=vae",
        "generator=cvae",
        "generator=cvae strategy.targets=soft",
        "generator=cvae scenario=task",
        "generator=mixture strategy.targets=likelihood",
        "strategy=bir",
    ],
)
def test_labels_are_those_of_the_next_tasks_replay(words):
    experiment = prepare(compose_settings([*TINY, "train.iterations=20", *words.split()]))
    learner, strategy = experiment.learner, experiment.learner.strategy
    for number, stage in enumerate(experiment.stages[:2]):
        samples, stream = sample_passes([experiment], number), batches([experiment], number, 0)
        learner.train_task(stage.task, stream, stage.iterations, lambda *_: None, 0, samples)
    generator, solver = learner.generators.modules[0], learner.solvers.modules[0]
    x, asked = generator.generate(50), generator.balanced_labels(50)
    units = learner.scenario.known_units(experiment.task_units, 2)
    with torch.no_grad():
        labels = strategy.replay_labels(x, asked, generator, solver, units)
    learner.begin_task(2, sample_passes([experiment], 2))
    with torch.no_grad():
        target = strategy._replay_targets(x.unsqueeze(0), None if asked is None else asked.unsqueeze(0))[0]
    assert torch.equal(labels, target.argmax(-1) if target.is_floating_point() else target)


# --- reference classifier


def test_reference_classifier_is_the_same_cached_or_retrained_with_any_number_of_threads(
    run, quick_classifier, monkeypatch
):
    first = run()
    (file,) = Path("cache/reference_classifiers").glob("*.pt")
    before = torch.load(file, weights_only=True)["tensors"]
    clear_cache_in_memory(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("gr_cli.evaluation.reference_classifier._train_reference_classifier", None)  # must not be called
        assert run().equals(first)
    file.unlink()
    clear_cache_in_memory(monkeypatch)
    with thread_limit(2):
        assert run("threads=2")["reference_accuracy"].equals(first["reference_accuracy"])
    again = torch.load(file, weights_only=True)["tensors"]
    assert all(torch.equal(before[name], again[name]) for name in before)


def test_class_orders_share_a_reference_classifier(run, quick_classifier):
    words = ("train.iterations=1", "benchmark.class_order=shuffled", "benchmark.classes_per_task=5")
    for seed in range(2):
        run(*words, f"seed={seed}")
    run("train.iterations=1", "scenario=domain", "benchmark.task_overlap=0.5")
    run("train.iterations=1", "benchmark.repetitions=3", "benchmark.classes_per_task=10")
    assert len(list(Path("cache/reference_classifiers").glob("*.pt"))) == 1
    run("train.iterations=1", "benchmark.validation_share=0.2")  # has fewer training samples
    assert len(list(Path("cache/reference_classifiers").glob("*.pt"))) == 2


def test_samples_that_are_not_finite_do_not_end_a_run():
    rows = quality_rows(FixedSamples(torch.full((140, 1, 8, 8), math.nan)), 1)
    assert rows[-1]["frechet"] is None and rows[-1]["precision"] == rows[-1]["coverage"] == 0


def test_one_sample_per_task(run):
    table = run("evaluate.generated_samples=1")
    pooled = table[table["task"] == "all"].iloc[-1]
    assert pooled["n"] == 5 and pooled["precision"] is not None and math.isnan(pooled["recall"])
