"""CIFAR as class folders: the images and labels of torchvision's files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from gr_cli.benchmarks import Torchvision, permuted, rotated, split
from gr_cli.benchmarks.dataset_hash import dataset_hash
from gr_cli.benchmarks.sources import cifar_folders
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.benchmarks.sources.load import load_dataset
from gr_cli.errors import DataError
from helpers.interruption import only_run
from helpers.small_sets import publish, write_cifar, write_cifar_folders


def read(name: str, root: str = "folders") -> Dataset:
    return load_dataset(Torchvision(name, root, download=False, cache_root="cache"))


def by_class(data: Dataset, part: str) -> dict[str, list[bytes]]:
    """The images of each class as bytes, sorted: their order in the files is arbitrary."""
    x, y = getattr(data, part).x.numpy(), getattr(data, part).y.tolist()
    return {name: sorted(x[i].tobytes() for i in range(len(y)) if y[i] == label)
            for label, name in enumerate(data.classes)}  # fmt: skip


@pytest.mark.parametrize(("dataset", "classes"), [(datasets.CIFAR10, 10), (datasets.CIFAR100, 100)])
def test_class_folders_hold_the_images_and_labels_of_torchvisions_files(dataset, classes, monkeypatch):
    name = dataset.__name__
    names = cifar_folders.CLASS_NAMES[name]
    write_cifar(Path("pickles"), fine=classes == 100, classes=classes, names=names)
    publish(monkeypatch, dataset, Path("pickles"))
    pickles = read(name, "pickles")
    write_cifar_folders(Path("folders"), name, pickles)
    folders = read(name)
    assert folders.classes == pickles.classes == tuple(sorted(names)) and len(names) == classes
    assert folders.spec == pickles.spec and folders.train.x.dtype == pickles.train.x.dtype
    for part in ("train", "test"):
        assert by_class(folders, part) == by_class(pickles, part)
    # Which were read is stored with each run: the description, and the hash of the samples in their order.
    assert (pickles.files, folders.files) == (
        {10: "cifar-10-batches-py/", 100: "cifar-100-python/"}[classes], f"{name.lower()}/{{train,test}}/<class>/",
    )  # fmt: skip
    streams = [split(Torchvision(name, root, cache_root="cache"), seed=0) for root in ("pickles", "folders")]
    assert streams[0].files == pickles.files and dataset_hash(streams[0]) != dataset_hash(streams[1])
    assert Path("cache/images").is_dir()


def test_labels_are_those_of_the_published_files():
    # As in batches.meta and meta of the published archives.
    assert cifar_folders.CLASS_NAMES["CIFAR10"].index("automobile") == 1
    fine = cifar_folders.CLASS_NAMES["CIFAR100"]
    assert [fine.index(name) for name in ("apple", "aquarium_fish", "bicycle", "lawn_mower", "worm")] == [
        0,
        1,
        8,
        41,
        99,
    ]


def test_torchvisions_files_come_first(monkeypatch):
    images = write_cifar(Path("folders"), fine=False, classes=10)
    publish(monkeypatch, datasets.CIFAR10, Path("folders"))
    pickles = read("CIFAR10")
    write_cifar_folders(Path("folders"), "CIFAR10", pickles, names=cifar_folders.CLASS_NAMES["CIFAR10"])
    assert np.array_equal(read("CIFAR10").train.x, images)
    shutil.rmtree("folders/cifar-10-batches-py")
    assert read("CIFAR10").files == "cifar10/{train,test}/<class>/"


def few(names: tuple[str, ...] = ("red", "tan")) -> None:
    for part in ("train", "test"):
        for name in names:
            Path(f"folders/cifar10/{part}/{name}").mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (32, 32), name).save(f"folders/cifar10/{part}/{name}/{i}.png")


def test_other_classes_are_refused(monkeypatch):
    few(("blue", "red"))
    with pytest.raises(
        DataError, match=r"CIFAR10 in cifar10/ lacks airplane, .* and 5 more and has blue, red; its folders"
    ):
        read("CIFAR10")
    monkeypatch.setitem(cifar_folders.CLASS_NAMES, "CIFAR10", ("blue", "red"))
    assert read("CIFAR10").classes == ("blue", "red")
    shutil.rmtree("folders/cifar10/test")
    with pytest.raises(DataError, match=r"has no training and test images; put them into train/<class>/ and test/"):
        read("CIFAR10")


def test_broken_images_are_named(monkeypatch):
    few()
    monkeypatch.setitem(cifar_folders.CLASS_NAMES, "CIFAR10", ("red", "tan"))
    Path("folders/cifar10/test/tan/2.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"1 of 9 images can't be decoded.*test/tan/2.png .*; repair or remove them$"):
        read("CIFAR10")


def test_transformed_tasks_say_which_files_were_read(monkeypatch):
    few()
    monkeypatch.setitem(cifar_folders.CLASS_NAMES, "CIFAR10", ("red", "tan"))
    source = Torchvision("CIFAR10", "folders", download=False, cache_root="cache")
    for stream in (permuted(source, seed=0, tasks=2), rotated(source, seed=0, tasks=2)):
        assert stream.files == "cifar10/{train,test}/<class>/"


def test_without_any_the_message_names_both():
    with pytest.raises(
        DataError, match=r"a folder that holds it \(cifar-100-python/, or cifar100/ with folders of cla"
    ):
        read("CIFAR100")


def test_status_says_which_files_were_read(gr_run, monkeypatch):
    import json

    few()
    monkeypatch.setitem(cifar_folders.CLASS_NAMES, "CIFAR10", ("red", "tan"))
    code, _, err = gr_run("benchmark=split_cifar10", "benchmark.classes_per_task=1", "data_root=folders",
                          "strategy=finetune", "train.iterations=1", "model.hidden_sizes=[4]")  # fmt: skip
    assert code == 0, err
    status = json.loads((only_run() / "status.json").read_text(encoding="utf-8"))
    assert status["data_files"] == "cifar10/{train,test}/<class>/"
