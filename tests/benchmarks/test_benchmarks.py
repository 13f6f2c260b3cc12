"""Samples, digits, split and permuted streams, batch order."""

import numpy as np
import pytest
import torch

from gr_cli.benchmarks import Digits, Samples, Torchvision, permuted, split
from gr_cli.benchmarks.base import hold_out
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.errors import ConfigError, DataError
from gr_cli.nn.batch_order import BatchOrder
from gr_cli.nn.random_streams import RandomStreams
from gr_cli.nn.sample_spec import SampleSpec
from helpers import small_mnist


class Toy:
    """Six classes; the value of a sample encodes its class and its index."""

    def __init__(self, per_class: int = 10) -> None:
        self.per_class = per_class

    def load(self) -> Dataset:
        y = torch.arange(6).repeat_interleave(self.per_class)
        x = (100 * y + torch.arange(len(y)) % self.per_class).float().view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
        part = Samples(x.contiguous(), y)
        return Dataset(part, part, tuple("abcdef"), SampleSpec(tuple(part.store.shape[1:]), None))


def test_digits_are_complete_and_splits_are_disjoint():
    data = Digits().load()
    assert len(data.train) + len(data.test) == 1797
    assert torch.bincount(data.test.y).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    assert data.train.x.shape[1:] == (1, 8, 8)
    assert data.train.x.min() >= 0
    assert data.train.x.max() == 1.0
    train_rows = {tuple(row) for row in data.train.x.flatten(1).tolist()}
    assert not any(tuple(row) in train_rows for row in data.test.x.flatten(1).tolist())


def test_split_assigns_each_class_to_one_task_with_labels_from_zero():
    benchmark = split(Toy(), seed=0, classes_per_task=2)
    assert [task.classes for task in benchmark.tasks] == [("a", "b"), ("c", "d"), ("e", "f")]
    for task in benchmark.tasks:
        classes = (task.train.x[:, 0, 0, 0] // 100).long()
        assert (classes - 2 * task.id).tolist() == task.train.y.tolist()
        assert len(task.train) == 20


def test_shuffled_order_depends_on_the_seed_and_labels_stay_correct():
    orders = set()
    for seed in range(5):
        benchmark = split(Toy(), seed=seed, classes_per_task=2, class_order="shuffled")
        names = tuple(name for task in benchmark.tasks for name in task.classes)
        assert sorted(names) == list("abcdef")
        orders.add(names)
        for task in benchmark.tasks:
            for label, name in enumerate(task.classes):
                values = task.train.x[task.train.y == label, 0, 0, 0] // 100
                assert set(values.tolist()) == {float("abcdef".index(name))}
    assert len(orders) > 1
    again = split(Toy(), seed=3, classes_per_task=2, class_order="shuffled")
    assert again.tasks[0].classes == split(Toy(), seed=3, classes_per_task=2, class_order="shuffled").tasks[0].classes


def test_task_name_lists_its_classes():
    x, y = torch.zeros(8, 4), torch.arange(8) % 4
    x[:, 0] = torch.arange(8)
    data = Dataset(
        Samples(x, y), Samples(x, y), ("cat", "dog", "Food & Drink", "sea lion"), SampleSpec(tuple(x.shape[1:]), None)
    )
    source = type("Given", (), {"load": lambda self: data})()
    assert [task.name for task in split(source, seed=0).tasks] == ["cat dog", "Food & Drink, sea lion"]


def test_classes_that_do_not_divide_evenly_are_refused():
    with pytest.raises(ConfigError, match=r"classes_per_task=4: must divide the 6 classes: one of \[1, 2, 3, 6\]"):
        split(Toy(), seed=0, classes_per_task=4)


def test_validation_is_a_share_of_each_training_class():
    task = split(Toy(), seed=0, validation_share=0.3).tasks[0]
    assert torch.bincount(task.validation.y).tolist() == [3, 3]
    assert torch.bincount(task.train.y).tolist() == [7, 7]
    both = [set(part.x[:, 0, 0, 0].tolist()) for part in (task.train, task.validation)]
    assert not both[0] & both[1]
    assert len(task.test) == 20
    assert hold_out(task.train, 0.0, RandomStreams(0), 0)[1] is None


def test_batch_order_is_endless_permutations_in_full_batches():
    order = BatchOrder(10, 4, RandomStreams(0), task=0)
    seen = torch.cat([order.block(i, 1)[0] for i in range(10)])
    assert len(seen) == 40
    for epoch in seen.split(10):
        assert sorted(epoch.tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:20].tolist()
    assert BatchOrder(10, 4, RandomStreams(0), task=0).block(7, 1)[0].tolist() == seen[28:32].tolist()
    large = BatchOrder(3, 8, RandomStreams(0), task=0).block(0, 1)[0]
    assert sorted(large.tolist()[:3]) == [0, 1, 2]
    assert len(large) == 8


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_batch_order_does_not_depend_on_the_block_size(count):
    expected = BatchOrder(10, 4, RandomStreams(0), task=0).block(0, 24)
    assert expected.shape == (24, 4)
    for first in (0, 1, 2, 3):
        order = BatchOrder(10, 4, RandomStreams(0), task=0)
        for start in range(first, 24 - count + 1, count):
            assert order.block(start, count).tolist() == expected[start : start + count].tolist()


def test_permuted_tasks_share_images_and_all_are_permuted():
    benchmark = permuted(Toy(), seed=0, tasks=3, pad=1)
    assert benchmark.spec.shape == (1, 6, 6)
    assert len({task.train.store.data_ptr() for task in benchmark.tasks}) == 1
    assert all(task.train.x is task.train.store for task in benchmark.tasks)
    batch = torch.arange(5)
    permuted_x = [task.train.batch(batch)[0] for task in benchmark.tasks]
    padded = torch.nn.functional.pad(benchmark.tasks[0].train.x[:5], (1, 1, 1, 1))
    for x in permuted_x:
        assert x.shape == (5, 1, 6, 6)
        assert not torch.equal(x, padded)
        torch.testing.assert_close(x.flatten(1).sort(1).values, padded.flatten(1).sort(1).values)
    assert not torch.equal(permuted_x[0], permuted_x[1])


def test_bytes_are_scaled_to_unit_range():
    x, _ = Samples(torch.tensor([[0], [255], [51]], dtype=torch.uint8), torch.zeros(3).long()).batch(torch.arange(3))
    assert x.flatten().tolist() == pytest.approx([0, 1, 0.2])


def test_concatenation_applies_transforms():
    benchmark = permuted(Toy(2), seed=0, tasks=2, pad=0)
    joined = Samples.concatenate([task.train for task in benchmark.tasks])
    assert len(joined) == 24
    for i, task in enumerate(benchmark.tasks):
        index = torch.arange(12)
        torch.testing.assert_close(joined.batch(12 * i + index)[0], task.train.batch(index)[0])
        assert joined.batch(12 * i + index)[1].tolist() == task.train.y.tolist()


def test_splits_and_runs_share_the_store():
    data = Digits().load()
    runs = [split(Digits(), seed=seed, class_order="shuffled", validation_share=0.1) for seed in range(2)]
    for task in (task for run in runs for task in run.tasks):
        assert task.train.store.data_ptr() == task.validation.store.data_ptr() == data.train.store.data_ptr()
        assert task.test.store.data_ptr() == data.test.store.data_ptr()
    joined = Samples.concatenate([task.train for task in runs[0].tasks])
    assert joined.store.data_ptr() == data.train.store.data_ptr()
    assert torch.equal(joined.x, torch.cat([task.train.x for task in runs[0].tasks]))
    # Two runs can take their batches from it at once.
    parts, index = [run.tasks[0].train for run in runs], torch.tensor([[3, 1, 4], [0, 5, 2]])
    rows = torch.stack([part.store_rows(index_) for part, index_ in zip(parts, index, strict=True)])
    x = parts[0].values_at_rows(rows)
    for i, part in enumerate(parts):
        assert torch.equal(x[i], part.batch(index[i])[0])
    assert not torch.equal(x[0], x[1])


def test_selected_samples_can_be_selected_again():
    samples = Samples(torch.arange(10.0).unsqueeze(1), torch.arange(10))
    part = samples.select(torch.tensor([7, 3, 5])).select(torch.tensor([2, 0]))
    assert len(part) == 2
    assert part.x.flatten().tolist() == part.y.tolist() == [5, 7]
    assert torch.cat([x for x, _ in part.batches(1)]).flatten().tolist() == [5, 7]
    assert part.to(torch.device("cpu"), 10).batch(torch.tensor([1]))[1].tolist() == [17]


def test_torchvision_set_is_read_from_files(tmp_path):
    small_mnist.write(tmp_path)
    images = np.frombuffer(small_mnist.PIXELS, dtype=np.uint8).reshape(40, 28, 28)
    labels = np.arange(40) % 10
    benchmark = split(Torchvision("MNIST", str(tmp_path), download=False), seed=0)
    assert [task.name for task in benchmark.tasks] == ["0 1", "2 3", "4 5", "6 7", "8 9"]
    assert np.array_equal(benchmark.tasks[1].train.x[:, 0].numpy(), images[(labels == 2) | (labels == 3)])


def test_missing_set_without_download_is_one_line(tmp_path):
    with pytest.raises(DataError, match="MNIST is not there; set data_root or GR_DATA_ROOT") as error:
        Torchvision("MNIST", str(tmp_path), download=False).load()
    assert "\n" not in str(error.value)


def test_real_mnist(mnist_root):
    benchmark = split(Torchvision("MNIST", mnist_root, download=False), seed=0)
    assert sum(len(task.train) for task in benchmark.tasks) == 60_000
    assert sum(len(task.test) for task in benchmark.tasks) == 10_000
    assert benchmark.tasks[0].train.x.dtype == torch.uint8
