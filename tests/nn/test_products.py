"""Matrix products of both libraries, alone and in layers, against float64."""

import pytest
import torch
import torch.nn.functional as F

from gr_cli.nn import products
from gr_cli.nn.linear import Linear, input_gradient, linear_output, weight_gradient
from gr_cli.nn.products import onednn_is_faster, product

needs_onednn = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")),
    reason="torch was built without oneDNN",
)


@pytest.fixture(params=["MKL", pytest.param("oneDNN", marks=needs_onednn)])
def library(request, monkeypatch):
    """The library that computes every product."""
    monkeypatch.setattr(products, "_has_faster_kernels", lambda: request.param == "oneDNN")
    monkeypatch.setattr(products, "_MIN_MULTIPLICATIONS", 0)
    monkeypatch.setattr(products, "_MIN_MULTIPLICATIONS_OF_LAYER", 0)
    return request.param


def tensors(*shapes, requires_grad=False):
    torch.manual_seed(0)
    return [torch.randn(shape).requires_grad_(requires_grad) for shape in shapes]


@pytest.mark.parametrize("leading", [(), (3,)], ids=["one", "stacked"])
def test_products_equal_those_in_float64(library, leading):
    x, weight, bias, gradient = tensors((*leading, 5, 7), (*leading, 4, 7), (*leading, 4), (*leading, 5, 4))
    exact_x, exact_weight, exact_bias, exact_gradient = (value.double() for value in (x, weight, bias, gradient))
    results = {
        "output": (linear_output(x, weight, bias), exact_x @ exact_weight.mT + exact_bias.unsqueeze(-2)),
        "without bias": (product(x, weight.mT), exact_x @ exact_weight.mT),
        "input": (input_gradient(gradient, weight), exact_gradient @ exact_weight),
        "weight": (weight_gradient(gradient, x), exact_gradient.mT @ exact_x),
    }
    for actual, expected in results.values():
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)
    assert results["weight"][0].stride() == weight.stride()


@pytest.mark.parametrize("leading", [(), (3,)], ids=["one", "stacked"])
def test_a_layer_and_its_gradients_equal_those_of_torch(library, leading):
    x, weight, bias = tensors((*leading, 5, 7), (*leading, 4, 7), (*leading, 4), requires_grad=True)
    layer = Linear(7, 4)
    del layer.weight, layer.bias
    layer.weight, layer.bias = weight, bias
    actual = torch.autograd.grad(layer(x).square().sum(), (x, weight, bias))
    expected = torch.autograd.grad((x @ weight.mT + bias.unsqueeze(-2)).square().sum(), (x, weight, bias))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("leading", [(), (3,)], ids=["one", "stacked"])
def test_second_derivatives_equal_those_of_torch(library, leading):
    """As a gradient penalty takes them: of the norm of the gradient with respect to the input."""
    x, weight, bias = tensors((*leading, 5, 7), (*leading, 4, 7), (*leading, 4), requires_grad=True)
    layer = Linear(7, 4)
    del layer.weight, layer.bias
    layer.weight, layer.bias = weight, bias

    def derivative_of_squared_gradient(out):
        (gradient,) = torch.autograd.grad(out.tanh().sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), (x, weight))

    actual = derivative_of_squared_gradient(layer(x))
    expected = derivative_of_squared_gradient(x @ weight.mT + bias.unsqueeze(-2))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_layers_can_be_mapped_over_samples(library):
    """Per-sample gradients by `torch.func`, which can't transform a call of oneDNN."""
    layer, (x,) = Linear(7, 4), tensors((5, 1, 7))
    parameters = dict(layer.named_parameters())

    def loss(parameters, sample):
        return torch.func.functional_call(layer, parameters, (sample,)).square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)["weight"]
    total = torch.autograd.grad(layer(x.squeeze(1)).square().sum(), layer.weight)[0]
    torch.testing.assert_close(per_sample.sum(0), total, rtol=1e-4, atol=1e-4)


@pytest.fixture
def faster_kernels(monkeypatch):
    monkeypatch.setattr(products, "_has_faster_kernels", lambda: True)


@pytest.mark.parametrize(
    ("threads", "shape", "columns", "expected"),
    [
        (1, (64, 256), 256, True),  # 2^22 multiplications
        (1, (63, 256), 256, False),
        (2, (128, 256), 256, True),  # 2^23
        (2, (128, 256), 255, False),
        (1, (1, 1 << 12), 1 << 12, False),  # not a product of matrices
        (1, (32, 64, 256), 255, False),  # each product of a stack counts by itself
        (1, (32, 64, 256), 256, True),
    ],
)
def test_the_library_follows_from_the_shape_and_the_threads(
    faster_kernels, monkeypatch, threads, shape, columns, expected
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert onednn_is_faster(torch.empty(shape), columns) == expected
    assert not onednn_is_faster(torch.empty(shape, dtype=torch.float64), columns)
    assert not onednn_is_faster(torch.empty(shape, dtype=torch.bfloat16), columns)


@pytest.mark.parametrize(("rows", "expected"), [(256, True), (255, False)])  # 2^23 multiplications
def test_the_function_of_a_single_layer_pays_for_larger_products(faster_kernels, monkeypatch, rows, expected):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert Linear(256, 128)._is_faster_as_function(torch.empty(rows, 256)) == expected
    assert onednn_is_faster(torch.empty(rows, 256), 128)


@pytest.mark.parametrize(
    ("instructions", "name", "expected"),
    [("AVX512", "AMD EPYC", True), ("AVX2", "AMD EPYC", False), ("AVX512", "Intel(R) Xeon(R)", False)],
)
@needs_onednn
def test_onednn_is_used_where_mkl_has_no_kernels_of_512_bits(monkeypatch, instructions, name, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name}, raising=False)
    assert products._has_faster_kernels.__wrapped__() == expected


def test_autocast_takes_the_products_of_torch(library):
    layer, (x,) = Linear(7, 4), tensors((5, 7))
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
        torch.testing.assert_close(out, F.linear(x, layer.weight, layer.bias), rtol=0, atol=0)
    assert out.dtype == torch.bfloat16
