"""Noise of private mechanisms: distribution, repetition, precision."""

import pytest
import torch

from gr_cli.privacy import gaussian_noise, uniform_numbers


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("secure", [False, True])
def test_moments_of_gaussian_noise(secure):
    """A chance of about 1e-9 to fail by the draws: mean within 6 standard errors, variance and kurtosis alike."""
    noise, n = gaussian_noise((2, 200_000), 3.0, None if secure else stream()), 400_000
    assert noise.dtype == torch.float64 and noise.shape == (2, 200_000)
    z = noise / 3
    assert z.mean().abs() < 6 / n**0.5
    assert (z.square().mean() - 1).abs() < 6 * (2 / n) ** 0.5
    assert (z.pow(4).mean() - 3).abs() < 6 * (96 / n) ** 0.5


def test_seeded_noise_repeats_and_the_systems_does_not():
    assert torch.equal(gaussian_noise((9,), 1.0, stream()), gaussian_noise((9,), 1.0, stream()))
    assert torch.equal(uniform_numbers((9,), stream()), uniform_numbers((9,), stream()))
    assert not torch.equal(gaussian_noise((9,), 1.0, None), gaussian_noise((9,), 1.0, None))
    assert not torch.equal(uniform_numbers((9,), None), uniform_numbers((9,), None))


@pytest.mark.parametrize("secure", [False, True])
def test_uniform_numbers(secure):
    numbers = uniform_numbers((200_000,), None if secure else stream())
    assert numbers.min() >= 0 and numbers.max() < 1
    assert (numbers.mean() - 0.5).abs() < 6 * (1 / 12 / 200_000) ** 0.5


def test_shapes_without_numbers():
    assert gaussian_noise((0, 3), 1.0, None).shape == (0, 3)
    assert gaussian_noise((), 1.0, None).shape == ()
