"""Few labels and wrong labels in training, on all kinds of streams."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gr_cli.benchmarks import Tensors, permuted, rotated, split, with_few_labels, with_label_noise
from gr_cli.benchmarks.labels import describe_labels
from gr_cli.cli.compose import compose_settings
from gr_cli.errors import Interrupted
from gr_cli.evaluation.reference_classifier import PooledTrainingSet, distinct_classes
from gr_cli.results.folder import RunFolder
from gr_cli.runner import run as runner
from gr_cli.scenario import Scenario
from gr_cli.training.experiment import dataset_hash_of, load_benchmark
from gr_cli.training.observer import RunObserver
from helpers.interruption import StopAt, csvs

CLASSES, SIZE = 6, 20


def source(sizes=(SIZE,) * CLASSES):
    """Images whose first pixel is the index of the sample."""
    y = torch.arange(CLASSES).repeat_interleave(torch.tensor(sizes))
    x = torch.zeros(len(y), 1, 4, 4)
    x[:, 0, 0, 0] = torch.arange(len(y)) / len(y)
    return Tensors(x, y, x, y)


STREAMS = {
    "split": lambda: split(source(), seed=0, classes_per_task=3, validation_share=0.1),
    "overlapping": lambda: split(source(), seed=0, classes_per_task=[4, 2], task_overlap=0.3),
    "repeated": lambda: split(source(), seed=0, classes_per_task=3, repetitions=2),
    "permuted": lambda: permuted(source(), seed=0, tasks=3),
    "rotated": lambda: rotated(source(), seed=0, tasks=2),
}


def rows(task):
    return task.train.store_rows(torch.arange(len(task.train)))


def same_evaluation(before, after):
    for name, samples in before.evaluation_splits().items():
        assert torch.equal(samples.y, after.evaluation_splits()[name].y)
        assert len(samples) == len(after.evaluation_splits()[name])


@pytest.mark.parametrize("noise_type", ["symmetric", "pair"])
@pytest.mark.parametrize("stream", STREAMS)
def test_share_of_wrong_labels(stream, noise_type):
    clean = STREAMS[stream]()
    noisy = with_label_noise(clean, 0, 0.25, noise_type)
    for before, after in zip(clean.tasks, noisy.tasks, strict=True):
        wrong = before.train.y != after.train.y
        assert int(wrong.sum()) == round(0.25 * len(before.train))
        assert torch.equal(rows(before), rows(after))
        origin = torch.full_like(before.train.y, before.id) if before.origin_task is None else before.origin_task
        counts = torch.tensor(clean.class_counts)[origin]
        assert ((after.train.y >= 0) & (after.train.y < counts)).all()
        if noise_type == "pair":
            assert torch.equal(after.train.y[wrong], ((before.train.y + 1) % counts)[wrong])
        same_evaluation(before, after)
        assert after.complete is before
    again = with_label_noise(STREAMS[stream](), 0, 0.25, noise_type)
    other = with_label_noise(STREAMS[stream](), 1, 0.25, noise_type)
    labels = [torch.cat([task.train.y for task in each.tasks]) for each in (noisy, again, other)]
    assert torch.equal(labels[0], labels[1]) and not torch.equal(labels[0], labels[2])


def test_symmetric_noise_chooses_all_other_classes_equally_often():
    clean = split(source((1000,) * CLASSES), seed=0, classes_per_task=CLASSES)
    (task,) = with_label_noise(clean, 0, 0.9).tasks
    shift = (task.train.y - clean.tasks[0].train.y) % CLASSES
    counts = shift.bincount(minlength=CLASSES)
    assert int(counts[0]) == 600
    # Each of the five shifts has mean 1080 and standard deviation 29.4.
    assert ((counts[1:] - 1080).abs() < 5 * 29.4).all()


def test_noise_of_permuted_tasks_is_drawn_anew():
    first, second, _ = with_label_noise(STREAMS["permuted"](), 0, 0.25).tasks
    assert not torch.equal(first.train.y, second.train.y)


@pytest.mark.parametrize("stream", STREAMS)
def test_samples_per_class(stream):
    full = STREAMS[stream]()
    few = with_few_labels(full, 0, per_class=3)
    for before, after in zip(full.tasks, few.tasks, strict=True):
        counts = [
            (task.train.y + (0 if task.origin_task is None else 10 * task.origin_task)).bincount(minlength=20)
            for task in (before, after)
        ]
        assert torch.equal(counts[1], counts[0].clamp(max=3))
        label_of = dict(zip(rows(before).tolist(), before.train.y.tolist(), strict=True))
        assert [label_of[row] for row in rows(after).tolist()] == after.train.y.tolist()
        if before.origin_task is not None:
            task_of = dict(zip(rows(before).tolist(), before.origin_task.tolist(), strict=True))
            assert [task_of[row] for row in rows(after).tolist()] == after.origin_task.tolist()
        same_evaluation(before, after)


def test_share_of_labelled_samples():
    few = with_few_labels(split(source((20, 7, 2, 1, 10, 15)), seed=0, classes_per_task=3), 0, share=0.2)
    assert [task.train.y.bincount().tolist() for task in few.tasks] == [[4, 1, 1], [1, 2, 3]]
    most = with_few_labels(split(source((20, 7, 2, 1, 10, 15)), seed=0, classes_per_task=3), 0, per_class=8)
    assert [task.train.y.bincount().tolist() for task in most.tasks] == [[8, 7, 2], [1, 8, 8]]


def test_noise_is_a_share_of_the_labels_that_there_are():
    config = compose_settings(["labels.per_class=10", "labels.noise=0.3", "labels.noise_type=pair"])
    benchmark = load_benchmark(config)
    assert [len(task.train) for task in benchmark.tasks] == [20] * 5
    assert [task.complete.complete for task in benchmark.tasks] == [None] * 5
    assert describe_labels(benchmark) == (
        "100 of 1,442 training samples have a label, the others are left out",
        "30 of 100 training labels are wrong; those of test and validation are not",
    )
    assert describe_labels(load_benchmark(compose_settings([]))) == ()


def test_labels_are_part_of_the_identity_and_of_the_data_set():
    plain, noisy = compose_settings([]), compose_settings(["labels.noise=0.1"])
    assert plain.identity != noisy.identity
    assert dataset_hash_of(plain) != dataset_hash_of(noisy) == dataset_hash_of(noisy)


def test_sample_quality_is_measured_with_the_right_labels():
    def pooled(benchmark):
        scenario = Scenario("class")
        offsets = scenario.unit_offsets(benchmark.class_counts, benchmark.repeated_tasks)
        moved = benchmark.to(torch.device("cpu"), offsets)
        return PooledTrainingSet.from_benchmark(
            moved, distinct_classes(moved, offsets, CLASSES), offsets
        ).content_hash()

    for stream in ("split", "overlapping"):
        clean = STREAMS[stream]()
        assert pooled(with_label_noise(with_few_labels(clean, 0, 3), 0, 0.3)) == pooled(clean)


def test_mapped_samples_have_the_same_labels(tmp_path):
    np.save("x.npy", np.random.default_rng(0).random((60, 1, 8, 8), dtype=np.float32))
    np.save("y.npy", np.arange(60) % 4)
    words = ["benchmark=arrays", "benchmark.source.path=x.npy", "benchmark.source.labels=y.npy", "labels.noise=0.25",
             "labels.share=0.5"]  # fmt: skip
    tasks = [load_benchmark(compose_settings([*words, f"storage={kind}"])).tasks for kind in ("memory", "mapped")]
    for in_memory, mapped in zip(*tasks, strict=True):
        ours, theirs = (task.train.batch(torch.arange(len(task.train))) for task in (in_memory, mapped))
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_resumed_run_is_bit_identical():
    words = ["labels.noise=0.2", "labels.per_class=20", "strategy=er", "train.iterations=8", "model.hidden_sizes=[8]",
             "threads=1"]  # fmt: skip

    def run(folder, observer=None):
        runner.run(compose_settings(words), RunFolder(Path(folder)), observer or RunObserver())
        return csvs(Path(folder))

    with pytest.raises(Interrupted):
        run("broken", StopAt(1, 3))
    assert run("broken") == run("whole")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("labels.noise=0.2 benchmark.classes_per_task=1", "labels.noise=0.2: task 0 (0) has one class"),
        ("labels.per_class=5 labels.share=0.5", "labels.share=0.5: can't be combined with labels.per_class"),
        ("labels.noise=1", "labels.noise=1"),
        ("labels.share=0", "labels.share=0"),
    ],
)
def test_wrong_settings_are_refused(gr_run, words, message):
    code, _, err = gr_run(*words.split())
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
