"""Patch features: whitening, filters, responses and pooling by hand, and their dependence on the first task alone."""

from collections import OrderedDict
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from gr_cli.benchmarks import Arrays, ConvFeatureExtractor, Digits, PatchFeatureExtractor, Samples, split
from gr_cli.benchmarks.features.output import FeatureScaling, PrincipalComponents, fit_scaling
from gr_cli.benchmarks.features.patches import (
    PatchResponses,
    fit_filters,
    kmeans_centres,
    normalize_contrast,
    random_patches,
)
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.errors import ConfigError
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.system import cache
from helpers.features import vectors_of
from helpers.image_sets import images


@pytest.fixture(autouse=True)
def _empty_cache_in_memory(monkeypatch):
    monkeypatch.setattr(cache, "_recent", OrderedDict())


def random_images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def extractor(**settings) -> PatchFeatureExtractor:
    return PatchFeatureExtractor(**{"num_filters": 6, "patch_size": 3, "cache_root": "kept", **settings})


# --- patches


def test_contrast_is_normalised_by_hand():
    patch = torch.tensor([0.2, 0.4, 0.6, 0.8])
    variance = (0.09 + 0.01 + 0.01 + 0.09) / 3
    expected = (patch - 0.5) / (variance + 10 / 255**2) ** 0.5
    torch.testing.assert_close(normalize_contrast(patch), expected)
    assert normalize_contrast(torch.full((4,), 0.7)).abs().max() < 1e-4  # a uniform patch is not amplified


def test_all_patches_of_an_image_are_drawn_and_none_twice():
    image = torch.arange(20.0).view(1, 1, 4, 5) / 20
    torch.manual_seed(0)
    patches = random_patches(Samples(image, torch.zeros(1, dtype=torch.int64)), 3, 1000)
    expected = [
        image[0, 0, row : row + 3, column : column + 3].flatten() for row, column in product(range(2), range(3))
    ]
    torch.testing.assert_close(patches, torch.stack(expected))


def test_patches_of_bytes_in_colour_have_all_channels():
    images = (random_images(5, 3, 6, 6) * 255).to(torch.uint8)
    patches = random_patches(Samples(images, torch.zeros(5, dtype=torch.int64)), 2, 50)
    assert patches.shape[1] == 3 * 2 * 2
    windows = images.float().div(255).unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
    assert (patches.unsqueeze(1) - windows).abs().amax(2).amin(1).max() < 1e-6


# --- filters


def correlated_patches(n: int = 4000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, 5, generator=generator) @ torch.randn(5, 5, generator=generator)


def test_whitened_patches_have_unit_covariance_along_a_filter():
    """Similarity is a product with a whitened patch: over all patches its mean is 0, and nearly 1 its variance."""
    patches = correlated_patches()
    for filters in ("raw", "noise", "centres"):
        torch.manual_seed(1)
        fitted = fit_filters(patches, filters, 7, 1e-5)
        similarity = normalize_contrast(patches) @ fitted["filters"] + fitted["offset"]
        torch.testing.assert_close(similarity.mean(0), torch.zeros(similarity.shape[1]), atol=1e-3, rtol=0)
        # Normalised patches have mean 0, so one direction of five has no variance.
        assert (similarity.var(0, correction=0) < 1 + 1e-3).all()
        if filters != "noise":
            torch.testing.assert_close(similarity.var(0), torch.ones(similarity.shape[1]), atol=1e-2, rtol=0)


def test_whitening_equals_its_definition():
    """W = U (S + e)^(-1/2) U' for the covariance U S U'; a raw filter is W (p - m), scaled to length 1, times W."""
    patches = correlated_patches(30)
    torch.manual_seed(2)
    fitted = fit_filters(patches, "raw", 30, 0.1)
    torch.manual_seed(2)
    order = torch.randperm(30)
    normalized = normalize_contrast(patches).double().numpy()
    mean = normalized.mean(0)
    variances, axes = np.linalg.eigh(np.cov(normalized.T, bias=True))
    whitening = axes @ np.diag((variances + 0.1) ** -0.5) @ axes.T
    directions = ((normalized - mean) @ whitening)[order.numpy()]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    expected = whitening @ directions.T
    np.testing.assert_allclose(fitted["filters"].numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(fitted["offset"].numpy(), -mean @ expected, atol=1e-4)


def test_centres_are_means_of_at_least_ten_patches():
    generator = torch.Generator().manual_seed(0)
    means = 20 * torch.randn(6, 4, generator=generator)
    counts = [40, 25, 10, 9, 3, 1]  # the last three groups are far from the others, and too small
    patches = torch.cat([mean + torch.randn(n, 4, generator=generator) for mean, n in zip(means, counts, strict=True)])
    torch.manual_seed(0)
    centres = kmeans_centres(patches, 12)
    assert 1 <= len(centres) <= len(patches) // 10
    assigned = torch.cdist(patches, centres).argmin(1)
    assert torch.cdist(centres, patches).amin(1).min() > 1e-3  # none is a patch
    for centre in range(len(centres)):
        # A centre is the mean of a set of patches; those nearest to it are that set once k-means has converged.
        assert (assigned == centre).sum() >= 9


def test_a_patch_that_stands_alone_is_no_filter():
    torch.manual_seed(0)
    patches = torch.cat([torch.randn(200, 4), torch.full((1, 4), 1000.0)])
    centres = kmeans_centres(patches, 5)
    assert centres.abs().max() < 200  # 1000 in the mean of ten or more at the most


# --- responses and pooling


def test_responses_by_hand():
    """One filter of one pixel: no contrast within a patch, so similarity is the offset of both signs."""
    fitted = {"filters": torch.tensor([[1.0, -2.0]] * 4), "offset": torch.tensor([0.5, -0.75])}
    layer = PatchResponses(fitted, patch_size=2, stride=1, threshold=0.25, grid=1)
    pooled = layer(torch.full((1, 1, 4, 4), 0.3))
    torch.testing.assert_close(pooled, torch.tensor([[0.25, 0.0, 0.0, 0.5]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("channels", "size", "stride", "grid"), [(1, 5, 1, 2), (3, 6, 1, 2), (2, 9, 2, 3), (1, 4, 1, 3)]
)
def test_responses_equal_a_loop_over_patches(channels, size, stride, grid):
    x, width, threshold = random_images(2, channels, size, size).double(), 2, 0.25
    weights, offset = torch.randn(channels * width**2, 3).double(), torch.randn(3).double()
    layer = PatchResponses({"filters": weights, "offset": offset}, width, stride, threshold, grid)
    tops = range(0, size - width + 1, stride)
    similarity = torch.empty(2, 3, len(tops), len(tops)).double()
    for i, (row, column) in enumerate(product(tops, tops)):
        patches = x[:, :, row : row + width, column : column + width].flatten(1)
        scaled = (patches - patches.mean(1, keepdim=True)) / (patches.var(1, keepdim=True) + 10 / 255**2).sqrt()
        similarity[:, :, i // len(tops), i % len(tops)] = scaled @ weights + offset
    responses = torch.cat([(similarity - threshold).clamp_min(0), (-similarity - threshold).clamp_min(0)], 1)
    cells = []
    for top, left in product(range(grid), range(grid)):  # cells that share a row where their number does not divide
        rows, columns = (slice(k * len(tops) // grid, -(-(k + 1) * len(tops) // grid)) for k in (top, left))
        cells.append(responses[:, :, rows, columns].mean((2, 3)))
    torch.testing.assert_close(layer(x), torch.stack(cells, 1).flatten(1))


def test_an_image_and_its_mirror_image_have_the_same_features():
    x = random_images(12, 1, 8, 8)
    y = torch.arange(12) % 2
    data = Dataset(Samples(x, y), Samples(x.flip(-1), y), ("a", "b"), SampleSpec((1, 8, 8)))
    mirrored = vectors_of(extractor(mirrored=True), data)
    torch.testing.assert_close(mirrored.train.x, mirrored.test.x)
    assert not torch.allclose(vectors_of(extractor(), data).train.x, vectors_of(extractor(), data).test.x, atol=0.1)


# --- the first task


def test_features_are_scaled_by_the_first_task():
    benchmark = split(Digits(), seed=0, features=extractor())
    first = torch.cat([x for x, _ in benchmark.tasks[0].train.batches()])
    torch.testing.assert_close(first.mean(0), torch.zeros(first.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(first.var(0, correction=0), torch.ones(first.shape[1]), atol=1e-3, rtol=0)
    later = torch.cat([x for x, _ in benchmark.tasks[1].train.batches()])
    assert later.mean(0).abs().max() > 0.1


def changed_digits(tasks: range) -> Arrays:
    """The digits, with inverted images of the classes of `tasks`, two of each."""
    data = Digits().load()
    arrays = {}
    for name, samples in (("train", data.train), ("test", data.test)):
        x, y = samples.x.float() / samples.x.max(), samples.y
        is_changed = (y >= 2 * tasks.start) & (y < 2 * tasks.stop)
        arrays |= {f"x_{name}": torch.where(is_changed.view(-1, 1, 1, 1), 1 - x, x).numpy(), f"y_{name}": y.numpy()}
    np.savez("digits.npz", **arrays)
    return Arrays("digits.npz")


@pytest.mark.parametrize("settings", [{}, {"filters": "noise"}, {"filters": "raw"}, {"components": 5}])
def test_only_the_first_tasks_training_images_matter(settings):
    def first_test_features(tasks: range) -> torch.Tensor:
        return split(changed_digits(tasks), seed=0, features=extractor(**settings)).tasks[0].test.x

    original = first_test_features(range(0))
    assert torch.equal(first_test_features(range(1, 5)), original)
    assert not torch.allclose(first_test_features(range(1)), original)


def test_the_first_task_follows_the_class_order():
    def features(*order: int) -> torch.Tensor:
        benchmark = split(Digits(), seed=0, class_order=[*order, *range(4, 10)], features=extractor())
        (task,) = (task for task in benchmark.tasks if task.classes == ("0", "1"))
        return task.test.x

    assert not torch.allclose(features(0, 1, 2, 3), features(2, 3, 0, 1))


def test_samples_held_out_of_the_first_task_are_not_seen():
    benchmark = split(Digits(), seed=0, validation_share=0.2, features=extractor())
    first = torch.cat([x for x, _ in benchmark.tasks[0].train.batches()])
    torch.testing.assert_close(first.mean(0), torch.zeros(first.shape[1]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("settings", [{"filters_seed": 1}, {"filters": "noise"}, {"num_filters": 7}, {"patch_size": 4},
                                      {"stride": 2}, {"threshold": 0.5}, {"grid": 3}, {"whitening_noise": 1.0},
                                      {"mirrored": True}, {"components": 4}])  # fmt: skip
def test_each_setting_changes_the_features(settings):
    def features(**changes) -> torch.Tensor:
        return split(Digits(), seed=0, features=extractor(**changes)).tasks[0].test.x

    original, changed = features(), features(**settings)
    assert original.shape != changed.shape or not torch.allclose(original, changed)


def test_filters_and_features_are_cached(monkeypatch):
    first = split(Digits(), seed=0, features=extractor()).tasks[0].test.x
    monkeypatch.setattr(cache, "_recent", OrderedDict())

    def fail(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr("gr_cli.benchmarks.features.patches.fit_filters", fail)
    monkeypatch.setattr("gr_cli.benchmarks.features.base.fit_scaling", fail)
    monkeypatch.setattr(PatchFeatureExtractor, "_vectors", lambda self, network, x: torch.ones(len(x), 1))
    assert torch.equal(split(Digits(), seed=1, features=extractor()).tasks[0].test.x, first)  # the same class order
    assert len(list(Path("kept/features").iterdir())) == 3  # filters, scaling, features


@pytest.mark.parametrize("filters", ["centres", "noise", "raw"])
def test_raw_patches_are_stored_samples(filters):
    benchmark = split(Digits(), seed=0, features=extractor(filters=filters))
    assert benchmark.stores_raw_samples == (filters == "raw")


def test_the_first_task_can_not_be_forgotten():
    (fit,) = split(Digits(), seed=0, features=extractor()).shared_fits
    assert fit.scope == "first_task"


def test_costs_of_the_extractor():
    extraction = split(Digits(), seed=0, features=extractor(filters="noise", components=4)).extraction
    positions, num_filters, num_features = 6 * 6, 6, 4 * 2 * 6
    products = positions * 9 * num_filters + 2 * 4 * positions * num_filters + num_features * 4
    assert extraction.operations == 2 * products
    assert extraction.num_bytes == 4 * (9 * num_filters + num_filters + 2 * num_features + num_features * (4 + 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 9}, r"features.patch_size=9: exceeds images of 8x8; 8 at most"),
        (
            {"patch_size": 7, "grid": 3},
            r"features.grid=3: exceeds the 2 patches along a side of images of 8x8; 2 at most",
        ),
        ({"num_filters": 100_000}, r"num_filters=100000: needs 10 patches for each filter, and the first task has"),
        # Before any patch is drawn: these would not fit into memory.
        ({"num_filters": 10**12}, r"num_filters=1000000000000: needs 10 patches .* has 10,404; 1040 at most"),
        ({"components": 49}, r"features.components=49: exceeds the 48 features or the 2.. training samples"),
    ],
)
def test_unsuitable_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        split(Digits(), seed=0, features=extractor(**settings))


# --- scaling and principal components


def test_components_are_principal_components():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(300, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    _, values, axes = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    expected = (vectors - vectors.mean(0)) @ axes[:4].T / (values[:4].square().mean() / 300).sqrt()
    components = PrincipalComponents(vectors, 4)(vectors)
    torch.testing.assert_close(components.abs(), expected.abs(), atol=1e-3, rtol=1e-3)  # up to signs
    torch.testing.assert_close(components.var(0, correction=0).mean(), torch.tensor(1.0), atol=1e-3, rtol=0)


def test_components_are_those_of_the_first_tasks_features(monkeypatch):
    def streams(**settings):
        return split(Digits(), seed=0, class_order="shuffled", validation_share=0.1, features=extractor(**settings))

    full, reduced = streams(), streams(components=3)
    project = PrincipalComponents(full.tasks[0].train.x, 3)
    for task, other in zip(full.tasks, reduced.tasks, strict=True):
        torch.testing.assert_close(other.test.x, project(task.test.x), atol=1e-4, rtol=1e-4)
    monkeypatch.setattr(cache, "_recent", OrderedDict())
    monkeypatch.setattr("gr_cli.benchmarks.features.base.PrincipalComponents", None)
    assert torch.equal(streams(components=3).tasks[4].train.x, reduced.tasks[4].train.x)  # from the cache


def test_a_constant_feature_is_scaled_to_0():
    features = torch.stack([torch.linspace(0, 1, 8), torch.full((8,), 0.3)], 1)
    scaled = FeatureScaling(fit_scaling(features))(features + torch.tensor([0.0, 5.0]))
    torch.testing.assert_close(scaled.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.var(0, correction=0), torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0)


def test_components_of_a_data_set_that_is_replaced():
    data = Digits().load()
    small = replace(data, train=data.train.select(torch.arange(20)))
    with pytest.raises(ConfigError, match="or the 20 training samples of the first task; 20 at most"):
        vectors_of(extractor(components=30), small)


def test_components_of_other_first_tasks_are_not_out_of_date(monkeypatch):
    """Features of a source whose content may change: streams of other class orders keep theirs, earlier content not."""
    data = images(n=24)
    conv = ConvFeatureExtractor([4], "random", components=2, cache_root="kept")

    def components(source: Dataset, label: int) -> torch.Tensor:
        monkeypatch.setattr(cache, "_recent", OrderedDict())
        first_task = source.train.select((source.train.y == label).nonzero().squeeze(1))
        return conv.extract(source, first_task, "photos").train.x

    stored = [components(data, label) for label in (0, 1)]
    files = set(Path("kept/features").iterdir())
    assert len(files) == 3 and not torch.allclose(*stored)  # the features, and their components for each first task
    with monkeypatch.context() as patch:
        patch.setattr("gr_cli.benchmarks.features.base.PrincipalComponents", None)
        assert all(torch.equal(components(data, label), stored[label]) for label in (0, 1))  # from the cache
    components(images(n=24, seed=1), 0)
    assert len(files & set(Path("kept/features").iterdir())) == 1  # the components of the other first task
