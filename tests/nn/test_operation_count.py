"""Operations are those of a hand count, and those that torch's own counter gives."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from gr_cli.models import SimpleMLP
from gr_cli.nn.operation_count import OperationCount, shared_work


def operations(work):
    count = OperationCount()
    with count.once("work"):
        work()
    return count.by_phase()["work"]


def test_a_step_of_a_network_by_hand():
    network, x, y = SimpleMLP(6, [5, 4], 3), torch.zeros(2, 6), torch.tensor([0, 1])
    forward = 2 * 2 * (6 * 5 + 5 * 4 + 4 * 3)
    # Gradients of all weights, and of the inputs of all layers but the first.
    backward = forward + 2 * 2 * (5 * 4 + 4 * 3)
    assert operations(lambda: F.cross_entropy(network(x), y).backward()) == forward + backward


@pytest.mark.parametrize("layer", [
    nn.Conv2d(4, 6, 3, padding=1),
    nn.Conv2d(4, 6, 3, stride=2, bias=False),
    nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1),
    nn.Conv1d(4, 6, 3),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("needs_input_gradient", [False, True])
def test_convolutions_as_torch_counts_them(layer, needs_input_gradient):
    shape = (3, 4, 8) if isinstance(layer, nn.Conv1d) else (3, 4, 8, 7)
    x = torch.randn(shape, requires_grad=needs_input_gradient)
    with FlopCounterMode(display=False) as torch_count:
        layer(x).sum().backward()
    assert operations(lambda: layer(x).sum().backward()) == torch_count.get_total_flops()


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 6, 3, groups=2)], ids=str)
def test_convolutions_in_groups_by_hand(layer):
    x = torch.randn(3, 4, 8, 7, requires_grad=True)
    positions = 3 * (8 * 7 if layer.transposed else 6 * 5)
    forward = 2 * positions * (4 // 2) * 6 * 3 * 3
    assert operations(lambda: layer(x)) == forward
    assert operations(lambda: layer(x).sum().backward()) == 3 * forward


def test_batched_products_as_torch_counts_them():
    a, b = torch.randn(5, 2, 3, requires_grad=True), torch.randn(5, 3, 4, requires_grad=True)
    with FlopCounterMode(display=False) as torch_count:
        torch.baddbmm(torch.zeros(5, 2, 4), a, b).sum().backward()
    assert operations(lambda: torch.baddbmm(torch.zeros(5, 2, 4), a, b).sum().backward()) == (
        torch_count.get_total_flops()
    )
    assert torch_count.get_total_flops() == 3 * 2 * 5 * 2 * 3 * 4


def test_a_product_of_onednn():
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no oneDNN")
    x, weight = torch.randn(7, 3), torch.randn(5, 3)
    linear = torch.ops.mkldnn._linear_pointwise.default
    assert operations(lambda: linear(x, weight, None, "none", [], "")) == 2 * 7 * 3 * 5


@pytest.mark.parametrize(("name", "expected"), [
    ("cholesky", 4**3 // 3),
    ("eigh", 9 * 4**3),
    ("qr", 4 * 4 * 4 * 4 - 4 * 4**3 // 3),
    ("svd", 4 * 4 * 4 * 4 + 22 * 4**3),
])  # fmt: skip
def test_decompositions_of_two_matrices(name, expected):
    matrices = torch.eye(4).expand(2, 4, 4)
    assert operations(lambda: getattr(torch.linalg, name)(matrices)) == pytest.approx(2 * expected, abs=2)


def test_solutions_of_linear_systems():
    a, b = torch.eye(4), torch.randn(4, 3)
    assert operations(lambda: torch.linalg.solve_triangular(a, b, upper=False)) == 4 * 4 * 3
    assert operations(lambda: torch.linalg.solve(a, b)) == 2 * 4**3 // 3 + 2 * 4 * 4 * 3
    assert operations(lambda: torch.cdist(b, torch.randn(40, 3))) == 2 * 4 * 3 * 40


def product():
    return torch.zeros(2, 3) @ torch.zeros(3, 5)


def test_all_steps_of_a_kind_cost_what_its_first_one_costs():
    count = OperationCount()
    for kind in ("solver", "solver", "generator.critic", "generator.critic+generator", "generator.critic"):
        with count.step(kind):
            product()
    assert count.by_phase() == {"solver": 2 * 60, "generator": 3 * 60}
    count.begin_task()
    with count.step("solver"):
        product(), product()
    assert count.by_phase()["solver"] == 4 * 60


def test_shared_work_is_charged_to_the_steps_that_share_it():
    count = OperationCount()
    for step in range(8):
        with count.step("solver"):
            product()
            if step % 4 == 0:
                with shared_work("block", 4):
                    [product() for _ in range(4)]
            if step == 0:
                with shared_work("pool", None):
                    [product() for _ in range(7)]
    assert count.by_phase() == {"solver": (8 + 8 + 7) * 60}


def test_a_resumed_run_repeats_shared_work_without_a_charge():
    def step(count, kind, generates):
        with count.step(kind):
            product()
            if generates:
                with shared_work("block", 3):
                    [product() for _ in range(3)]
                with shared_work("pool", None):
                    product()

    uninterrupted, resumed = OperationCount(), OperationCount()
    step(uninterrupted, "solver.first", generates=True)
    resumed.load_state_dicts([uninterrupted.state_dict()])
    step(uninterrupted, "solver", generates=False)
    step(resumed, "solver", generates=True)
    assert resumed.state_dict() == uninterrupted.state_dict()
    assert resumed.by_phase() == {"solver": (2 + 2 + 1) * 60}


def test_shared_work_of_a_task_is_not_that_of_the_next_one():
    count = OperationCount()
    for generates in (True, False):
        count.begin_task()
        for _ in range(2):
            with count.step("solver"):
                product()
                if generates:
                    with shared_work("block", 2):
                        product(), product()
    assert count.by_phase() == {"solver": (4 + 2) * 60}


def test_shared_work_outside_of_a_count_is_only_done():
    with shared_work("block", 3):
        product()


def test_a_count_goes_on_from_its_state():
    count, resumed = OperationCount(), OperationCount()
    with count.step("solver"):
        product(), product()
    resumed.load_state_dicts([count.state_dict()] * 3)
    with resumed.step("solver"):
        pass  # not counted anew
    assert resumed.by_phase() == {"solver": 2 * 3 * 2 * 60}


def test_nothing_is_lost_where_several_runs_are_saved_and_continued():
    count, resumed = OperationCount(), OperationCount()
    with count.step("solver"):
        product()
    for num_runs in (1, 4, 7):  # 60 is no multiple of 7
        resumed.load_state_dicts([count.state_dict(run, num_runs) for run in range(num_runs)])
        assert resumed.state_dict() == count.state_dict()


def test_shared_work_that_steps_of_another_phase_did():
    count = OperationCount()
    for step in range(8):
        with count.step("solver" if step < 5 else "generator_batch"):
            with shared_work("block", 4):
                if step % 4 == 0:
                    [product() for _ in range(4)]
            with shared_work("pool", None):
                if step == 0:
                    product()
    assert count.by_phase() == {"solver": (5 + 1) * 60, "generator_batch": 3 * 60}
