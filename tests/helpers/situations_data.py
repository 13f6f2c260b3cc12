"""Messages about data that are missing, broken, or don't fit the run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch

from gr_cli.benchmarks import (
    Arrays,
    ImageFolder,
    Tensors,
    Torchvision,
    permuted,
    split,
)
from gr_cli.benchmarks.base import Samples
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.benchmarks.sources.load import load_dataset
from gr_cli.benchmarks.streams.split import _class_counts
from helpers import small_mnist
from helpers.bad_data import BROKEN, BROKEN_FILES, Given, NoSource, of_rows, sound
from helpers.image_files import colour16, folder, put, read
from helpers.situations import Hands, Situation, Table, failing, mistake, typed
from helpers.small_mnist import IMAGES
from helpers.small_sets import write_cifar

DENIED = PermissionError(13, "Permission denied")
X, Y = np.random.default_rng(0).random((20, 4, 5)), np.arange(20) % 4
ROWS = X[:, 0, :2]


# --- sources


def arrays(*given: Any, **files: Any) -> Situation:
    """Read arrays from `files` with these names."""

    def do(hands: Hands) -> object:
        for name, content in files.items():
            file = name.replace("_", ".")
            np.savez(file, **content) if file.endswith(".npz") else torch.save(content, file)
        return load_dataset(Arrays(*given))

    return do


def a_folder_without_arrays(hands: Hands) -> object:
    Path("set").mkdir()
    return load_dataset(Arrays("set"))


def load_mapped(x: np.ndarray, **settings: Any) -> Dataset:
    """Load memory-mapped samples."""
    np.save("x.npy", x)
    np.save("y.npy", Y)
    return load_dataset(Arrays("x.npy", "y.npy", storage="mapped", **settings))


def joint_training_on_mapped_tasks(hands: Hands) -> object:
    source = Given(load_mapped(np.uint8(X * 255)))
    return Samples.concatenate([task.train for task in permuted(source, 0, tasks=2).tasks])


def arrays_that_may_not_be_read(hands: Hands) -> object:
    hands.monkeypatch.setattr("numpy.load", failing(DENIED))
    return arrays("set.npz", set_npz={"x": X, "y": Y})(hands)


def tensors(*given: Any, **settings: Any) -> Situation:
    return lambda hands: load_dataset(Tensors(*given, **settings))


def a_nested_tensor(hands: Hands) -> object:
    return load_dataset(Tensors(torch.nested.nested_tensor([torch.rand(3), torch.rand(4)], layout=torch.jagged), Y))


def a_huge_sparse_tensor(hands: Hands) -> object:
    return load_dataset(Tensors(torch.sparse_coo_tensor([[0], [5]], [1.0], (20, 10**12), check_invariants=True), Y))


def images(change: Callable[[], object] = lambda: None, **settings: Any) -> Situation:
    """Read a folder of images after a change."""

    def do(hands: Hands) -> object:
        folder()
        change()
        return read(**settings)

    return do


def of_greys(image: np.ndarray, **settings: Any) -> Situation:
    """Read a folder of images, one of which has these grey values."""
    return images(lambda: put("images/test/cat/0.tif", image), **settings)


def images_of_16_bits(hands: Hands) -> object:
    return images(lambda: colour16("images/test/cat/0.png", np.full((6, 5, 3), 300)))(hands)


def an_empty_folder(hands: Hands) -> object:
    Path("images").mkdir()
    return read()


def of_ones_own(fault: str) -> Situation:
    """A user's source that returns the invalid data of this name in `bad_data`."""
    return lambda hands: load_dataset(Given(BROKEN[fault][0]()))


def no_file(hands: Hands) -> object:
    class Mine:
        def load(self) -> Dataset:
            return BROKEN["no file"][0]()

    return load_dataset(Mine())


# --- sets of torchvision


def mnist(fault: str) -> Situation:
    """A small MNIST with a broken file, by its name in `bad_data`."""

    def do(hands: Hands) -> object:
        name, content, _ = BROKEN_FILES[fault]
        (small_mnist.write(Path("data")) / name).write_bytes(content)
        return load_dataset(Torchvision("MNIST", "data", download=False))

    return do


def mnist_with_a_folder(hands: Hands) -> object:
    file = small_mnist.write(Path("data")) / IMAGES
    file.unlink()
    file.mkdir()
    return load_dataset(Torchvision("MNIST", "data", download=False))


def mnist_that_may_not_be_read(hands: Hands) -> object:
    (small_mnist.write(Path("data")) / IMAGES).write_bytes(b"")
    hands.monkeypatch.setattr(Path, "open", failing(DENIED))
    return load_dataset(Torchvision("MNIST", "data", download=False))


def cifar(hands: Hands) -> object:
    """A data set in the format of CIFAR-10 that is not the published one."""
    write_cifar(Path("data"), fine=False, classes=10)
    return load_dataset(Torchvision("CIFAR10", "data", download=False))


def cifar_with_a_folder(hands: Hands) -> object:
    write_cifar(Path("data"), fine=False, classes=10)
    file = Path("data/cifar-10-batches-py/data_batch_1")
    file.unlink()
    file.mkdir()
    return load_dataset(Torchvision("CIFAR10", "data", download=False))


def cifar_that_may_not_be_read(hands: Hands) -> object:
    hands.monkeypatch.setattr("torchvision.datasets.utils.check_integrity", failing(DENIED))
    return cifar(hands)


def no_network(hands: Hands) -> object:
    hands.monkeypatch.setattr("urllib.request.urlopen", failing(URLError("there is no network")))
    return load_dataset(Torchvision("MNIST", "data"))


def no_scipy(hands: Hands) -> object:
    """Hides an installed SciPy."""
    hands.monkeypatch.setattr("gr_cli.benchmarks.sources.torchvision.find_spec", lambda name: None)
    return load_dataset(Torchvision("SVHN", "data"))


DATA: Table = {
    "benchmarks/sources/arrays.py": [
        ("must be a file of arrays", typed("benchmark=arrays")),
        ("{}: holds {}, and no {}", arrays("set.npz", set_npz={"images": X, "labels": Y})),
        ("is a folder without x.npy", a_folder_without_arrays),
        ("must be texts, one for each column", arrays("set.npz", set_npz={"x": ROWS, "y": Y, "columns": Y})),
        ("must be a file .npz, .npy or .pt", arrays("table.csv")),
        ("must name the .npy file", arrays("x.npy")),
        ("is for .npy files alone", arrays("set.npz", "y.npy")),
        ("{}: {}; name a file that holds", arrays("nowhere.npz")),
        ("holds an object of type", arrays("set.pt", set_pt=3)),
        ("{}: {}; write it anew", arrays("set.pt", set_pt=Path())),
        ("is a sparse matrix of SciPy", arrays("set.npz", set_npz={"data": X, "format": b"csr", "shape": (20, 20)})),
        ("holds x and x_train", arrays("set.npz", set_npz={"x": X, "y": Y, "x_train": X})),
        ("differ only in case", arrays("set.npz", set_npz={"x": X, "y": Y, "X": X})),
    ],
    "benchmarks/sources/array_conversion.py": [
        ("and must be real numbers", tensors(["a"] * 20, Y)),
        ("be one-hot rows", tensors(X, np.eye(20) / 2)),
        ("and must be whole numbers or texts", tensors(X, Y.astype("M8[D]"))),
        ("are of several types", tensors(X, ["a", 1] * 10)),
        ("are NaN or infinite", tensors(X, Y * np.nan)),
        ("must be whole numbers or texts, not {}", tensors(X, Y + 0.5)),
        ("so few digits", tensors(X, np.float16(Y) + 4096)),
        ("are masked in part", tensors(np.ma.array(X, mask=X > 0.5), Y)),
        ("differ in shape", tensors([[1, 2], [3]] * 10, Y)),
        ("are a nested tensor", a_nested_tensor),
        ("without values", tensors(torch.empty(20, 3, device="meta"), Y)),
        ("are sparse, and", a_huge_sparse_tensor),
    ],
    "benchmarks/base.py": [
        ("joint training on transformed tasks", joint_training_on_mapped_tasks),
        ("benchmark.validation_share=", mistake("benchmark.validation_share=0.001")),
    ],
    "benchmarks/streams/task_overlap.py": [
        ("exchanges samples between tasks", typed("benchmark.task_overlap=0.1 benchmark.classes_per_task=10")),
    ],
    "benchmarks/features/patches.py": [
        ("benchmark.features.patch_size", typed("benchmark/features=patches benchmark.features.patch_size=9")),
        ("patches along a side", typed("benchmark/features=patches benchmark.features.grid=4")),
        ("patches for each filter", typed("benchmark/features=patches benchmark.features.num_filters=1000")),
    ],
    "benchmarks/features/output.py": [
        ("benchmark.features.components", typed("benchmark/features=conv_random benchmark.features.components=999")),
    ],
    "benchmarks/sources/image_decoding.py": [
        ("holds negative values", of_greys(np.full((4, 4), -5, np.int32))),
        ("holds floating-point values", of_greys(np.full((4, 4), 1.5, np.float32))),
        ("which takes {} bits", of_greys(np.full((4, 4), 300, np.uint16), bits=8)),
        ("images of 16 bits a channel", images_of_16_bits),
    ],
    "benchmarks/sources/image_folder.py": [
        ("must be a folder that holds a folder", lambda hands: ImageFolder()),
    ],
    "benchmarks/sources/image_cache.py": [
        ("images can't be decoded", images(lambda: Path("images/test/cat/0.png").write_bytes(b"no image"))),
    ],
    "benchmarks/sources/mapped_arrays.py": [
        ("can't be trained on where they lie", lambda hands: load_mapped(X)),
        ("needs a changed copy", lambda hands: load_mapped(X.astype(np.float32), standardise=True)),
    ],
    "system/array_files.py": [
        ("{}, and there is less", images(size=1_000_000, storage="memory")),
        ("GiB are free there", images(size=1_000_000)),
    ],
    "benchmarks/sources/image_listing.py": [
        ("{}: {} {}; name a folder", lambda hands: read()),
        ("holds no images in folders", an_empty_folder),
        ("holds two folders called", images(lambda: folder(("train",), ("\u00e9", "e\u0301")))),
        ("none of these is called test or val", images(lambda: Path("images/test").rename("images/later"))),
        ("images of one class only", images(lambda: Path("images").rename("cats") and folder(("",), ("cat",)))),
        ("class {} has {} image{}, and needs", images(lambda: Path("images/test/cat").rename("cats"))),
    ],
    "benchmarks/streams/rotated.py": [
        ("would rotate two tasks alike", typed("benchmark=rotated_digits benchmark.span=0")),
        ("must name at least one angle", typed("benchmark=rotated_digits benchmark.angles=[0,360]")),
        ("can't be combined with", typed("benchmark=rotated_digits benchmark.angles=[0,9] benchmark.tasks=3")),
    ],
    "benchmarks/streams/repetitions.py": [
        ("training samples; try fewer repetitions", lambda hands: split(Given(sound()), 0, repetitions=6)),
    ],
    "benchmarks/sources/validation.py": [
        ("validate", of_ones_own("constant"), "benchmark.source=Given: all its 20 training samples are the same"),
        ("its classes must be names", of_ones_own("classes of numbers")),
        ("its training samples have the shape", of_ones_own("another shape")),
        ("part is of type {}, not Samples", of_ones_own("no samples")),
        ("must be a tensor, not of type", of_ones_own("numpy")),
        ("samples must be uint8 or floating-point", of_ones_own("whole numbers")),
        ("must be whole numbers of type int64", of_ones_own("labels of fractions")),
        ("must have the shape (N,), not", of_ones_own("labels in a table")),
        ("must have the shape (N, ...)", of_ones_own("scalars")),
        ("it has {} {} samples, but {} {} labels", of_ones_own("labels too few")),
        ("it has no {} samples", of_ones_own("no training samples")),
        ("index must lie in 0 to", of_ones_own("an index too far")),
        ("labels are not among 0 to", of_ones_own("labels too large")),
        ("it has no {} samples of", of_ones_own("no training class")),
        ("hold NaN or infinity", of_ones_own("not a number")),
        ("not in its value_range", of_ones_own("above the range")),
        ("must be a SampleSpec of the shape", of_ones_own("another specification")),
        ("that are no one-hot codes", of_ones_own("no codes")),
        ("samples are the same", of_ones_own("constant")),
    ],
    "benchmarks/sources/idx.py": [
        ("is empty", mnist("empty")),
        ("can't be opened", mnist_that_may_not_be_read),
        ("is a folder, not a file", mnist_with_a_folder),
        ("is compressed", mnist("compressed")),
        ("does not begin as an IDX file", mnist("garbage")),
        ("is cut short: {} bytes", mnist("cut in the header")),
        ("bytes instead of", mnist("labels too long")),
        ("holds nothing: its shape is", mnist("no images")),
    ],
    "benchmarks/sources/load.py": [
        ("has no load()", lambda hands: load_dataset(NoSource())),
        ("can't be read", no_file),
        ("two of its classes have the same name", of_ones_own("a class twice")),
        ("its load() returned an object of type", of_ones_own("no data")),
    ],
    "benchmarks/streams/split.py": [
        ("must be 1: there is a single class", lambda hands: _class_counts(2, 1)),
        ("must divide the {} classes", mistake("benchmark.classes_per_task=3")),
        ("must add up to the {} classes", typed("benchmark.classes_per_task=[5,3]")),
        ("must name each class once", typed("benchmark.class_order=[1,1]")),
        ("is neither the name of a class", typed("benchmark.class_order=[one]")),
    ],
    "benchmarks/sources/categories.py": [
        ("are of vectors", tensors(X, Y, categories=[0])),
        ("must name each column at most once", tensors(ROWS, Y, categories=[0, [0, 1]])),
        ("a number from 0 to", tensors(ROWS, Y, categories=[2])),
        ("are no one-hot code", tensors(ROWS, Y, categories=[[0, 1]])),
        ("is no category", tensors(ROWS, Y, categories=[0])),
    ],
    "benchmarks/sources/tensors.py": [
        ("names of columns", tensors(ROWS, Y, columns=["height"])),
        ("is for arrays of three axes", tensors(ROWS, Y, layout="NCL")),
        ("test samples need labels", tensors(X, Y, X)),
        ("samples, but {} {} labels", tensors(X, Y[1:])),
        ("has whole numbers for training or testing", tensors(X, Y, np.uint8(X), Y)),
        ("must be [low, high]", tensors(X, Y, value_range=[1, 0])),
        ("makes values unbounded", tensors(X, Y, value_range=[0, 1], standardise=True)),
        ("has one sample of {}, and needs two", tensors(X[:5], Y[:5])),
        ("hold NaN or infinity", tensors(X * np.nan, Y)),
        ("32-bit floats that are trained on", tensors(X * 1e39, Y)),
        ("must be images (N, H, W)", tensors(X[:0], Y[:0])),
        ("can't determine the channels", tensors(X.reshape(20, 2, 5, 2), Y)),
        ("name a range that holds them", tensors(X, Y, value_range=[0.4, 0.6])),
        ("has labels of numbers and of texts", tensors(X, Y, X, Y.astype(str))),
    ],
    "benchmarks/streams/transforms.py": [
        ("tasks need images", lambda hands: permuted(Given(of_rows()), 0)),
    ],
    "benchmarks/sources/torchvision.py": [
        ("benchmark.source.split={}: must be one of", lambda hands: Torchvision("EMNIST", "data")),
        ("has no splits", lambda hands: Torchvision("MNIST", "data", split="letters")),
        ("is read by scipy", no_scipy),
        ("can't be read there", mnist("garbage")),
        ("or download=true", mistake("benchmark=split_mnist download=false data_root=nowhere")),
        ("could not be downloaded", no_network),
        ("is a folder, not a file", cifar_with_a_folder),
        ("has not the checksum", cifar),
        ("can't be opened", cifar_that_may_not_be_read),
    ],
}  # fmt: skip
