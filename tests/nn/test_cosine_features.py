"""Cosine frequencies and oriented energies of images, against hand computations."""

import math

import pytest
import torch

from gr_cli.nn.cosine_features import OrientedEnergies, cosine_basis


def test_cosine_basis_is_orthonormal_and_low_frequencies_come_from_the_formula():
    basis = cosine_basis(6, 9, 4)
    assert basis.shape == (10, 54)  # pairs of frequencies below 4: 4 + 3 + 2 + 1
    torch.testing.assert_close(basis @ basis.T, torch.eye(10, dtype=torch.float64))
    torch.testing.assert_close(basis[0], torch.full((54,), 54**-0.5, dtype=torch.float64))
    wave = torch.cos(math.pi * (torch.arange(9, dtype=torch.float64) + 0.5) / 9)
    torch.testing.assert_close(basis[1].view(6, 9)[2], wave * math.sqrt(1 / 6) * math.sqrt(2 / 9))
    assert cosine_basis(2, 3, 100).shape == (6, 6)  # no more than there are


def stripes(angle, size=16):
    position = torch.arange(size, dtype=torch.float64)
    y, x = torch.meshgrid(position, position, indexing="ij")
    return torch.cos(0.75 * math.pi * (x * math.cos(angle) + y * math.sin(angle))).view(1, 1, size, size)


@pytest.mark.parametrize("index", range(4))
def test_the_largest_energy_is_that_of_the_own_orientation(index):
    features = OrientedEnergies((1, 16, 16), 1, 4, 1)(stripes(math.pi * index / 4))
    assert features.shape == (1, 5)  # the mean of the image, and a mean energy for each orientation
    assert features[0, 1:].argmax() == index


def test_features_have_norm_one_whatever_the_brightness():
    features = OrientedEnergies((3, 12, 12), 2, 4, 2)
    x = torch.rand(5, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    values = features(x)
    assert values.shape == (5, features.num_features)
    torch.testing.assert_close(values.norm(dim=1), torch.ones(5), rtol=1e-4, atol=0)
    torch.testing.assert_close(features(0.3 * x), values, rtol=1e-3, atol=1e-4)  # brightness does not matter
    assert not features(0 * x).any()
    wavelets = features.get_buffer("wavelets_1")
    torch.testing.assert_close(wavelets.sum((1, 2, 3)), torch.zeros(8, dtype=torch.float64))


def test_small_images_have_fewer_scales_and_nothing_is_saved():
    features = OrientedEnergies((1, 4, 4), 2, 3, 4)
    assert features.scales == [0] and features.num_features == 3 + 3 * 3
    assert not features.state_dict()
