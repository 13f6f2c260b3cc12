"""Every torchvision data set is read from files in their published format."""

import hashlib
import io
import os
import pickle
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision import datasets

from gr_cli.benchmarks import Torchvision, split
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.benchmarks.sources.load import load_dataset
from gr_cli.errors import ConfigError, DataError
from helpers.small_sets import EMNIST_CLASSES, pixels, publish, write_cifar, write_emnist, write_mnist, write_usps


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refused(*_, **__):
        raise URLError("there is no network")

    monkeypatch.setattr("urllib.request.urlopen", refused)


def read(name: str, **settings) -> Dataset:
    data = load_dataset(Torchvision(name, "data", download=False, **settings))
    for part in (data.train, data.test):
        assert part.x.dtype == torch.uint8 and part.x.is_contiguous()
        assert part.y.dtype == torch.int64
        assert part.y.unique().tolist() == list(range(len(data.classes)))
    return data


@pytest.mark.parametrize(("name", "first"), [("MNIST", "0"), ("FashionMNIST", "T-shirt/top"), ("KMNIST", "o")])
def test_mnist_family(name, first):
    images = write_mnist(Path("data"), name)
    data = read(name)
    assert data.classes[0] == first and len(data.classes) == 10
    assert np.array_equal(data.train.x[:, 0], images["train"])
    assert np.array_equal(data.test.x[:, 0], images["t10k"])
    assert data.train.y.tolist() == [i % 10 for i in range(20)]


@pytest.mark.parametrize("which", EMNIST_CLASSES)
def test_emnist_is_upright_with_labels_from_zero(which):
    upright = write_emnist(Path("data"), which)
    data = read("EMNIST", split=which)
    assert len(data.classes) == EMNIST_CLASSES[which]
    assert np.array_equal(data.train.x[:, 0], upright)
    assert data.train.y.tolist() == [i % len(data.classes) for i in range(len(upright))]
    assert data.classes[0] == ("a" if which == "letters" else "0")
    assert "N/A" not in data.classes


def test_emnist_needs_a_split_and_no_other_set_has_one():
    with pytest.raises(ConfigError, match=r"benchmark.source.split=null: must be one of balanced, .*, mnist"):
        Torchvision("EMNIST", "data")
    with pytest.raises(ConfigError, match=r"benchmark.source.split=letters: MNIST has no splits"):
        Torchvision("MNIST", "data", split="letters")


def test_usps():
    images = write_usps(Path("data"))
    data = read("USPS")
    assert data.classes == tuple("0123456789")
    assert data.train.x.shape == (20, 1, 16, 16)
    assert np.abs(data.train.x[:, 0].int().numpy() - images.astype(int)).max() <= 1  # six decimals, then bytes
    assert data.train.y.tolist() == [i % 10 for i in range(20)]


def test_svhn(monkeypatch):
    scipy = pytest.importorskip("scipy.io")
    Path("data").mkdir()
    images, expected = pixels(20, 3, 32, 32), {}
    for part in ("train", "test"):
        file = Path("data") / f"{part}_32x32.mat"
        labels = np.array([[i % 10 or 10] for i in range(20)], dtype=np.uint8)  # 10 is the digit 0
        scipy.savemat(file, {"X": images.transpose(2, 3, 1, 0), "y": labels})
        expected[part] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    with pytest.raises(DataError, match=r"SVHN can't be read there .*train_32x32.mat has not the checksum"):
        Torchvision("SVHN", "data", download=False).load()
    monkeypatch.setattr(datasets.SVHN, "split_list", expected)
    data = read("SVHN")
    assert np.array_equal(data.train.x, images)
    assert data.train.y.tolist() == [i % 10 for i in range(20)]
    assert data.classes == tuple("0123456789")


def test_svhn_without_scipy_is_one_line(gr_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    code, _, line = gr_run("benchmark=split_svhn", "data_root=data")
    assert (code, line.count("\n")) == (2, 1)
    assert "SVHN: is read by scipy, which is not installed; install it with: pip install 'gr-cli[svhn]'" in line


@pytest.mark.parametrize(("dataset", "classes"), [(datasets.CIFAR10, 10), (datasets.CIFAR100, 100)])
def test_cifar(dataset, classes, monkeypatch):
    images = write_cifar(Path("data"), fine=classes == 100, classes=classes)
    publish(monkeypatch, dataset, Path("data"))
    data = read(dataset.__name__)
    assert np.array_equal(data.train.x, images)
    assert data.train.y.tolist() == [i % classes for i in range(2 * classes)]
    assert data.classes == tuple(f"thing {i}" for i in range(classes))


class Hostile:
    """Creates a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("hacked",)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_pickles_with_wrong_checksums_are_never_unpickled(name, monkeypatch):
    write_cifar(Path("data"), fine=False, classes=10)
    publish(monkeypatch, datasets.CIFAR10, Path("data"))
    folder = Path("data/cifar-10-batches-py").absolute()
    (folder / name).write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(DataError, match=f"{name} has not the checksum of the published file.*; remove {folder} to"):
        Torchvision("CIFAR10", "data").load()
    assert not Path("hacked").exists()


def missing(name: str, **settings) -> str:
    with pytest.raises(DataError) as error:
        Torchvision(name, "data", download=False, **settings).load()
    return str(error.value)


def test_missing_files_are_named():
    assert "EMNIST is not there; set data_root" in missing("EMNIST", split="digits")
    assert "CIFAR10 is not there; set data_root" in missing("CIFAR10")
    assert "USPS is not there; set data_root" in missing("USPS")
    write_usps(Path("data"))
    Path("data/usps.t.bz2").unlink()
    assert "USPS lacks usps.t.bz2; set data_root" in missing("USPS")
    write_emnist(Path("data"), "digits")
    assert "EMNIST is not there; set data_root" in missing("EMNIST", split="letters")


def test_damaged_usps_names_the_files_to_remove():
    write_usps(Path("data"))
    Path("data/usps.bz2").write_bytes(b"no archive")
    line = missing("USPS")
    assert "USPS can't be read there (usps.bz2 has not the checksum" in line
    assert f"remove {Path('data').absolute() / 'usps.bz2'} and usps.t.bz2 to fetch it anew" in line


def test_missing_set_without_network():
    for name in ("USPS", "CIFAR100"):
        with pytest.raises(DataError, match=r"is not there and could not be downloaded .*there is no network"):
            Torchvision(name, "data").load()
    assert list(Path("data").iterdir()) == []


@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")
def test_present_cifar_archive_is_extracted_without_network(monkeypatch):
    images = write_cifar(Path("data"), fine=False, classes=10)
    publish(monkeypatch, datasets.CIFAR10, Path("data"))
    with tarfile.open("data/cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add("data/cifar-10-batches-py", "cifar-10-batches-py")
    shutil.rmtree("data/cifar-10-batches-py")
    checksum = hashlib.md5(Path("data/cifar-10-python.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", checksum)
    assert np.array_equal(load_dataset(Torchvision("CIFAR10", "data")).train.x, images)
    assert sorted(path.name for path in Path("data").iterdir()) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]


def test_present_emnist_archive_is_extracted_without_network(monkeypatch):
    import gzip

    upright = write_emnist(Path("data"), "letters")
    raw, whole = Path("data/EMNIST/raw"), io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for file in list(raw.iterdir()):
            archive.writestr(f"gzip/{file.name}.gz", gzip.compress(file.read_bytes()))
            file.unlink()
    (raw / "gzip.zip").write_bytes(whole.getvalue())
    monkeypatch.setattr(datasets.EMNIST, "md5", hashlib.md5(whole.getvalue()).hexdigest())
    assert np.array_equal(load_dataset(Torchvision("EMNIST", "data", split="letters")).train.x[:, 0], upright)


@pytest.mark.parametrize(
    ("benchmark", "tasks"), [("split_kmnist", 5), ("split_emnist", 13), ("split_usps", 5), ("split_cifar100", 10)]
)
def test_shipped_benchmarks_train(gr_run, monkeypatch, benchmark, tasks):
    write_mnist(Path("data"), "KMNIST")
    write_emnist(Path("data"), "letters")
    write_usps(Path("data"))
    write_cifar(Path("data"), fine=True, classes=100)
    publish(monkeypatch, datasets.CIFAR100, Path("data"))
    words = ("data_root=data", "download=false", "strategy=finetune", "train.iterations=1", "threads=1")
    code, _, err = gr_run(f"benchmark={benchmark}", *words, "model.hidden_sizes=[8]")
    assert code == 0, err
    (table,) = Path(f"outputs/{benchmark}/finetune").glob("*/accuracy_matrix.csv")
    assert len(table.read_text().splitlines()) == tasks + 1


def test_files_changed_with_the_same_size_and_time_are_read_again():
    write_mnist(Path("data"), "MNIST")
    file = Path("data/MNIST/raw/train-images-idx3-ubyte")
    times = file.stat().st_mtime_ns
    for shade in range(5):
        content = file.read_bytes()
        file.write_bytes(content[:16] + bytes([shade] * 30) + content[46:])
        os.utime(file, ns=(times, times))
        assert read("MNIST").train.x[0].unique().tolist() == [shade]


def test_runs_share_the_loaded_samples():
    write_usps(Path("data"))
    first, second = (split(Torchvision("USPS", "data"), seed=seed) for seed in (0, 1))
    assert first.tasks[0].train.store is second.tasks[0].train.store
