"""Tables of numeric and categorical columns, from the file to generator, audit and pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gr_cli.benchmarks import Tensors
from gr_cli.benchmarks.sources.arrays import Arrays
from gr_cli.errors import ConfigError, DataError
from gr_cli.generators import VAE, WGANGP, ClassVAE, FlowMatching, GaussianMixture
from gr_cli.nn.sample_spec import SampleSpec
from helpers.interruption import only_run

RNG = np.random.default_rng(0)
N = 80
LABELS = np.arange(N) % 4
NUMBERS = RNG.normal(5, 3, (N, 14)) + LABELS[:, None]
COLOUR = (LABELS + RNG.integers(0, 2, N)) % 3
FORM = LABELS // 2 + 7
NAMES = [f"n{i}" for i in range(14)]


def table() -> np.ndarray:
    """14 numbers, with a one-hot code of 3 columns and a column of category numbers among them."""
    return np.concatenate([NUMBERS[:, :4], np.eye(3)[COLOUR], NUMBERS[:, 4:], FORM[:, None]], 1)


COLUMNS = [*NAMES[:4], "red", "green", "blue", *NAMES[4:], "form"]
CATEGORIES = [["red", "green", "blue"], "form"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "table.npz"
    np.savez(path, x=table(), y=LABELS, columns=np.array(COLUMNS))
    return path


def test_one_hot_codes_follow_the_numeric_columns(file):
    data = Arrays(str(file), categories=CATEGORIES).load()
    expected = [*NAMES, "red", "green", "blue", "form=7", "form=8"]
    assert data.spec == SampleSpec((19,), None, categories=(3, 2), names=tuple(expected))
    x = data.train.store.numpy()
    np.testing.assert_allclose(x[:, :14], NUMBERS, rtol=1e-6)
    assert (x[:, 14:17] == np.eye(3)[COLOUR]).all() and (x[:, 17:] == np.eye(2)[FORM - 7]).all()


def test_columns_by_index():
    data = Tensors(table(), LABELS, categories=[17, [4, 5, 6]]).load()
    assert data.spec == SampleSpec((19,), None, categories=(2, 3))
    assert (data.train.store[:, 16:].numpy() == np.eye(3)[COLOUR]).all()


def test_only_numeric_columns_are_standardised_and_scaled(file):
    data = Arrays(str(file), categories=CATEGORIES, standardise=True).load()
    torch.testing.assert_close(data.train.x[:, :14].mean(0), torch.zeros(14), atol=1e-5, rtol=0)
    assert set(data.train.x[:, 14:].unique().tolist()) == {0, 1} and data.spec.value_range is None
    scaled = Tensors(table(), LABELS, categories=[17, [4, 5, 6]], value_range=[-20, 30]).load()
    assert scaled.spec.value_range == (0.0, 1.0)
    np.testing.assert_allclose(scaled.train.store[:, :14], (NUMBERS + 20) / 50, rtol=1e-5)


def test_categories_of_the_test_set_alone_are_encoded():
    x = np.stack([np.arange(8) % 2, np.arange(8.0)], 1)
    data = Tensors(x, np.arange(8) % 2, x + np.array([1, 0]), np.arange(8) % 2, categories=[0]).load()
    assert data.spec.categories == (3,) and data.test.store[:, 1:].argmax(1).unique().tolist() == [1, 2]


def test_table_of_categories_only():
    data = Tensors(np.stack([COLOUR, FORM], 1), LABELS, categories=[0, 1]).load()
    assert data.spec == SampleSpec((5,), None, categories=(3, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"categories": [18]}, "categories=18: must be a number from 0 to 17"),
        ({"categories": ["rde"], "columns": COLUMNS}, "categories=rde: is neither a name of a column.*mean 'red'"),
        ({"categories": [4, [4, 5]]}, "must name each column at most once, and has column 4 twice"),
        ({"categories": [[]]}, "has a code of no columns"),
    ],
)
def test_unknown_columns(settings, message):
    with pytest.raises(ConfigError, match=message):
        Tensors(table(), LABELS, **settings).load()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"categories": [0]}, "column 0 holds numbers that are not whole, and is no category"),
        ({"categories": [[4, 5]]}, r"columns 4, 5 are no one-hot code in \d+ of 80 samples"),
        ({"columns": ["a"]}, r"has 1 names of columns, and samples of shape \(18,\)"),
    ],
)
def test_columns_without_categories(settings, message):
    with pytest.raises(DataError, match=message):
        Tensors(table(), LABELS, **settings).load()


def test_images_have_no_categories():
    with pytest.raises(ConfigError, match=r"categories=\[0\]: are of vectors, samples have shape \(1, 4, 4\)"):
        Tensors(RNG.random((8, 4, 4)), np.arange(8) % 2, categories=[0]).load()


@pytest.mark.parametrize(
    "made",
    [
        lambda spec: VAE(spec, [8], 2),
        lambda spec: WGANGP(spec, [8], 2),
        lambda spec: FlowMatching(spec, 4, [8]),
        lambda spec: GaussianMixture(spec, 4, num_components=1, latent_dim=4),
        lambda spec: ClassVAE(spec, 4, [8], 2),
    ],
    ids=["vae", "wgan_gp", "flow", "mixture", "class_vae"],
)
@pytest.mark.parametrize("value_range", [None, (0.0, 1.0)])
def test_every_generator_makes_valid_rows(made, value_range):
    spec = SampleSpec((7,), value_range, categories=(3, 2))
    torch.manual_seed(0)
    x = made(spec).generate(40)
    assert x.shape == (40, 7) and torch.equal(spec.nearest_valid(x), x)


def test_critic_receives_differentiable_probabilities():
    spec = SampleSpec((5,), None, categories=(3, 2))
    gan = WGANGP(spec, [8], 2)
    gan.losses("generator", torch.zeros(4, 5), {"z": torch.randn(4, 2)})["generator"].sum().backward()
    assert gan.output.weight.grad is not None and (gan.output.weight.grad != 0).any(1).all()


@pytest.mark.usefixtures("pictures")
def test_run_pictures_and_audit_of_a_table(gr_run, gr_audit, file):
    words = (
        "benchmark=arrays",
        f"benchmark.source.path={file}",
        "benchmark.source.categories=[[red,green,blue],form]",
        "benchmark.source.standardise=true",
        "train.iterations=20",
    )
    assert gr_run(*words, "inspect=true")[1].count("14 numbers and categories of 3, 2 values") == 1
    assert gr_run(*words, "strategy=generative_replay", "generator=cvae")[0] == 0
    run = only_run()
    for task in (0, 1):
        with Image.open(run / "figures" / f"samples_task_{task}.png") as image:
            assert min(image.size) > 100
    code, out, _ = gr_audit(run, "--raw-samples")
    assert code == 0 and "none was found" in out


def test_audit_finds_stored_rows_of_a_table(gr_run, gr_audit, file):
    words = ("benchmark=arrays", f"benchmark.source.path={file}", "train.iterations=20", "strategy=er")
    assert gr_run(*words, "benchmark.source.categories=[[red,green,blue],form]")[0] == 0
    out = gr_audit(only_run(), "--raw-samples")[1]
    assert "stores raw samples, as claimed" in out and "learner.strategy.exemplars.x" in out
