"""Streams: uneven tasks, repetitions, task overlap, permuted and rotated images."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate

from gr_cli.benchmarks import Digits, Samples, permuted, rotated, split
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.benchmarks.streams.task_overlap import _exchange_permutation
from gr_cli.cli.compose import compose_settings
from gr_cli.errors import ConfigError, DataError
from gr_cli.nn.random_streams import RandomStreams
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.scenario import Scenario
from gr_cli.training.batches import batches
from gr_cli.training.experiment import prepare
from helpers.interruption import only_run

CPU = torch.device("cpu")
TINY = ("train.iterations=4", "log.every=4", "model.hidden_sizes=[8]", "generator.hidden_dims=[8]",
        "strategy.memory_size=20", "evaluate.generated_samples=0", "threads=1")  # fmt: skip


class Numbered:
    """Classes of unequal size; the value of a sample is its index, from which its label follows."""

    def __init__(self, sizes=(40, 31, 22, 40, 27, 20), names="abcdef") -> None:
        self.sizes, self.names = sizes, names

    def load(self) -> Dataset:
        y = torch.arange(len(self.sizes)).repeat_interleave(torch.tensor(self.sizes))
        x = torch.arange(float(len(y))).view(-1, 1).expand(-1, 2).contiguous()
        part = Samples(x, y)
        return Dataset(part, part, tuple(self.names), SampleSpec(tuple(part.store.shape[1:]), None))


def numbers(samples: Samples) -> list[int]:
    return samples.x[:, 0].long().tolist()


# --- split


def test_tasks_may_bring_different_numbers_of_classes():
    benchmark = split(Digits(), seed=0, classes_per_task=[5, 2, 3])
    assert benchmark.class_counts == [5, 2, 3]
    assert [task.name for task in benchmark.tasks] == ["0 1 2 3 4", "5 6", "7 8 9"]
    assert [int(task.test.y.max()) for task in benchmark.tasks] == [4, 1, 2]
    large_first = split(Numbered([2] * 30, map(str, range(30))), seed=0, classes_per_task=[12, 6, 6, 6])
    assert [task.name for task in large_first.tasks][:2] == ["0 ... 11 (12 classes)", "12 13 14 15 16 17"]


def test_classes_that_do_not_add_up_are_refused():
    with pytest.raises(ConfigError, match=r"classes_per_task=\[3, 2\]: must add up to the 6 classes, but adds up to 5"):
        split(Numbered(), seed=0, classes_per_task=[3, 2])
    with pytest.raises(ConfigError, match=r"or give a number for each task: benchmark.classes_per_task=\[4,2\]"):
        split(Numbered(), seed=0, classes_per_task=4)


@pytest.mark.parametrize("order", [["f", "a", "e", "b", "d", "c"], [5, 0, 4, 1, 3, 2], ["f", 0, "e", 1, "d", 2]])
def test_class_order_by_name_or_index(order):
    benchmark = split(Numbered(), seed=0, classes_per_task=[4, 2], class_order=order)
    assert [task.classes for task in benchmark.tasks] == [("f", "a", "e", "b"), ("d", "c")]
    first = benchmark.tasks[0]
    plain = Numbered().load().train
    assert [("faeb"[y]) for y in first.train.y] == ["abcdef"[plain.y[i]] for i in numbers(first.train)]


def test_number_that_is_a_class_name_means_that_class():
    order = list(range(1, 7))
    benchmark = split(Numbered(names="654321"), seed=0, class_order=order)
    assert [name for task in benchmark.tasks for name in task.classes] == list("123456")


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (["a", "b", "c", "d", "e"], "must name each class once, and lacks 'f'"),
        (["a", "b", "c", "d", "e", "f", 0], "and has 'a' twice"),
        ([0, 1, 2, 3, 4, 6], "class_order=6: is neither the name of a class .* nor a number from 0 to 5"),
        (["a", "b", "c", "d", "e", "ff"], "did you mean 'f'"),
    ],
)
def test_invalid_class_order_is_refused(order, message):
    with pytest.raises(ConfigError, match=message):
        split(Numbered(), seed=0, class_order=order)


def test_task_units_have_the_size_of_their_task_and_domains_must_be_equally_large():
    counts = [5, 2, 3]
    for kind in ("class", "task"):
        assert Scenario(kind).task_units(counts).sum(1).tolist() == counts
        assert Scenario(kind).unit_offsets(counts) == [0, 5, 7]
    with pytest.raises(ConfigError, match=r"scenario=domain: tasks share .* not 5, 2, 3; try scenario=class"):
        Scenario("domain").task_units(counts)


@pytest.mark.parametrize("scenario", ["class", "task"])
def test_uneven_tasks_train(gr_run, scenario):
    code, _, err = gr_run(*TINY, "benchmark.classes_per_task=[5,2,3]", f"scenario={scenario}")
    assert code == 0, err
    assert len(pd.read_csv(only_run() / "accuracy_matrix.csv")) == 3


# --- repetitions


def test_rounds_divide_each_class_evenly_and_use_every_sample_once():
    benchmark = split(Numbered(), seed=0, classes_per_task=3, repetitions=4)
    assert len(benchmark.tasks) == 8
    assert [task.name for task in benchmark.tasks][::3] == ["a b c, round 1", "d e f, round 2", "a b c, round 4"]
    indices = [number for task in benchmark.tasks for number in numbers(task.train)]
    assert sorted(indices) == list(range(180))
    for label, size in enumerate((40, 31, 22)):
        counts = [int((task.train.y == label).sum()) for task in benchmark.tasks[::2]]
        assert sum(counts) == size
        assert max(counts) - min(counts) <= 1
    for task in benchmark.tasks:
        assert numbers(task.test) == numbers(benchmark.tasks[task.id % 2].test)
    others = split(Numbered(), seed=1, classes_per_task=3, repetitions=4)
    assert numbers(others.tasks[0].train) != numbers(benchmark.tasks[0].train)


def test_repeated_classes_have_the_same_units():
    benchmark = split(Numbered(), seed=0, classes_per_task=[4, 2], repetitions=2)
    scenario, data = Scenario("class"), Numbered().load().train
    assert benchmark.repeated_tasks == [None, None, 0, 1]
    offsets = scenario.unit_offsets(benchmark.class_counts, benchmark.repeated_tasks)
    assert offsets == [0, 4, 0, 4]
    assert scenario.task_units(benchmark.class_counts, benchmark.repeated_tasks).sum(0).tolist() == [2] * 6
    for task in benchmark.to(CPU, offsets).tasks:
        assert task.train.y.tolist() == data.y[numbers(task.train)].tolist()


def test_class_with_fewer_samples_than_rounds_is_refused():
    with pytest.raises(DataError, match=r"benchmark.repetitions=21: class 'f' has only 20 training samples"):
        split(Numbered(), seed=0, repetitions=21)


def test_validation_samples_are_in_no_round():
    tasks = split(Numbered(), seed=0, classes_per_task=6, repetitions=2, validation_share=0.2).tasks
    validation, trained = numbers(tasks[0].validation), [number for task in tasks for number in numbers(task.train)]
    assert numbers(tasks[1].validation) == validation
    assert sorted(validation + trained) == list(range(180))


# --- task overlap


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("per_task", [2, [3, 2, 1], 3])
def test_task_overlap_exchanges_exactly_its_share_and_loses_no_sample(share, per_task):
    plain = split(Numbered(), seed=0, classes_per_task=per_task)
    benchmark = split(Numbered(), seed=0, classes_per_task=per_task, task_overlap=share)
    owner = {number: task.id for task in plain.tasks for number in numbers(task.train)}
    data = Numbered().load().train
    wanted = [round(share * len(task.train)) for task in plain.tasks]
    most = [min(n, sum(wanted) - n) for n in wanted]
    for task, before, number in zip(benchmark.tasks, plain.tasks, most, strict=True):
        assert len(task.train) == len(before.train)
        assert sum(owner[n] != task.id for n in numbers(task.train)) == number
        assert task.origin_task.tolist() == [owner[n] for n in numbers(task.train)]
        assert numbers(task.test) == numbers(before.test)
    assert len({task.train.store.data_ptr() for task in benchmark.tasks}) == 1
    assert sorted(n for task in benchmark.tasks for n in numbers(task.train)) == list(range(180))
    offsets = Scenario("class").unit_offsets(benchmark.class_counts)
    for task in benchmark.to(CPU, offsets).tasks:
        assert task.train.y.tolist() == data.y[numbers(task.train)].tolist()


def test_exchanged_samples_come_from_all_other_tasks():
    source_task = torch.arange(4).repeat_interleave(300)
    receives = _exchange_permutation(source_task, RandomStreams(0))
    assert sorted(receives.tolist()) == list(range(1200))
    for task in range(4):
        counts = torch.bincount(source_task[receives[source_task == task]], minlength=4).tolist()
        assert counts[task] == 0
        assert all(70 < count < 130 for other, count in enumerate(counts) if other != task)


def test_class_is_known_as_soon_as_one_sample_is_exchanged():
    experiment = prepare(compose_settings([*TINY, "benchmark.task_overlap=0.2"]))
    assert experiment.learner.task_units.all()  # with 57 exchanged samples every class is in every task
    x, y = next((batch.x, batch.y) for batch in batches([experiment], 0, 0))
    data = Digits().load().train
    known = {tuple(row): label for row, label in zip(data.x.flatten(1).tolist(), data.y.tolist(), strict=True)}
    assert [known[tuple(row)] for row in x[0].flatten(1).tolist()] == y[0].tolist()


def test_overlapping_and_repeated_streams_train(gr_run):
    for words in (
        ["benchmark.task_overlap=0.1"],
        ["benchmark.classes_per_task=5", "benchmark.repetitions=2", "benchmark.task_overlap=0.1"],
    ):
        for scenario in ("class", "domain"):
            code, _, err = gr_run(*TINY, *words, f"scenario={scenario}")
            assert code == 0, err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["benchmark.task_overlap=0.1", "scenario=task"],
            "benchmark.task_overlap=on: with scenario=task each sample has",
        ),
        (["benchmark.task_overlap=0.1", "benchmark.classes_per_task=10"], "and there is only one"),
        (["benchmark.task_overlap=1.0"], "benchmark.task_overlap=1.0: must be a number ≥ 0 and < 1"),
        (["benchmark.repetitions=2", "generator=mixture"], "here tasks have classes in common"),
        (["benchmark.task_overlap=0.1", "strategy=generative_classifier"], "here tasks have classes in common"),
        (
            ["benchmark.classes_per_task=[5,2,3]", "scenario=domain"],
            "must have the same number of classes, not 5",
        ),
        (["benchmark.classes_per_task=[5,0,5]"], "must be a whole number ≥ 1 or a list, each a whole number ≥ 1"),
        (["benchmark.class_order=random"], "must be one of fixed, shuffled or a list, each text or a whole number"),
        (["benchmark=rotated_digits", "benchmark.angles=[0,0]"], "each once"),
    ],
    ids=str,
)
def test_invalid_settings_are_one_line(gr_run, words, message):
    code, _, err = gr_run(*words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not Path("outputs").exists()


# --- transforms


def test_rotation_equals_torchvisions():
    x = torch.rand(3, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    part = Samples(x, torch.tensor([0, 1, 0]))

    class Source:
        def load(self) -> Dataset:
            return Dataset(part, part, ("a", "b"), SampleSpec(tuple(part.store.shape[1:])))

    benchmark = rotated(Source(), seed=0, angles=[0, 30, -75.5, 90])
    assert [task.name for task in benchmark.tasks] == ["0 degrees", "30 degrees", "-75.5 degrees", "90 degrees"]
    for task, angle in zip(benchmark.tasks, (0, 30, -75.5, 90), strict=True):
        seen = task.train.batch(torch.arange(3))[0]
        expected = rotate(x, angle, InterpolationMode.BILINEAR)
        torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)
        assert 0 <= seen.min() <= seen.max() <= 1
        assert torch.equal(seen[1:2], task.train.batch(torch.tensor([1]))[0])  # independent of the other samples
    quarter = benchmark.tasks[3].train.batch(torch.arange(3))[0]
    torch.testing.assert_close(quarter, x.rot90(1, (2, 3)), rtol=0, atol=1e-5)


def test_rotated_bytes_stay_bytes():
    x = torch.randint(0, 256, (2, 1, 8, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    task = rotated(_images(x), seed=0, tasks=2, span=360.0).tasks[1]
    assert task.name == "180 degrees"
    raw = task.train.with_transform_applied().x
    assert raw.dtype == torch.uint8
    assert torch.equal(raw, x.rot90(2, (2, 3)))


def _images(x: torch.Tensor):
    part = Samples(x, torch.arange(len(x)) % 2)

    class Source:
        def load(self) -> Dataset:
            return Dataset(part, part, ("a", "b"), SampleSpec(tuple(part.store.shape[1:])))

    return Source()


def test_angles_are_spread_over_the_span_without_its_end():
    names = [task.name for task in rotated(Digits(), seed=0, tasks=4, span=360.0).tasks]
    assert names == ["0 degrees", "90 degrees", "180 degrees", "270 degrees"]


@pytest.mark.parametrize("make", [permuted, rotated])
def test_a_hundred_tasks_share_samples_and_labels_on_the_device(make):
    benchmark = make(Digits(), seed=0, tasks=100)
    tasks = benchmark.to(CPU, Scenario("domain").unit_offsets(benchmark.class_counts)).tasks
    assert len(tasks) == 100
    for part in ("train", "test"):
        assert len({getattr(task, part).store.data_ptr() for task in tasks}) == 1
        assert len({getattr(task, part).y.data_ptr() for task in tasks}) == 1


@pytest.mark.parametrize("make", [permuted, rotated])
def test_vectors_are_refused_where_images_are_needed(make):
    with pytest.raises(DataError, match=f"{make.__name__} tasks need images"):
        make(Numbered(), seed=0)


@pytest.mark.parametrize("make", [permuted, rotated])
def test_repeated_transforms_have_other_samples_and_the_same_classes(make):
    benchmark = make(Digits(), seed=0, tasks=3, repetitions=2)
    assert benchmark.repeated_tasks == [None, None, None, 0, 1, 2]
    assert [task.id for task in benchmark.tasks] == list(range(6))
    assert benchmark.tasks[4].name == f"{make(Digits(), seed=0, tasks=3).tasks[1].name}, round 2"
    whole = {row.numpy().tobytes() for row in Digits().load().train.x}
    for first, again in zip(benchmark.tasks[:3], benchmark.tasks[3:], strict=True):
        rows = [{row.numpy().tobytes() for row in task.train.x} for task in (first, again)]
        assert not rows[0] & rows[1] and rows[0] | rows[1] == whole
        assert first.train.transform is again.train.transform
        assert first.test.y is again.test.y
    assert Scenario("class").unit_offsets(benchmark.class_counts, benchmark.repeated_tasks) == [0, 10, 20, 0, 10, 20]


@pytest.mark.parametrize("scenario", ["domain", "class", "task"])
def test_repeated_transforms_train(gr_run, scenario):
    words = ("benchmark=permuted_digits", "benchmark.tasks=2", "benchmark.repetitions=2", f"scenario={scenario}")
    code, _, err = gr_run(*TINY, *words)
    assert code == 0, err
    assert len(pd.read_csv(only_run() / "accuracy_matrix.csv")) == 4


@pytest.mark.parametrize("benchmark", ["permuted_digits", "rotated_digits"])
def test_transformed_streams_train(gr_run, benchmark):
    code, _, err = gr_run(*TINY, f"benchmark={benchmark}", "benchmark.tasks=3", "scenario=domain")
    assert code == 0, err
    assert len(pd.read_csv(only_run() / "accuracy_matrix.csv")) == 3


def test_evaluation_of_a_subsample(gr_run):
    code, _, err = gr_run(
        *TINY, "benchmark=rotated_digits", "benchmark.tasks=2", "scenario=domain", "evaluate.samples=9"
    )
    assert code == 0, err
    assert set(pd.read_csv(only_run() / "evaluations.csv")["n"]) == {9}
    samples = Digits().load().test
    assert len(samples.subsample(1000)) == len(samples)
    assert torch.equal(samples.subsample(2).x, samples.x[[0, len(samples) // 2]])
