"""The convolutions of van de Ven et al. (2020, 2021): layers, weights of a file, and pretraining."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gr_cli.benchmarks import BatchNormConvFeatureExtractor, SyntheticGlyphs
from gr_cli.benchmarks.features import pretraining
from gr_cli.benchmarks.features.batch_norm_convolutions import BatchNormConvolutions, ChannelNormalization
from gr_cli.benchmarks.features.pretraining import pretrain_in_epochs, random_crop_and_flip
from gr_cli.errors import ConfigError, DataError
from gr_cli.nn.random_streams import RandomStreams
from helpers.features import vectors_of
from helpers.image_sets import Fixed, images

MEAN, DEVIATION = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)


def published(channels=(4, 6, 8)) -> dict[str, torch.Tensor]:
    """A file's entries under the published names, with random values."""
    state, generator, before = {}, torch.Generator().manual_seed(0), 3
    for i, after in enumerate(channels, start=1):
        state[f"convLayer{i}.conv.weight"] = torch.randn(after, before, 3, 3, generator=generator)
        state[f"convLayer{i}.conv.bias"] = torch.randn(after, generator=generator)
        if i < len(channels):
            for name in ("weight", "bias", "running_mean"):
                state[f"convLayer{i}.bn.{name}"] = torch.randn(after, generator=generator)
            state[f"convLayer{i}.bn.running_var"] = torch.rand(after, generator=generator) + 0.5
            state[f"convLayer{i}.bn.num_batches_tracked"] = torch.tensor(39000)
        before = after
    return state


def extractor(weights: str, **settings) -> BatchNormConvFeatureExtractor:
    return BatchNormConvFeatureExtractor((4, 6, 8), weights=weights, cache_root="kept", **settings)


def by_hand(x: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """The vectors of images (B, 3, H, W), written out."""
    x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    for i, stride in ((1, 1), (2, 2), (3, 2)):
        weight, bias = state[f"convLayer{i}.conv.weight"], state[f"convLayer{i}.conv.bias"]
        x = F.conv2d(x, weight, bias, stride=stride, padding=1)
        if i < 3:
            mean, variance, scale, offset = (
                state[f"convLayer{i}.bn.{name}"].view(-1, 1, 1)
                for name in ("running_mean", "running_var", "weight", "bias")
            )
            x = (scale * (x - mean) / (variance + 1e-5).sqrt() + offset).clamp(min=0)
    return x.flatten(1)


@pytest.mark.parametrize("wrapped", [True, False])
def test_vectors_of_a_file_with_the_published_names(wrapped):
    state = published()
    torch.save({"state": state} if wrapped else state, "C3-3x4-bn")
    data = images((3, 8, 8), 4)
    vectors = vectors_of(extractor("C3-3x4-bn", channel_mean=MEAN, channel_deviation=DEVIATION), data).train.x
    torch.testing.assert_close(vectors, by_hand(data.train.x, state), rtol=1e-4, atol=1e-4)
    assert vectors.min() < 0  # the last convolution is linear


def test_five_convolutions_give_1024_values_of_32_pixels():
    network = BatchNormConvolutions().eval()
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 1024)
    assert [c.stride[0] for c in network.modules() if isinstance(c, nn.Conv2d)] == [1, 2, 2, 2, 2]
    assert [n for n in network.state_dict() if n.startswith("convLayer5")] == [
        "convLayer5.conv.weight", "convLayer5.conv.bias"
    ]  # fmt: skip


def test_grey_images_and_other_sizes_are_taken():
    torch.save(published(), "file")
    grey = images((1, 12, 8), 2)
    expected = by_hand(grey.train.x.expand(-1, 3, -1, -1), published())
    vectors = vectors_of(extractor("file", channel_mean=MEAN, channel_deviation=DEVIATION), grey).train.x
    torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-4)


def test_vectors_don_t_depend_on_the_rest_of_the_batch():
    torch.save(published(), "file")
    data = images((3, 8, 8), 150)  # more than one batch
    vectors = vectors_of(extractor("file"), data).train.x
    network = extractor("file").network(data.train, (3, 8, 8)).eval()
    with torch.no_grad():
        torch.testing.assert_close(vectors[140:141], network(data.train.x[140:141]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"convLayer2.bn.running_var": None}, r"lacks convLayer2\.bn\.running_var;"),
        ({"convLayer3.bn.weight": torch.ones(8)}, r"has unexpected entries: convLayer3\.bn\.weight;"),
        ({"convLayer1.conv.weight": torch.ones(4, 1, 3, 3)}, r"has shape \(4, 1, 3, 3\), and \(4, 3, 3, 3\) is needed"),
    ],
)
def test_files_of_other_layers_are_refused(change, message):
    state = {name: value for name, value in (published() | change).items() if value is not None}
    torch.save({"state": state}, "file")
    with pytest.raises(DataError, match=message):
        vectors_of(extractor("file"), images((3, 8, 8)))


def test_a_pretrained_network_needs_a_data_set_other_than_the_benchmarks():
    with pytest.raises(ConfigError, match=r"pretrain=null: must be a data set; or set .*weights=<file>"):
        BatchNormConvFeatureExtractor()
    data = images((3, 8, 8))
    with pytest.raises(ConfigError, match=r"pretrain=Fixed: is the benchmark's own data"):
        vectors_of(extractor("pretrained", pretrain=Fixed(data)), data)


# --- pretraining


def glyphs():
    return SyntheticGlyphs(classes=4, per_class=40, size=8).load()


def pretrained(epochs: int, path: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    normalization = ChannelNormalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return pretrain_in_epochs(
        BatchNormConvolutions((4, 6)), normalization, glyphs(), epochs, 0, torch.device("cpu"), path
    )


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(pretraining, "_BATCH", 16)
    monkeypatch.setattr(pretraining, "_HIDDEN", (8, 8))


@pytest.mark.usefixtures("_small")
def test_pretraining_continues_to_the_same_weights(monkeypatch):
    path = Path("kept/progress")
    whole = pretrained(2, path)
    assert not path.exists()
    monkeypatch.setattr(pretraining, "_SECONDS_BETWEEN_SAVES", -1.0)
    steps, step = [], pretraining.random_crop_and_flip

    def interrupted(x, streams, i):
        steps.append(i)
        if len(steps) == 8:
            raise KeyboardInterrupt
        return step(x, streams, i)

    monkeypatch.setattr(pretraining, "random_crop_and_flip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrained(2, path)
    assert path.exists()
    resumed = pretrained(2, path)
    assert steps == [*range(8), *range(7, 20)] and not path.exists()
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


@pytest.mark.usefixtures("_small")
def test_damaged_progress_starts_again(capsys):
    Path("progress").write_bytes(b"no state")
    again = pretrained(1, Path("progress"))
    assert "is damaged" in capsys.readouterr().err
    assert all(torch.equal(value, again[name]) for name, value in pretrained(1, Path("other")).items())


@pytest.mark.usefixtures("_small")
def test_pretraining_learns(monkeypatch):
    """The loss on the pretraining data falls; batch normalization has counted the batches."""
    losses, cross_entropy = [], F.cross_entropy

    def recorded(logits, y):
        losses.append(cross_entropy(logits, y).item())
        return cross_entropy(logits, y)

    monkeypatch.setattr(pretraining.F, "cross_entropy", recorded)
    monkeypatch.setattr(pretraining, "_LR", 0.02)
    monkeypatch.setattr(pretraining, "_HIDDEN", (32, 32))
    weights = pretrained(20, Path("progress"))
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert weights["convLayer1.bn.num_batches_tracked"] == 200


def test_crops_are_reflected_and_flips_are_at_the_published_rate():
    # An image whose pixels are its columns: a crop shows by how many pixels it was shifted, and whether it was flipped.
    x = torch.arange(10.0).expand(400, 1, 10, 10)
    crops = random_crop_and_flip(x, RandomStreams(0), 0)
    assert crops.shape == x.shape
    seen = {tuple(row) for row in crops[:, 0, 0].tolist()}
    border = [*range(3, -1, -1), *range(10), *range(9, 5, -1)]  # four pixels on each side, by reflection
    windows = [border[start : start + 10] for start in range(9)]
    assert seen == {tuple(w) for w in windows} | {tuple(w[::-1]) for w in windows}
    flipped = (crops[:, 0, 0, 4] > crops[:, 0, 0, 5]).float().mean()
    assert abs(flipped - 0.5) < 4 * 0.5 / 400**0.5
    rows = random_crop_and_flip(x.mT.contiguous(), RandomStreams(0), 0)[:, 0, :, 0]
    assert {tuple(row) for row in rows.tolist()} == {tuple(w) for w in windows}
