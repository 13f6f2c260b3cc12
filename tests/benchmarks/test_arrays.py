"""Arrays of one's own, in memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch.utils.data import DataLoader, TensorDataset

from gr_cli.benchmarks import Arrays, Tensors, split
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.benchmarks.sources.load import load_dataset
from gr_cli.errors import ConfigError, DataError
from helpers.array_files import BOTH, RNG, X_TEST, Y_TEST, X, Y, write


@pytest.mark.parametrize("form", ["npz", "compressed npz", "pt", "tuple", "folder"])
def test_a_training_and_a_test_part(form):
    data = load_dataset(Arrays(**write(form, BOTH)))
    assert data.train.x.shape == (20, 1, 4, 5) and data.train.x.dtype == torch.uint8
    assert np.array_equal(data.train.x[:, 0], X) and np.array_equal(data.test.x[:, 0], X_TEST)
    assert data.train.y.tolist() == Y.tolist() and data.test.y.tolist() == Y_TEST.tolist()
    assert data.classes == ("0", "1", "2", "3") and data.spec.value_range == (0.0, 1.0)


@pytest.mark.parametrize("form", ["npz", "pt", "tuple", "folder", "pair"])
def test_without_a_test_part_a_share_is_held_out(form):
    data = load_dataset(Arrays(**write(form, {"x": X, "y": Y}), test_share=0.4))
    assert torch.bincount(data.test.y).tolist() == [2] * 4 and torch.bincount(data.train.y).tolist() == [3] * 4
    rows = {x.numpy().tobytes() for part in (data.train, data.test) for x in part.x}
    assert rows == {x.tobytes() for x in X}
    for part in (data.train, data.test):
        for x, y in zip(part.x, part.y, strict=True):
            assert Y[[x.numpy().tobytes() == row.tobytes() for row in X]] == y


def made(x: object, y: object = Y, **settings) -> Dataset:
    return load_dataset(Tensors(x, y, x, y, **settings))


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((20, 7), (7,)),
        ((20, 4, 5), (1, 4, 5)),
        ((20, 3, 8, 9), (3, 8, 9)),
        ((20, 8, 9, 3), (3, 8, 9)),
        ((20, 8, 9, 1), (1, 8, 9)),
        ((20, 3, 1, 3), None),
        ((20, 4, 8, 8), None),
        ((20,), None),
        ((20, 1, 1, 1, 1), None),
    ],
)
def test_shapes(shape, found):
    x = RNG.random(shape, dtype=np.float32)
    if found is None:
        with pytest.raises((ConfigError, DataError), match=r"layout=auto: can't determine|they must be images"):
            made(x)
        return
    data = made(x)
    assert data.train.x.shape[1:] == found
    moved = np.moveaxis(x, -1, 1) if x.ndim == 4 and shape[-1] in (1, 3) else x
    assert np.array_equal(data.train.x.numpy().reshape(20, -1), moved.reshape(20, -1))


def test_explicit_layout():
    x = RNG.random((20, 4, 8, 8), dtype=np.float32)
    assert made(x, layout="NCHW").train.x.shape[1:] == (4, 8, 8)
    assert made(x, layout="NHWC").train.x.shape[1:] == (8, 4, 8)


def test_types_of_values():
    x = RNG.random((20, 7))
    assert made(x).train.x.dtype == torch.float32
    assert made(x.astype(np.float16)).spec.value_range == (0.0, 1.0)
    assert made(x.astype(">f8")).train.x.shape == (20, 7)  # the other byte order
    whole = made((x * 255).astype(np.int64))
    assert whole.train.x.dtype == torch.uint8 and whole.spec.value_range == (0.0, 1.0)
    for flags in (x > 0.5, (x > 0.5).astype(np.uint8)):
        values, _ = made(flags).train.batch(torch.arange(20))
        assert values.unique().tolist() == [0.0, 1.0]
    with pytest.raises(DataError, match="its training samples are complex numbers, and must be real numbers"):
        made(x.astype(complex))
    with pytest.raises(DataError, match="has whole numbers for training or testing, and floats for the other"):
        load_dataset(Tensors(x, Y, X.reshape(20, -1), Y))


def test_ranges_of_values(capsys):
    x = 10 * RNG.standard_normal((20, 7)) + 50
    data = made(x)
    assert data.spec.value_range is None
    assert "are used unchanged; consider benchmark.source.standardise=true or value_range=" in capsys.readouterr().err
    data = made(x, value_range=[0, 100])
    assert data.spec.value_range == (0.0, 1.0)
    assert np.allclose(data.train.x, x / 100, atol=1e-6)
    with pytest.raises(ConfigError, match=r"value_range=\[0, 10\]: values lie in \["):
        made(x, value_range=[0, 10])
    with pytest.raises(ConfigError, match=r"value_range=\[5, 1\]: must be \[low, high\]"):
        made(x, value_range=[5, 1])
    assert made(RNG.random((20, 7)), value_range=None).spec.value_range is None
    assert capsys.readouterr().err == ""


def test_standardising_uses_statistics_of_the_training_set():
    x, far = 3 * RNG.standard_normal((20, 3, 4, 4)) + 5, 1000 + RNG.standard_normal((20, 3, 4, 4))
    x[:, 2] = 7.0  # a channel that never changes
    data = load_dataset(Tensors(x, Y, far, Y, standardise=True))
    assert data.spec.value_range is None
    mean, deviation = x.mean((0, 2, 3), keepdims=True), x.std((0, 2, 3), keepdims=True)
    deviation[deviation == 0] = 1
    assert np.allclose(data.train.x, (x - mean) / deviation, atol=1e-5)
    assert np.allclose(data.test.x, (far - mean) / deviation, rtol=1e-4)
    shared = load_dataset(Tensors(x, Y, standardise=True))
    assert shared.train.store is shared.test.store
    assert shared.train.x[:, :2].mean((0, 2, 3)).abs().max() < 1e-5
    with pytest.raises(ConfigError, match="standardise=true: makes values unbounded"):
        made(x, standardise=True, value_range=[0, 1])
    # The scale of bytes makes no difference.
    assert torch.allclose(made(X, standardise=True).train.x, made(X / 255, standardise=True).train.x, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([10, -2, 7, 300], ("-2", "7", "10", "300")),
        (["pear", "fig", "apple", "fig tree"], ("apple", "fig", "fig tree", "pear")),
        ([b"b", b"a", b"d", b"c"], ("a", "b", "c", "d")),
    ],
)
def test_labels_of_any_type_become_integers_in_sorted_order(labels, names):
    y = np.array(labels)[Y]
    data = made(X, y)
    assert data.classes == names
    texts = [name.decode() if isinstance(name, bytes) else str(name) for name in y.tolist()]
    assert [names[label] for label in data.train.y] == texts
    assert made(X, y.reshape(20, 1)).train.y.tolist() == data.train.y.tolist()
    assert made(X, y.tolist()).classes == names


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, Y[:-1], "has 20 training samples, but 19 training labels"),
        (X, Y + 0.5, "labels must be whole numbers or texts, not 0.5"),
        (X, np.eye(20) / 2, r"labels must have the shape \(N,\), or be one-hot rows \(N, K\), not \(20, 20\)"),
        (X[:0], Y[:0], r"samples have shape \(0, 4, 5\), which is empty"),
        (X[:8] * np.float32("nan"), Y[:8], "8 of its 8 training samples hold NaN"),
        (["a"] * 20, Y, "its training samples are texts, and must be real numbers"),
        ([["a", 1]] * 20, Y, "its training samples are texts"),
        ([[1.0, 2.0], [3.0]] * 10, Y, "its training samples differ in shape"),
        (
            torch.nested.nested_tensor([torch.rand(3), torch.rand(4)], layout=torch.jagged),
            Y,
            "are a nested tensor of several shapes",
        ),
        (torch.empty(20, 3, device="meta"), Y, "are a tensor without values"),
        (np.ma.array(X, mask=X > 9), Y, "samples are masked in part"),
        (X.astype("M8[s]"), Y, "its training samples are dates"),
        (X * 1e39, Y, r"values lie in \[0, 2.*e\+41\], beyond the 32-bit floats"),
        (1e9 + X[:, 0] / 300, Y, "which differ too little for the 32-bit floats"),
        (X[:9], np.array([0, 1] * 4 + [7]), "has one sample of 7, and needs two of each class"),
        (X, np.where(Y == 0, np.nan, Y), "5 of its training labels are NaN or infinite"),
        (X, (torch.tensor(Y) + 256).bfloat16(), "whole numbers from 256 on can't be distinguished"),
        (X, np.array(["a", None, "c", "d"], object)[Y], r"labels are of several types, missing \(None\), str"),
        (X, ["a", 1, "c", 2] * 5, "labels are of several types, int, str"),
        (X, np.ma.array(Y, mask=Y == 1), "labels are masked in part"),
        (X, Y.astype("M8[D]"), "labels are dates, and must be whole numbers or texts"),
    ],
)
def test_invalid_arrays_are_one_line(x, y, message):
    with pytest.raises(DataError, match=message) as error:
        load_dataset(Tensors(x, y))
    assert "\n" not in str(error.value)


WIDE = RNG.integers(0, 4096, (20, 6))
WIDE[0, 0] = 4095
WHOLE = [*(WIDE.astype(kind) for kind in ("u2", "u4", "u8", "i4", ">u2")), torch.tensor(WIDE).to(torch.uint16)]


@pytest.mark.parametrize("x", [*WHOLE, torch.tensor(WIDE).to(torch.uint64)], ids=lambda x: str(x.dtype))
def test_whole_numbers_of_any_type(x):
    assert np.array_equal(made(x).train.x, WIDE.astype(np.float32)) and made(x).spec.value_range is None
    scaled = made(x, value_range=[0, 4095])
    assert scaled.spec.value_range == (0.0, 1.0) and np.array_equal(scaled.train.x, (WIDE / 4095).astype(np.float32))
    small = np.asarray(x) // 16
    assert made(small).train.x.dtype == torch.uint8 and np.array_equal(made(small).train.x, WIDE // 16)
    # One scale for training and testing: bytes only if both are.
    assert load_dataset(Tensors(small, Y, x, Y)).train.x.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_other_forms_of_the_same_samples():
    x = RNG.random((20, 6)).astype(np.float32)
    wanted, sparse = made(x).train.x, torch.tensor(x).to_sparse()
    for given in (
        sparse,
        sparse.to_sparse_csr(),
        csr_matrix(x),
        x.astype(object),
        x.astype(">f8"),
        x.astype(np.longdouble),
        x.tolist(),
    ):
        assert torch.equal(made(given).train.x, wanted)
    for kind in (torch.bfloat16, torch.float16, torch.float8_e4m3fn):
        assert torch.equal(made(torch.tensor(x).to(kind)).train.x, torch.tensor(x).to(kind).float())
    huge = torch.sparse_coo_tensor(torch.tensor([[0], [5]]), torch.tensor([1.0]), (20, 10**12), check_invariants=True)
    with pytest.raises(DataError, match=r"are sparse, and \(20, 1000000000000\) values in full take .* GiB"):
        made(huge)


LABELS = [
    *(Y.astype(kind) for kind in ("u2", "u4", "u8", ">i4", "f8", "f2", object)),
    *(torch.tensor(Y).to(kind) for kind in (torch.uint16, torch.uint64, torch.bfloat16, torch.float16)),
    *(np.eye(4)[Y], torch.eye(4)[torch.tensor(Y)].to_sparse(), csr_matrix(np.eye(4)[Y]), Y[:, None], Y[:, None, None]),
]


@pytest.mark.parametrize("y", LABELS, ids=lambda y: f"{type(y).__name__} {y.dtype} {y.ndim}")
def test_labels_of_any_type_and_form(y):
    data = made(X, y)
    assert data.classes == ("0", "1", "2", "3") and data.train.y.tolist() == Y.tolist()
    assert load_dataset(Tensors(X, Y, X, y)).classes == data.classes


def test_texts_as_labels():
    names = np.array(["a", "b", "c", "d"])
    for y in (names[Y].astype(object), names.astype(bytes)[Y].astype(object), names.astype(np.dtypes.StringDType())[Y]):
        assert made(X, y).classes == ("a", "b", "c", "d")
    # Invalid UTF-8 stays distinct; normal forms of one text become equal.
    assert made(X, np.array([b"\xff", b"\xfe", b"c", b"d"])[Y]).classes == (r"\xfe", r"\xff", "c", "d")
    assert made(X, np.array(["\u00e9", "e\u0301", "c", "d"])[Y]).classes == ("c", "d", "\u00e9")
    assert made(X, Y.astype("u8") + 2**63).classes[0] == str(2**63)


def test_standardising_is_exact_far_from_0():
    x = RNG.random((20, 6))
    wanted = (x - x.mean(0)) / x.std(0)
    for given, tolerance in (
        (x * 1e39, 1e-6),
        (x * 1e-60, 1e-6),
        (1e9 + x, 1e-5),
        (x.astype(np.float32) * np.float32(1e38), 1e-5),
    ):
        assert np.abs(made(given, standardise=True).train.x.numpy() - wanted).max() < tolerance
    x[3, 2] = np.nan
    with pytest.raises(DataError, match="1 of its 20 training samples hold NaN or infinity, the first at index 3"):
        made(x, standardise=True)


def test_loaded_samples_are_copies():
    x = X.copy()
    data = made(x)
    x[:] = 0
    assert np.array_equal(data.train.x[:, 0], X)


def test_names_of_classes_are_of_a_bounded_length_without_control_characters(gr_run):
    names = np.array(["a" * 100_000, "a" * 99_999 + "b", "\x1b[31mred\x07", "two\nlines"])
    np.savez("set.npz", x=X, y=names[Y])
    classes = load_dataset(Arrays("set.npz")).classes
    assert len(set(classes)) == 4 and max(map(len, classes)) <= 60 and all(name.isprintable() for name in classes)
    assert classes[0] == r"\x1b[31mred\x07" and classes[3] == r"two\nlines" and classes[1][:50] == "a" * 50
    words = ("benchmark=arrays", "benchmark.source.path=set.npz", "threads=1", "strategy=finetune")
    code, out, err = gr_run(*words, "train.iterations=1", "model.hidden_sizes=[4]")
    assert code == 0 and "\x1b" not in out + err and "a" * 61 not in out + err
    assert all(b"a" * 61 not in file.read_bytes() for file in Path("outputs").rglob("*.*") if file.is_file())
    code, _, err = gr_run(*words, "benchmark.class_order=[1,2,3,4]")
    assert code == 2 and len(err) < 500
    np.savez("set.npz", x=X, y=np.where(np.arange(20) == 19, names[0], names[2]))
    with pytest.raises(DataError, match=r"has one sample of a{51}") as error:
        load_dataset(Arrays("set.npz"))
    assert len(str(error.value)) < 300


def test_messages_count_further_names():
    y = np.concatenate([np.arange(17), np.zeros(3, int)])
    with pytest.raises(DataError, match="has one sample of 1, 2, 3, 4, 5 and 11 more, and needs two"):
        load_dataset(Tensors(X, y))


def test_settings_may_be_scalars_of_numpy():
    settings = {"test_share": np.float64(0.2), "test_seed": np.int64(3), "value_range": [0, np.float64(255)]}
    assert torch.equal(load_dataset(Tensors(X, Y, **settings)).test.x, load_dataset(Tensors(X, Y, test_seed=3)).test.x)
    first, second = (split(Tensors(X, Y), seed=seed, class_order="shuffled") for seed in (5, np.int64(5)))
    assert [task.name for task in first.tasks] == [task.name for task in second.tasks]


@pytest.mark.parametrize("generator", ["vae", "mixture"])
def test_a_run_from_the_command_line_on_vectors(gr_run, generator):
    x = RNG.standard_normal((80, 6)) + Y.repeat(4)[:, None]
    np.savez("set.npz", x=x, y=np.array(["a", "b", "c", "d"])[Y.repeat(4)])
    words = ("benchmark=arrays", "benchmark.source.path=set.npz", "benchmark.source.standardise=true")
    code, _, err = gr_run(*words, f"generator={generator}", "train.iterations=3", "threads=1")
    assert code == 0, err
    assert list(Path("outputs/arrays").glob("*/*/accuracy_matrix.csv"))


def test_trainer_trains_on_tensors():
    from gr_cli import ContinualTrainer, SimpleMLP

    stream = split(Tensors(torch.from_numpy(X), torch.from_numpy(Y)), seed=0, classes_per_task=2)
    trainer = ContinualTrainer(SimpleMLP(20, [8], 4))
    for task in stream.tasks:
        x, y = task.train.batch(torch.arange(len(task.train)))
        loader = DataLoader(TensorDataset(x, y + 2 * task.id), batch_size=4)
        found = trainer.train_task(train_loader=loader, val_loader=loader, task_id=task.id)
    assert set(found) == {0, 1}


def test_bad_sample_is_named_by_its_index_in_the_file():
    x = RNG.random((40, 4, 5), dtype=np.float32)
    for place in (3, 5, 39):
        bad = x.copy()
        bad[place, 0, 0] = np.nan
        np.savez("set.npz", x=bad, y=np.arange(40) % 4)
        with pytest.raises(DataError, match=f"the first at index {place};"):
            load_dataset(Arrays("set.npz"))


NAMES = ["[/b]", "[h]", "$x^{$", r"$\frac$", "a$b$c", "5$ note", "日本", "plain"]


def test_class_names_are_shown_unchanged(gr_run):
    """Class names are drawn without markup and formulas, so that titles never fail."""
    np.savez("set.npz", x=RNG.random((80, 6, 6), dtype=np.float32), y=np.array(NAMES)[np.arange(80) % 8])
    words = ("benchmark=arrays", "benchmark.source.path=set.npz", "train.iterations=2", "threads=1")
    code, out, err = gr_run(*words, "strategy=finetune", "model.hidden_sizes=[4]")
    assert (code, err) == (0, "")
    assert all(name in out for name in NAMES)
    assert "[/b]" in out.partition("test accuracy (%)")[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value_range": "atuo"}, "^value_range=atuo: must be auto or null or a list of 2 numbers"),
        ({"value_range": [0]}, r"^value_range=\[0\]: must be auto or null or a list of 2 numbers"),
        ({"layout": "NWHC"}, "^layout=NWHC: must be one of auto, NCHW, NHWC"),
        ({"test_share": 2.0}, r"^test_share=2\.0: must be a number > 0 and < 1"),
        ({"standardise": "no"}, "^standardise=no: must be true or false"),
    ],
)
def test_misspelt_arguments_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        Tensors(X, Y, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_order": "shufled"}, "^class_order=shufled: must be one of fixed, shuffled or a list"),
        ({"classes_per_task": 0}, "^classes_per_task=0: must be a whole number ≥ 1"),
        ({"classes_per_task": "2"}, '^classes_per_task="2": must be a whole number ≥ 1'),
        ({"task_overlap": 1.5}, r"^task_overlap=1\.5: must be a number ≥ 0 and < 1"),
    ],
)
def test_a_misspelt_argument_of_a_stream_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        split(Tensors(X, Y), seed=0, **settings)
    assert len(split(Tensors(X, Y), seed=0, classes_per_task=np.int64(2)).tasks) == 2
