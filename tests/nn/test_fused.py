"""Fused computations: equal to plain autograd, and left out where autograd has to see every operation."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gr_cli.models import SimpleMLP
from gr_cli.nn.fused import FusedComputation, direct_gradients, evaluate, fused_values
from gr_cli.nn.fused_losses import mean_losses
from gr_cli.nn.linear import per_sample_squared_gradients
from gr_cli.nn.losses import Targets
from gr_cli.nn.replicas import Replicas

UNITS = 5


def networks(hidden_sizes=(7, 6), num_replicas=1, dropout=0.0, seed=0):
    torch.manual_seed(seed)
    modules = [SimpleMLP(4, list(hidden_sizes), UNITS, dropout=dropout).double() for _ in range(num_replicas)]
    return Replicas(modules)


def samples(num_replicas=1, batch_size=6):
    generator = torch.Generator().manual_seed(batch_size)
    return torch.randn(num_replicas, batch_size, 2, 2, generator=generator).double()


def noise_of(replicas, batch_size):
    generator = torch.Generator().manual_seed(1)
    specs = replicas.noise_specs("training_noise", batch_size)
    return {
        name: torch.rand(len(replicas.modules), *noise.shape, generator=generator).double()
        for name, noise in specs.items()
    }


def all_targets(num_replicas=1, batch_size=6):
    """Hard and soft targets, by one head or two, of parts of a batch that overlap."""
    generator = torch.Generator().manual_seed(2)
    active = torch.tensor([True, True, True, True, False])
    heads = torch.tensor([[True, True, False, False, False], [False, False, True, True, False]])
    half = batch_size // 2
    labels = torch.randint(0, 4, (num_replicas, batch_size, 1), generator=generator)
    by_head = torch.stack([labels[:, half:, 0] % 2, 2 + labels[:, half:, 0] % 2], -1)
    logits = torch.randn(num_replicas, half, 2, UNITS, generator=generator).double()
    soft = logits.masked_fill(~heads, -torch.inf).softmax(-1)
    one_soft = torch.randn(num_replicas, batch_size, 1, UNITS, generator=generator).double().softmax(-1)
    temperature = torch.linspace(1.5, 3, num_replicas).double()
    own_units = active.expand(num_replicas, half, 1, UNITS).clone()
    own_units[..., 3] = labels[:, :half] == 3
    return {
        "labels": Targets(labels, active[None]),
        "half": Targets(labels[:, :half], active[None]),
        "rest": Targets(labels[:, half:], active[None], half),
        "inactive": Targets(torch.full_like(labels, 4), active[None]),
        "own units": Targets(labels[:, :half], own_units),
        "heads": Targets(by_head, heads, half),
        "soft heads": Targets(soft, heads, half, 2.0, 4.0),
        "soft": Targets(one_soft, active[None], 0, temperature, temperature**2),
    }


CASES = [["labels"], ["half", "rest"], ["own units", "rest"], ["inactive"], ["half", "heads"], ["half", "soft heads"]]
CASES += [["soft"], ["own units"], ["labels", "soft", "heads"]]


def plain_values(logits, targets):
    return [each.losses(logits).mean(-1) for each in targets]


def assert_equal(values, expected, inputs, weights):
    """Values, and gradients of their weighted sum by the engine and directly, equal those of plain autograd."""
    tensors = [value.differentiable for value in values]
    torch.testing.assert_close(tensors, list(expected), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(value.detached, tensor) for value, tensor in zip(values, tensors, strict=True))
    loss = sum((w * v).sum() for w, v in zip(weights, expected, strict=True))
    plain = torch.autograd.grad(loss, inputs, retain_graph=True)
    direct = direct_gradients(list(zip(values, weights, strict=True)), inputs)
    by_engine = torch.autograd.grad(
        sum((w * v).sum() for w, v in zip(weights, tensors, strict=True)), inputs, retain_graph=True
    )
    for result in (direct, by_engine):
        torch.testing.assert_close(list(result), list(plain), rtol=1e-12, atol=1e-12)
        assert all(g.stride() == p.stride() for g, p in zip(result, inputs, strict=True))


@pytest.mark.parametrize("names", CASES)
@pytest.mark.parametrize("num_replicas", [1, 3])
@pytest.mark.parametrize(("hidden_sizes", "dropout"), [((7, 6), 0.0), ((7, 6), 0.4), ((), 0.0), ((8,), 0.0)])
def test_losses_of_a_stack_match_plain_autograd(hidden_sizes, dropout, num_replicas, names):
    replicas, x = networks(hidden_sizes, num_replicas, dropout), samples(num_replicas)
    targets = [all_targets(num_replicas)[name] for name in names]
    arguments = [x, noise_of(replicas, 6)] if dropout else [x]
    expected = plain_values(replicas.call("__call__", *arguments), targets)
    values = mean_losses(replicas.call("relu_stack", *arguments), targets)
    weights = [0.3 + torch.arange(num_replicas).double(), 2.0, 0.7][: len(targets)]
    assert_equal(values, expected, replicas.select_parameters(lambda network: network.parameters()), weights)


@pytest.mark.parametrize("names", CASES)
def test_losses_of_logits_match_plain_autograd(names):
    logits = torch.randn(2, 6, UNITS, dtype=torch.float64, requires_grad=True)
    targets = [all_targets(2)[name] for name in names]
    values = mean_losses(logits, targets)
    assert_equal(
        values, plain_values(logits, targets), [logits], [1.5, torch.tensor([1.0, 2.0]).double(), 0.7][: len(targets)]
    )


def test_gradcheck():
    replicas = networks((3,), 2, 0.3)
    x, targets = samples(2), [all_targets(2)[name] for name in ("half", "soft heads")]
    noise = noise_of(replicas, 6)

    def values(*parameters):
        stack = replicas.call("relu_stack", x, noise)
        stack.stack.parameters = parameters
        stack.stack.weights, stack.stack.biases = parameters[::2], parameters[1::2]
        return tuple(value.differentiable for value in mean_losses(stack, targets))

    assert torch.autograd.gradcheck(values, replicas.select_parameters(lambda network: network.parameters()))


@pytest.mark.parametrize("frozen", [["hidden.0"], ["hidden.1", "output"], ["hidden.0.weight", "hidden.1.bias"]])
def test_frozen_parameters_get_no_gradient_and_others_the_same(frozen):
    replicas, targets = networks(), [all_targets()["labels"]]
    network = replicas.modules[0]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(tuple(frozen)))
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    expected = plain_values(replicas.call("__call__", samples()), targets)
    values = mean_losses(replicas.call("relu_stack", samples()), targets)
    assert_equal(values, expected, trained, [1.0])
    everything = direct_gradients([(values[0], 1.0)], list(network.parameters()))
    assert [gradient is not None for gradient in everything] == [p.requires_grad for p in network.parameters()]


def test_a_layer_that_is_used_twice_gets_both_gradients():
    replicas, targets = networks((4,)), [all_targets()["labels"]]
    network = replicas.modules[0]
    network.hidden.append(network.hidden[0])  # 4 -> 4 values
    expected = plain_values(replicas.call("__call__", samples()), targets)
    values = mean_losses(replicas.call("relu_stack", samples()), targets)
    assert_equal(values, expected, list(network.parameters()), [1.0])


def test_samples_that_need_gradients_get_them():
    replicas, x, targets = networks(), samples().requires_grad_(), [all_targets()["soft"]]
    (expected,) = torch.autograd.grad(plain_values(replicas.call("__call__", x), targets)[0].sum(), x)
    (value,) = mean_losses(replicas.call("relu_stack", x), targets)
    assert direct_gradients([(value, 1.0)], [x]) is None  # the stack's input is a view of x, not x
    torch.testing.assert_close(torch.autograd.grad(value.differentiable.sum(), x)[0], expected, rtol=1e-12, atol=1e-12)


def test_an_empty_batch_has_no_loss_and_no_gradient():
    replicas, empty = networks(), Targets(torch.zeros(1, 0, 1, dtype=torch.long), torch.ones(1, UNITS).bool())
    (value,) = mean_losses(replicas.call("relu_stack", samples()[:, :0]), [empty])
    assert value.detached.isnan().all()
    parameters = list(replicas.modules[0].parameters())
    for gradient in direct_gradients([(value, 1.0)], parameters):
        assert gradient.abs().sum() == 0


def test_a_parameter_in_two_layers_gets_both_gradients():
    replicas, targets = networks((6, 6, 6)), [all_targets()["labels"]]
    network = replicas.modules[0]
    network.hidden[2].weight = network.hidden[1].weight
    expected = plain_values(replicas.call("__call__", samples()), targets)
    values = mean_losses(replicas.call("relu_stack", samples()), targets)
    assert_equal(values, expected, list(network.parameters()), [1.0])


def test_a_second_pass_through_a_kept_graph_gives_the_same():
    replicas = networks(dropout=0.2)
    targets = [all_targets()[name] for name in ("half", "soft heads")]
    values = mean_losses(replicas.call("relu_stack", samples(), noise_of(replicas, 6)), targets)
    parameters = list(replicas.modules[0].parameters())
    first, second = (direct_gradients([(value, 1.0) for value in values], parameters) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_parts_with_other_units_than_the_first_have_their_own_mask():
    labels, units = torch.zeros(1, 3, 1, dtype=torch.long), torch.ones(1, UNITS).bool()
    fewer = torch.tensor([True, True, False, False, False])
    for first, second in ((units, fewer), (fewer, units), (units, units[0].clone()), (fewer[None], fewer.clone())):
        targets = [Targets(labels, first), Targets(labels, second, 3)]
        replicas = networks()
        expected = plain_values(replicas.call("__call__", samples()), targets)
        values = mean_losses(replicas.call("relu_stack", samples()), targets)
        for weights in ([1.0, 1.0], [1.0, 0.5], [0.25, torch.tensor([2.0]).double()]):
            assert_equal(values, expected, list(replicas.modules[0].parameters()), weights)


def test_a_second_derivative_raises():
    replicas = networks()
    (value,) = mean_losses(replicas.call("relu_stack", samples()), [all_targets()["labels"]])
    weight = replicas.modules[0].output.weight
    with pytest.raises(RuntimeError, match="differentiates_twice = True"):
        torch.autograd.grad(value.differentiable.sum(), weight, create_graph=True)


class OwnLayer(nn.Linear):
    pass


def own_layer(network):
    network.hidden[0] = OwnLayer(4, 7).double()


def torch_layer(network):
    network.output = nn.Linear(6, UNITS).double()


def no_bias(network):
    network.output.bias = None


def layer_hook(network):
    network.hidden[1].register_forward_hook(lambda *_: None)


def network_hook(network):
    network.register_forward_pre_hook(lambda *_: None)


def own_forward(network):
    network.forward = lambda x: x


@pytest.mark.parametrize("change", [own_layer, torch_layer, no_bias, layer_hook, network_hook, own_forward])
def test_a_changed_network_is_not_fused(change):
    network = networks().modules[0]
    assert network.relu_stack(samples()[0]) is not None
    change(network)
    assert network.relu_stack(samples()[0]) is None


def test_a_subclass_with_its_own_forward_is_not_fused():
    class Shifted(SimpleMLP):
        def forward(self, x, noise=None):
            return super().forward(x, noise) + 1

    assert Shifted(4, [7], UNITS).relu_stack(torch.rand(6, 4)) is None


def test_contexts_in_which_autograd_must_see_every_operation_are_not_fused():
    network, x, inside = networks().modules[0], samples()[0], []
    with torch.no_grad():
        assert network.relu_stack(x) is None
    with per_sample_squared_gradients():
        assert network.relu_stack(x) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert network.relu_stack(x) is None
    torch.func.vmap(lambda sample: inside.append(network.relu_stack(sample[None])) or sample)(x)
    assert inside == [None]


def test_gradients_come_from_the_engine_where_a_hook_or_another_computation_takes_part():
    replicas, targets = networks(), [all_targets()["labels"]]
    parameters = list(replicas.modules[0].parameters())
    (value,) = mean_losses(replicas.call("relu_stack", samples()), targets)
    assert direct_gradients([(value, 1.0)], parameters) is not None
    assert direct_gradients([(value.differentiable * 2, 1.0)], parameters) is None
    assert direct_gradients([(value, 1.0), (parameters[0].sum().view(1), 1.0)], parameters) is None
    (other,) = mean_losses(replicas.call("relu_stack", samples()), targets)
    assert direct_gradients([(value, 1.0), (other, 1.0)], parameters) is None
    assert direct_gradients([], parameters) is None
    handle = parameters[0].register_hook(lambda gradient: 2 * gradient)
    assert direct_gradients([(value, 1.0)], parameters) is None
    handle.remove()
    value.differentiable.register_hook(lambda gradient: 2 * gradient)
    assert direct_gradients([(value, 1.0)], parameters) is None


def test_outputs_that_the_loss_does_not_depend_on_have_no_gradient():
    class Two(FusedComputation):
        def __init__(self, x):
            self.inputs = (x,)

        def forward(self):
            return 2 * self.inputs[0], 3 * self.inputs[0]

        def backward(self, gradients, needed):
            seen.append(list(gradients))
            return [sum(f * g for f, g in zip((2, 3), gradients, strict=True) if g is not None)]

    seen, x = [], torch.ones(1, requires_grad=True)
    assert torch.autograd.grad(evaluate(Two(x))[1], x)[0].item() == 3
    _, second = fused_values(Two(x))
    assert direct_gradients([(second, 0.5), (second, 1.0)], [x]) == [4.5]
    assert seen == [[None, 1.0], [None, 1.5]]


def test_few_steps_in_float32_match_plain_autograd():
    fused = SimpleMLP(4, [16, 8], UNITS, dropout=0.3)
    plain, target = copy.deepcopy(fused), torch.randint(0, UNITS, (1, 12, 1))
    targets, x = [Targets(target, torch.ones(1, UNITS).bool())], torch.rand(12, 4)
    for step in range(5):
        noise = {name: torch.rand(spec.shape) for name, spec in fused.training_noise(12).items()}
        (value,) = mean_losses(fused.relu_stack(x, noise), targets)
        expected = F.cross_entropy(plain(x, noise), target[0, :, 0])
        torch.testing.assert_close(value.detached[0], expected.detach(), rtol=1e-5, atol=1e-6)
        for network, loss in ((fused, value.differentiable.sum()), (plain, expected)):
            parameters = list(network.parameters())
            with torch.no_grad():
                for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    p -= 0.1 * (step + 1) * g
    for a, b in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
