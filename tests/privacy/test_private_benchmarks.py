"""Benchmarks of a run with a budget: what a single sample could change besides what mechanisms release."""

import pytest

from gr_cli.benchmarks import EnergyFeatureExtractor, ImageFolder, permuted, split
from gr_cli.errors import ConfigError
from gr_cli.privacy import PrivacySettings
from gr_cli.training.private_training import check_private_benchmark
from helpers.image_files import folder
from helpers.image_sets import Fixed, images

FORMAT = {"size": 6, "mode": "grey", "bits": 8}


@pytest.mark.parametrize("setting", FORMAT)
def test_a_common_format_of_images_that_they_choose_is_refused(tmp_path, monkeypatch, setting):
    monkeypatch.chdir(tmp_path)
    folder()
    source = ImageFolder("images", **{**FORMAT, setting: None if setting == "size" else "auto"}, cache_root="cache")
    for benchmark in (split(source, seed=0, classes_per_task=1), permuted(source, seed=0, tasks=2)):
        with pytest.raises(ConfigError, match=rf"format of all.*set benchmark\.source\.{setting}$"):
            check_private_benchmark(benchmark, PrivacySettings(1.0))


def test_images_of_a_given_format_are_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder()
    source = ImageFolder("images", **FORMAT, cache_root="cache")
    check_private_benchmark(split(source, seed=0, classes_per_task=1), PrivacySettings(1.0))


def test_features_are_accepted_where_nothing_is_fitted(tmp_path):
    for components in (None, 2):
        features = EnergyFeatureExtractor(cache_root=str(tmp_path), components=components)
        benchmark = split(Fixed(images((1, 8, 8))), seed=0, classes_per_task=1, features=features)
        if components is None:
            check_private_benchmark(benchmark, PrivacySettings(1.0))
        else:
            with pytest.raises(ConfigError, match="fitted on the images of the first task"):
                check_private_benchmark(benchmark, PrivacySettings(1.0))
