"""Sample specifications: ranges, likelihoods and previews."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal

from gr_cli.nn.sample_spec import SampleSpec, as_floats

TABLE = SampleSpec((7,), (-2.0, 6.0), categories=(3, 2))


def rows(n: int = 4) -> Tensor:
    """Samples of TABLE."""
    torch.manual_seed(0)
    numbers = 8 * torch.rand(n, 2) - 2
    codes = [torch.eye(k)[torch.randint(k, (n,))] for k in TABLE.categories]
    return torch.cat([numbers, *codes], 1)


def test_as_floats_scales_bytes_only():
    assert as_floats(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    x = torch.tensor([3.5])
    assert as_floats(x) is x


def test_a_shape_is_coerced_to_values_in_0_to_1():
    assert SampleSpec.coerce([2, 3]) == SampleSpec((2, 3), (0.0, 1.0))
    assert SampleSpec.coerce(TABLE) is TABLE
    assert (TABLE.size, TABLE.num_numeric, TABLE.is_image) == (7, 2, False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": (4,), "categories": (5,)}, "categories"),
        ({"shape": (4,), "categories": (1,)}, "categories"),
        ({"shape": (1, 4, 4), "categories": (4,)}, "categories"),
        ({"shape": (4,), "names": ("a", "b")}, "names"),
    ],
)
def test_invalid_specifications_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SampleSpec(**settings)


def test_likelihood_of_a_table_is_the_product_of_its_segments():
    out, x = torch.randn(4, 7), rows()
    expected = Bernoulli(logits=out[:, :2], validate_args=False).log_prob((x[:, :2] + 2) / 8).sum(1)
    expected = expected + Categorical(logits=out[:, 2:5]).log_prob(x[:, 2:5].argmax(1))
    expected = expected + Categorical(logits=out[:, 5:]).log_prob(x[:, 5:].argmax(1))
    nll = TABLE.negative_log_likelihood(out, TABLE.to_unit_range(x))
    torch.testing.assert_close(nll, -expected / 7)


def test_unbounded_values_are_gaussian_with_categories():
    spec, out, x = SampleSpec((7,), None, categories=(3, 2)), torch.randn(4, 7), rows()
    expected = (Normal(out[:, :2], 1.0).log_prob(x[:, :2]) - Normal(0.0, 1.0).log_prob(torch.tensor(0.0))).sum(1)
    expected = (
        expected + (out[:, 2:5].log_softmax(1) * x[:, 2:5]).sum(1) + (out[:, 5:].log_softmax(1) * x[:, 5:]).sum(1)
    )
    torch.testing.assert_close(spec.negative_log_likelihood(out, spec.to_unit_range(x)), -expected / 7)


def test_categories_alone_have_a_likelihood():
    spec = SampleSpec((3,), categories=(3,))
    nll = spec.negative_log_likelihood(torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 0.0]]))
    torch.testing.assert_close(nll, torch.tensor([3.0]).log() / 3)


def test_likelihood_keeps_leading_axes():
    out, x = torch.randn(2, 4, 7), torch.stack([rows(), rows()])
    both = TABLE.negative_log_likelihood(out, TABLE.to_unit_range(x))
    assert both.shape == (2, 4)
    torch.testing.assert_close(both[1], TABLE.negative_log_likelihood(out[1], TABLE.to_unit_range(x[1])))


def test_point_estimate_and_expected_sample_by_segment():
    out = torch.tensor([[0.0, 9.0, 1.0, 3.0, 2.0, 0.1, 0.2]])
    x = TABLE.point_estimate(out)
    torch.testing.assert_close(x[0, :2], torch.tensor([2.0, -2 + 8 * torch.tensor(9.0).sigmoid().item()]))
    assert x[0, 2:].tolist() == [0, 1, 0, 0, 1]
    mean = TABLE.expected_sample(out)
    torch.testing.assert_close(mean[0, 2:5], torch.tensor([1.0, 3.0, 2.0]).softmax(0))
    assert torch.equal(SampleSpec((7,), None).point_estimate(out), out)


def test_nearest_valid_clips_values_and_has_one_hot_codes():
    x = torch.tensor([[-9.0, 9.0, 0.2, 0.1, 0.3, 0.6, 0.5]])
    assert TABLE.nearest_valid(x)[0].tolist() == [-2, 6, 0, 0, 1, 1, 0]
    assert torch.equal(TABLE.nearest_valid(rows()), rows())


@pytest.mark.parametrize("spec", [TABLE, SampleSpec((7,), None, categories=(3, 2)), SampleSpec((7,), (-2.0, 6.0))])
def test_unit_and_symmetric_ranges_are_invertible(spec):
    x = rows()
    torch.testing.assert_close(spec.from_unit_range(spec.to_unit_range(x)), x)
    torch.testing.assert_close(spec.from_symmetric_range(spec.to_symmetric_range(x)), x)
    assert spec.to_symmetric_range(x)[:, 2:].abs().max() <= 1


def test_preview_of_images_has_one_or_three_channels():
    two = SampleSpec((2, 4, 4)).preview(torch.rand(5, 2, 4, 4))
    assert two.shape == (5, 1, 4, 4)
    colours = SampleSpec((3, 4, 4), (-1.0, 1.0)).preview(2 * torch.rand(5, 3, 4, 4) - 1)
    assert colours.shape == (5, 3, 4, 4) and colours.min() == 0 and colours.max() == 1


def test_preview_of_vectors_is_a_row_scaled_by_value():
    rows_of = SampleSpec((2,), None).preview(torch.tensor([[0.0, 100.0], [1.0, 300.0], [0.5, 100.0]]))
    assert rows_of.shape == (3, 1, 1, 2)
    assert rows_of[:, 0, 0].tolist() == [[0, 0], [1, 1], [0.5, 0]]


def test_long_vectors_have_no_preview():
    shapes = {(1, 8, 8): True, (64,): True, (65,): False, (4, 100): True}
    assert {shape: SampleSpec(shape).has_preview for shape in shapes} == shapes


def test_preview_of_a_time_series_is_a_line():
    """A rising series goes from the lower left to the upper right; a constant one is one row of pixels."""
    steps = torch.linspace(-3.0, 5.0, 7)
    x = torch.stack([steps, -3 * torch.ones(7), steps.flip(0)])[:, None]  # (3, 1, 7)
    tiles = SampleSpec((1, 7), None).preview(x)
    assert tiles.shape == (3, 1, 32, 60) and float(tiles.min()) >= 0 and float(tiles.max()) == 1
    dark = tiles[:, 0] < 0.5  # (3, H, W)
    assert dark.any(1).all()  # every column of pixels has a piece of the line
    assert dark[0, 31, 0] and dark[0, 0, 59] and not dark[0, 0, 0]
    assert dark[1].nonzero()[:, 0].unique().tolist() == [31]
    assert torch.equal(dark[2], dark[0].flip(1))


def test_channels_of_a_time_series_are_scaled_alike_over_samples_and_paler_one_after_the_other():
    x = torch.zeros(2, 2, 4)
    x[0, 0] = 100.0  # the highest values of the first channel are in sample 0, those of the second in sample 1
    x[1, 1] = 1e-3
    tiles = SampleSpec((2, 4), None).preview(x)[:, 0]
    first, second = tiles
    assert first[0].tolist() == [0.0] * 60 and first[31].tolist() == pytest.approx([0.6] * 60)
    assert second[31].tolist() == [0.0] * 60 and second[0].tolist() == pytest.approx([0.6] * 60)
