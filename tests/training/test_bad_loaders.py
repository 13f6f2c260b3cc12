"""Invalid batches from loaders of the Python API are refused before training."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from gr_cli import ContinualTrainer, SimpleMLP
from gr_cli.errors import DataError
from gr_cli.training.loaders import read_batch
from helpers.loaders import REPLAY, holding, loader, make_trainer


@pytest.mark.parametrize("strategy", [None, REPLAY], ids=["finetune", "generative_replay"])
@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": holding(float("nan"))}, "samples hold NaN or infinity; remove or repair them"),
        ({"x": holding(float("inf"))}, "samples hold NaN or infinity; remove or repair them"),
        ({"x": 1e300 * (1 + holding(0.0).double())}, "samples hold NaN or infinity; remove or repair them"),
        ({"y": torch.tensor([0, 1, 2, 4])}, r"labels must be whole numbers from 0 to 3, .* got \[0, 1, 2, 4\]"),
        ({"y": torch.tensor([0, 1, 2, -1])}, r"labels must be whole numbers from 0 to 3, .* got \[-1, 0, 1, 2\]"),
        ({"y": torch.tensor([0.0, 1.0, 2.5, 1.0])}, "labels must be whole numbers"),
        ({"x": torch.rand(0, 6), "y": torch.arange(0)}, r"a batch is empty, its x is \(0, 6\); leave it out"),
    ],
)  # fmt: skip
def test_invalid_batch_names_the_loader_and_adds_no_task(strategy, batches, changes, message):
    trainer = make_trainer(strategy)
    with pytest.raises(DataError, match=f"train_loader: {message}"):
        trainer.train_task(loader(batches, **changes))
    assert trainer.accuracy_matrix == []
    # A refused batch leaves no state behind, such as a generator for unbounded values.
    assert trainer.train_task(loader(), loader())[0] >= 0
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    if strategy:
        drawn = trainer.generator_model.generate(5, device="cpu")
        assert drawn.min() >= 0 and drawn.max() <= 1


def test_invalid_validation_batch_names_its_loader():
    trainer = make_trainer()
    with pytest.raises(DataError, match="val_loader of task 5: samples hold NaN or infinity"):
        trainer.train_task(loader(), loader(x=holding(float("nan"))), task_id=5)


@pytest.mark.parametrize("empty", [[], iter(())])
def test_empty_loader_is_refused(empty):
    trainer = make_trainer()
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    with pytest.raises(DataError, match="train_loader: task 0 has no batch"):
        trainer.train_task(empty)
    with pytest.raises(DataError, match="val_loader of task 0: has no batch"):
        trainer.train_task(loader(), [])
    # Raised before training.
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


def test_integer_and_byte_samples():
    for x in (torch.randint(0, 256, (4, 6), dtype=torch.uint8), torch.rand(4, 6).double(), torch.rand(4, 6).numpy()):
        make_trainer(REPLAY).train_task([(x, torch.arange(4))] * 2)


# --- batch formats


X = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)).half().float()  # exact in half precision
WHOLE = torch.arange(24).view(4, 6)
Y = torch.arange(4)


class Sparse:
    """What a sparse matrix of scipy answers."""

    def __init__(self, values):
        self.shape, self.toarray = values.shape, lambda: values


SAMPLES = {
    "half": (X.half(), X),
    "double": (X.double(), X),
    "sparse": (X.to_sparse(), X),
    "csr": (torch.eye(6)[:4].to_sparse_coo(), torch.eye(6)[:4]),
    "array": (X.numpy(), X),
    "big_endian": (X.numpy().astype(">f4"), X),
    "long_double": (X.numpy().astype(np.longdouble), X),
    "reversed": (X.numpy()[::-1], X.flip(0)),
    "read_only": (np.broadcast_to(X.numpy()[:1], (4, 6)), X[:1].expand(4, 6)),
    "numbers": (X.tolist(), X),
    "tensors": (list(X), X),
    "arrays": ([row.numpy() for row in X], X),
    "with_gradient": (X.clone().requires_grad_() * 1, X),
    "bool": (X > 0.5, (X > 0.5).float()),
    "data_frame": (pd.DataFrame(X.numpy()), X),
    "sparse_matrix": (Sparse(X.numpy()), X),
    "bytes": (WHOLE.to(torch.uint8), WHOLE / 255),
    **{
        str(dtype): (WHOLE.to(dtype), WHOLE.float())
        for dtype in (torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int64)
    },
    "bfloat16": (WHOLE.bfloat16(), WHOLE.float()),
    "uint16_array": (WHOLE.numpy().astype(">u2"), WHOLE.float()),
}
LABELS = {
    **{str(dtype): Y.to(dtype) for dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8)},
    "big_endian": Y.numpy().astype(">i8"),
    "numbers": Y.tolist(),
    "numpy_numbers": [np.int16(label) for label in Y.tolist()],
    "scalars": list(Y),
    "column": Y.unsqueeze(1),
    "sparse": Y.to_sparse(),
}


@pytest.mark.parametrize(("given", "x"), SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_of_any_numeric_type(given, x, dtype):
    read, _ = read_batch((given, Y), "train_loader", dtype)
    assert read.dtype == dtype and read.layout == torch.strided and not read.requires_grad
    torch.testing.assert_close(read, x.to(dtype), rtol=1e-6, atol=0)


@pytest.mark.parametrize("given", LABELS.values(), ids=LABELS)
def test_labels_of_any_integer_type(given):
    assert torch.equal(read_batch((X, given), "train_loader", torch.float32)[1], Y)


@pytest.mark.parametrize(
    "batch",
    [
        [X, Y],
        (X, Y, torch.zeros(4, dtype=torch.long)),
        (X, Y, 3),
        {"x": X, "y": Y},
        {"label": Y, "pixel_values": X},
        {"targets": Y, "image": X},
    ],
)
def test_unambiguous_batches(batch):
    x, y = read_batch(batch, "train_loader", torch.float32)
    assert torch.equal(x, X) and torch.equal(y, Y)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((X, Y, Y), "yields triples whose third entry is not a task label"),
        ((X, Y, torch.rand(4)), "yields triples whose third entry is not a task label"),
        ((X, Y, "name"), "yields triples whose third entry is not a task label"),
        ((X, X, Y, Y), "must yield pairs .*, not tuple of 4"),
        (torch.rand(2, 4), "must yield pairs .*, not Tensor"),
        ("ab", "must yield pairs .*, not str"),
        ({"ids": X, "mask": X, "labels": Y}, "ambiguous x and y among the entries ids, mask, labels"),
        ({"a": X, "b": Y}, "ambiguous x and y among the entries a, b"),
        ((X[0], 1), r"yields single samples; wrap the data set: DataLoader"),
        ((["one", "two", "three", "four"], Y), "its samples are texts, and must be real numbers"),
        ((X, ["cat", "dog", "cat", "dog"]), "its labels are texts, and must be real numbers"),
        ((X, torch.eye(4)), r"labels must be \(B,\), not \(4, 4\); of one-hot rows give y.argmax\(1\)"),
        ((X, Y.bfloat16()), "labels must be whole numbers"),
        ((X.to(torch.complex64), Y), "its samples are complex numbers, and must be real numbers"),
        ((np.array([1, "a", None, 2], object), Y), "its samples are objects, and must be real numbers"),
        ((None, Y), "its samples are objects, and must be real numbers"),
        (([[1.0, 2.0], [3.0], [1.0], [2.0]], Y), "its samples differ in shape"),
        (([X[0], X[1], X[2], X[3, :5]], Y), r"samples have different shapes, \(5,\) and \(6,\)|\(6,\) and \(6,\)"),
        ((np.ma.masked_less(X.numpy(), 0.5), Y), "its samples are masked in part"),
        ((X.double() * 1e300, Y), r"samples hold NaN or infinity; .*e\+299 is beyond float32"),
    ],
)
def test_ambiguous_batches_are_refused_in_one_line(batch, message):
    with pytest.raises(DataError, match=f"train_loader: {message}") as raised:
        read_batch(batch, "train_loader", torch.float32)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4), ("P", 3), ("1", 1)])
def test_pil_images_become_channels_first_in_unit_range(mode, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    x, _ = read_batch(([image] * 4, Y), "train_loader", torch.float32)
    assert x.shape == (4, channels, 4, 5)
    again = np.asarray(image.convert("RGB") if mode == "P" else image).astype("f4").reshape(4, 5, channels)
    expected = torch.from_numpy(again).permute(2, 0, 1) / (1 if mode == "1" else 255)
    torch.testing.assert_close(x[0], expected)


# --- value ranges


@pytest.mark.parametrize("last", [1.0000001, 1.0009, -0.0009])
def test_rounding_errors_outside_the_range_are_clamped(last):
    trainer = make_trainer(REPLAY)
    trainer.train_task([*loader(), (torch.full((4, 6), last), Y)], loader())
    assert trainer.generator_model.spec.value_range == (0.0, 1.0)


def test_values_outside_the_range_name_value_range():
    with pytest.raises(DataError, match=r"must lie in \[0, 1\].*not in \[1.01, 1.01\]; set value_range=.*or null"):
        make_trainer(REPLAY).train_task([*loader(), (torch.full((4, 6), 1.01), Y)])


@pytest.mark.parametrize("value_range", [None, [0, 2], [-1.0, 1.5]])
def test_stated_value_range_applies_from_the_first_batch(value_range):
    config = {"continual_strategy": REPLAY, "generator": {"type": "vae", "hidden_dims": [8], "latent_dim": 2}}
    trainer = ContinualTrainer(SimpleMLP(6, [8], 4), config | {"value_range": value_range})
    trainer.train_task([*loader(), (torch.full((4, 6), 1.25), Y)], loader())
    assert trainer.generator_model.spec.value_range == (None if value_range is None else tuple(value_range))
    if value_range is not None:
        with pytest.raises(DataError, match="samples must lie in"):
            trainer.train_task([(torch.full((4, 6), 2.5), Y)])


def test_large_values_print_a_warning(capsys):
    make_trainer(REPLAY).train_task([((WHOLE * 10).to(torch.uint16), Y)])
    line = "train_loader: values lie in [0, 230] and are not scaled; if these are pixels, scale them to [0, 1]"
    assert line in capsys.readouterr().err
