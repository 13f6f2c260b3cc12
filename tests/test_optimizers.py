import pytest
import torch

from gr_cli.optimizers import SGD, Adam, AdamW


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
    optimizer, moments = theirs(other), ours.start(mine)
    for _ in range(5):
        gradients = [torch.randn_like(p) for p in mine]
        ours.step(mine, gradients, moments, ours.lr)
        for p, g in zip(other, gradients, strict=True):
            p.grad = g
        optimizer.step()
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-5, atol=1e-6)


def test_schedules():
    assert [Adam(lr=1.0).lr_at(i, 10) for i in (0, 9)] == [1.0, 1.0]
    assert Adam(lr=1.0, schedule="linear").lr_at(5, 10) == pytest.approx(0.5)
    assert Adam(lr=1.0, schedule="cosine").lr_at(0, 10) == pytest.approx(1.0)
    assert Adam(lr=1.0, schedule="cosine").lr_at(5, 10) == pytest.approx(0.5)
    assert [Adam(lr=1.0, warmup=4).lr_at(i, 10) for i in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
