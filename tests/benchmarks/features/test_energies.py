"""Oriented energies as frozen features: nothing is fitted, and every setting has vectors of its own."""

import torch
import torch.nn.functional as F

from gr_cli.benchmarks import EnergyFeatureExtractor
from gr_cli.nn.cosine_features import OrientedEnergies
from helpers.features import vectors_of
from helpers.image_sets import images


def extractor(**settings) -> EnergyFeatureExtractor:
    return EnergyFeatureExtractor(**{"cache_root": "kept", **settings})


def test_vectors_are_energies_with_mean_0_and_variance_1(tmp_path):
    data = images((3, 12, 12))
    vectors = vectors_of(extractor(cache_root=str(tmp_path)), data)
    energies = OrientedEnergies((3, 12, 12), 4, 6, 2)(data.train.x)
    assert vectors.spec.shape == (energies.shape[1],)
    torch.testing.assert_close(
        vectors.train.x, F.layer_norm(energies, energies.shape[1:]).float(), rtol=1e-5, atol=1e-5
    )
    plain = vectors_of(extractor(normalise=False, cache_root=str(tmp_path)), data)
    torch.testing.assert_close(plain.train.x.norm(dim=1), torch.ones(len(data.train)), rtol=1e-4, atol=0)


def test_settings_with_as_many_features_do_not_share_cached_vectors(tmp_path):
    data = images((1, 8, 8))
    settings = ({"orientations": 4, "scales": 1}, {"orientations": 2, "scales": 2})
    one, two = (vectors_of(extractor(**each, cache_root=str(tmp_path)), data).train.x for each in settings)
    assert one.shape == two.shape and not torch.allclose(one, two)


def test_only_what_is_fitted_depends_on_the_first_task(tmp_path):
    data = images((1, 8, 8))
    first = data.train.select(torch.arange(4))
    one, two = (extractor(cache_root=str(tmp_path / name)) for name in "ab")  # nothing is read from a common cache
    assert torch.equal(one.extract(data, first).train.x, vectors_of(two, data).train.x)
    assert not one.shared_fits
    assert len(extractor(components=2).shared_fits) == 1
