"""Optimizers, compared with torch.optim and between replicas and single runs."""

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
    parameters = [torch.randn(3, 2), torch.randn(4)]
    torch_parameters = [torch.nn.Parameter(p.clone()) for p in parameters]
    optimizer, state = theirs(torch_parameters), ours.init_state(parameters)
    for _ in range(5):
        gradients = [torch.randn_like(p) for p in parameters]
        ours.step(parameters, gradients, state, ours.lr)
        for p, g in zip(torch_parameters, gradients, strict=True):
            p.grad = g
        optimizer.step()
    for a, b in zip(parameters, torch_parameters, strict=True):
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
    """Replicas with different settings in one optimizer, and the same parameters in one optimizer each."""

    def __init__(self, optimizers):
        torch.manual_seed(0)
        count = len(optimizers)
        # Sizes that fill SIMD vectors: the fused kernels round remainders differently.
        # The last parameter is a scalar, without gradient in every third step.
        self.side = [torch.randn(count, 8, 4), torch.randn(count, 16), torch.randn(count)]
        self.apart = [[p[i].clone() for p in self.side] for i in range(count)]
        self.together = FunctionalOptimizer(self.side, optimizers)
        self.alone = [
            FunctionalOptimizer(parameters, [optimizer])
            for parameters, optimizer in zip(self.apart, optimizers, strict=True)
        ]
        self.begin_task()

    def begin_task(self) -> None:
        for optimizer in (self.together, *self.alone):
            optimizer.begin_task()

    def steps(self, *numbers: int) -> None:
        for number in numbers:
            generator = torch.Generator().manual_seed(number)
            gradients = [torch.randn(p.shape, generator=generator) for p in self.side]
            if number % 3 == 2:
                gradients[-1] = None
            self.together.step(gradients, lambda optimizer, number=number: optimizer.lr / number)
            for i, single in enumerate(self.alone):
                own_gradients = [None if g is None else g[i] for g in gradients]
                single.step(own_gradients, lambda optimizer, number=number: optimizer.lr / number)

    def check(self) -> None:
        for i, parameters in enumerate(self.apart):
            for stacked, alone in zip(self.side, parameters, strict=True):
                torch.testing.assert_close(stacked[i], alone, rtol=0, atol=0)
            state, expected = self.together.state_of(i), self.alone[i].state_of(0)
            assert state.keys() == expected.keys()
            for name, values in expected.items():
                for a, b in zip(state[name], values, strict=True):
                    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("optimizers", DIFFERENT)
def test_replicas_with_different_settings_match_single_optimizers(optimizers):
    both = Both(optimizers)
    both.steps(1, 2, 3, 4)
    both.check()
    both.begin_task()
    both.steps(5, 6)
    both.check()


@pytest.mark.parametrize("optimizers", DIFFERENT)
def test_states_of_replicas_and_single_runs_are_interchangeable(optimizers):
    uninterrupted, resumed = Both(optimizers), Both(optimizers)
    for both in (uninterrupted, resumed):
        both.steps(1, 2, 3)
    single_states = [copy.deepcopy(single.state_of(0)) for single in resumed.alone]
    stacked_states = [copy.deepcopy(resumed.together.state_of(i)) for i in range(len(optimizers))]
    resumed.together, resumed.alone = FunctionalOptimizer(resumed.side, optimizers), []
    resumed.together.load_states(single_states)
    for parameters, optimizer, state in zip(resumed.apart, optimizers, stacked_states, strict=True):
        resumed.alone.append(FunctionalOptimizer(parameters, [optimizer]))
        resumed.alone[-1].load_states([state])
    for both in (uninterrupted, resumed):
        both.steps(4, 5)
        both.check()
    for a, b in zip(uninterrupted.side, resumed.side, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_schedules():
    assert [Adam(lr=1.0).lr_at(i, 10) for i in (0, 9)] == [1.0, 1.0]
    assert Adam(lr=1.0, schedule="linear").lr_at(5, 10) == pytest.approx(0.5)
    assert Adam(lr=1.0, schedule="cosine").lr_at(0, 10) == pytest.approx(1.0)
    assert Adam(lr=1.0, schedule="cosine").lr_at(5, 10) == pytest.approx(0.5)
    assert [Adam(lr=1.0, warmup=4).lr_at(i, 10) for i in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_parameters_with_another_memory_format():
    gradient = torch.arange(16.0).view(1, 4, 2, 2)
    parameter = torch.zeros(1, 4, 2, 2).to(memory_format=torch.channels_last)
    optimizer = FunctionalOptimizer([parameter], [SGD(lr=1.0)])
    optimizer.begin_task()
    optimizer.step([gradient], lambda settings: settings.lr)
    torch.testing.assert_close(parameter, -gradient, rtol=0, atol=0, check_stride=False)


def test_gradients_with_another_memory_layout():
    gradient, results = torch.arange(12.0).view(3, 4), []
    for laid_out in (gradient, gradient.t().contiguous().t()):
        parameter = torch.zeros(3, 4)
        optimizer = FunctionalOptimizer([parameter], [SGD(lr=1.0)])
        optimizer.begin_task()
        optimizer.step([laid_out], lambda settings: settings.lr)
        results.append(parameter)
    torch.testing.assert_close(results[0], -gradient, rtol=0, atol=0)
    torch.testing.assert_close(results[1], -gradient, rtol=0, atol=0)


def test_docstring_example_runs():
    result = doctest.testmod(optimizers)
    assert result.attempted > 0 and result.failed == 0
