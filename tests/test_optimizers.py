import copy
import doctest

import pytest
import torch

from gr_cli import optimizers
from gr_cli.optimizers import SGD, Adam, AdamW, FunctionalOptimizer


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Adam(lr=0.01), lambda p: torch.optim.Adam(p, 0.01)),
        (Adam(lr=0.01, weight_decay=0.1), lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1)),
        (AdamW(lr=0.01), lambda p: torch.optim.AdamW(p, 0.01)),
        (SGD(lr=0.1), lambda p: torch.optim.SGD(p, 0.1)),
        (SGD(lr=0.1, momentum=0.9, nesterov=True), lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True)),
        (SGD(lr=0.1, momentum=0.9, weight_decay=0.01), lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.01)),
    ],
)
def test_steps_agree_with_torch(ours, theirs):
    torch.manual_seed(0)
    mine = [torch.randn(3, 2), torch.randn(4)]
    other = [torch.nn.Parameter(p.clone()) for p in mine]
    optimizer, moments = theirs(other), ours.init_state(mine)
    for _ in range(5):
        gradients = [torch.randn_like(p) for p in mine]
        ours.step(mine, gradients, moments, ours.lr)
        for p, g in zip(other, gradients, strict=True):
            p.grad = g
        optimizer.step()
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-5, atol=1e-6)


DIFFERENT = [
    [Adam(lr=0.01), Adam(lr=0.03), Adam(lr=0.01)],
    [Adam(lr=0.01), Adam(lr=0.01), Adam(lr=0.03)],
    [AdamW(lr=0.01), AdamW(lr=0.01, weight_decay=0.1)],
    [SGD(lr=0.1, momentum=0.9), SGD(lr=0.01, momentum=0.5)],
    [SGD(lr=0.1), SGD(lr=0.01)],
    [Adam(reset_per_task=True), Adam()],
]


class Both:
    """Replicas side by side, each with settings of its own, and the same ones apart."""

    def __init__(self, optimizers):
        torch.manual_seed(0)
        count = len(optimizers)
        # Sizes that fill whole vectors: what is left over the fused kernels round in another way.
        # The last parameter is a single number, and gets no gradient in every third step.
        self.side = [torch.randn(count, 8, 4), torch.randn(count, 16), torch.randn(count)]
        self.apart = [[p[i].clone() for p in self.side] for i in range(count)]
        self.together = FunctionalOptimizer(self.side, optimizers)
        self.alone = [
            FunctionalOptimizer(mine, [optimizer]) for mine, optimizer in zip(self.apart, optimizers, strict=True)
        ]
        self.begin_task()

    def begin_task(self) -> None:
        for descent in (self.together, *self.alone):
            descent.begin_task()

    def steps(self, *numbers: int) -> None:
        for number in numbers:
            generator = torch.Generator().manual_seed(number)
            gradients = [torch.randn(p.shape, generator=generator) for p in self.side]
            if number % 3 == 2:
                gradients[-1] = None
            self.together.step(gradients, lambda optimizer, number=number: optimizer.lr / number)
            for i, one in enumerate(self.alone):
                mine = [None if g is None else g[i] for g in gradients]
                one.step(mine, lambda optimizer, number=number: optimizer.lr / number)

    def check(self) -> None:
        for i, mine in enumerate(self.apart):
            for whole, alone in zip(self.side, mine, strict=True):
                torch.testing.assert_close(whole[i], alone, rtol=0, atol=0)
            found, expected = self.together.state_of(i), self.alone[i].state_of(0)
            assert found.keys() == expected.keys()
            for name, values in expected.items():
                for a, b in zip(found[name], values, strict=True):
                    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("optimizers", DIFFERENT)
def test_replicas_with_settings_of_their_own_step_exactly_as_each_alone(optimizers):
    both = Both(optimizers)
    both.steps(1, 2, 3, 4)
    both.check()
    both.begin_task()
    both.steps(5, 6)
    both.check()


@pytest.mark.parametrize("optimizers", DIFFERENT)
def test_replicas_go_on_from_states_saved_side_by_side_or_alone(optimizers):
    whole, again = Both(optimizers), Both(optimizers)
    for both in (whole, again):
        both.steps(1, 2, 3)
    apart = [copy.deepcopy(one.state_of(0)) for one in again.alone]
    side = [copy.deepcopy(again.together.state_of(i)) for i in range(len(optimizers))]
    again.together, again.alone = FunctionalOptimizer(again.side, optimizers), []
    again.together.load_states(apart)
    for mine, optimizer, state in zip(again.apart, optimizers, side, strict=True):
        again.alone.append(FunctionalOptimizer(mine, [optimizer]))
        again.alone[-1].load_states([state])
    for both in (whole, again):
        both.steps(4, 5)
        both.check()
    for a, b in zip(whole.side, again.side, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_schedules():
    assert [Adam(lr=1.0).lr_at(i, 10) for i in (0, 9)] == [1.0, 1.0]
    assert Adam(lr=1.0, schedule="linear").lr_at(5, 10) == pytest.approx(0.5)
    assert Adam(lr=1.0, schedule="cosine").lr_at(0, 10) == pytest.approx(1.0)
    assert Adam(lr=1.0, schedule="cosine").lr_at(5, 10) == pytest.approx(0.5)
    assert [Adam(lr=1.0, warmup=4).lr_at(i, 10) for i in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_a_parameter_that_lies_in_memory_otherwise_gets_its_own_gradient():
    gradient = torch.arange(16.0).view(1, 4, 2, 2)
    parameter = torch.zeros(1, 4, 2, 2).to(memory_format=torch.channels_last)
    descent = FunctionalOptimizer([parameter], [SGD(lr=1.0)])
    descent.begin_task()
    descent.step([gradient], lambda optimizer: optimizer.lr)
    torch.testing.assert_close(parameter, -gradient, rtol=0, atol=0, check_stride=False)


def test_a_gradient_that_lies_in_memory_otherwise_is_the_same_gradient():
    gradient, found = torch.arange(12.0).view(3, 4), []
    for laid_out in (gradient, gradient.t().contiguous().t()):
        parameter = torch.zeros(3, 4)
        descent = FunctionalOptimizer([parameter], [SGD(lr=1.0)])
        descent.begin_task()
        descent.step([laid_out], lambda optimizer: optimizer.lr)
        found.append(parameter)
    torch.testing.assert_close(found[0], -gradient, rtol=0, atol=0)
    torch.testing.assert_close(found[1], -gradient, rtol=0, atol=0)


def test_the_example_of_a_subclass_runs():
    result = doctest.testmod(optimizers)
    assert result.attempted > 0 and result.failed == 0
