"""scripts/bench_step.py steps every shipped strategy and generator, and times products alone at their layout."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from helpers.shipped_methods import NEED_A_BUDGET, SIZES, SMALL, STRATEGY_SIZES, names

PATH = Path(__file__).parents[2] / "scripts" / "bench_step.py"
SMALL_NETWORKS = " ".join(SMALL)


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("bench_step", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # One second for each product, which is computed once instead of timed.
    monkeypatch.setattr(module, "_seconds_alone", lambda product, device: len([module._bound(product, device)()]))
    return module


def step_parts_and_floor(script, overrides, runs=1):
    benchmark = script.StepBenchmark(overrides, runs, steps=2)
    assert benchmark.time_steps() > 0
    parts = benchmark.breakdown()
    assert set(parts) <= set(script.PARTS) and {"forward", "backward", "optimizer"} <= set(parts)
    seconds, flops = benchmark.floor()  # every product can be repeated alone
    assert seconds >= 1 and flops > 0


WITHOUT_STEPS = ("fecam", "ncm", "ranpac", "slda")


@pytest.mark.parametrize("strategy", [name for name in names("strategy") if name not in WITHOUT_STEPS])
def test_every_strategy_is_stepped(script, strategy):
    step_parts_and_floor(script, f"strategy={strategy} {SMALL_NETWORKS}")


@pytest.mark.parametrize("generator", [name for name in names("generator") if name not in NEED_A_BUDGET])
def test_every_generator_is_stepped(script, generator):
    (overrides,) = (o for o in script.configurations_of_group("generator") if o.endswith(f"generator={generator}"))
    step_parts_and_floor(script, " ".join([overrides, SMALL_NETWORKS, *SIZES.get(generator, [])]))


@pytest.mark.parametrize("strategy", ["generative_classifier generator.hidden_dims=[8]", "icarl", "ewc"])
def test_strategies_that_pass_over_the_samples_again_are_stepped_as_one_program(script, strategy):
    step_parts_and_floor(script, f"strategy={strategy} {SMALL_NETWORKS}", runs=2)


@pytest.mark.parametrize(
    "method",
    [f"generative_classifier generator=mixture {' '.join(SIZES['mixture'])}", *WITHOUT_STEPS],
    ids=["mixture", *WITHOUT_STEPS],
)
def test_classifiers_in_closed_form_have_no_products(script, method):
    sizes = " ".join(STRATEGY_SIZES.get(method, []))
    benchmark = script.StepBenchmark(f"strategy={method} {sizes} {SMALL_NETWORKS}", steps=2)
    assert benchmark.floor() == (0, 0) and "backward" not in benchmark.breakdown()
    script.measure([benchmark], turns=1)


def test_a_task_free_stream_is_stepped(script):
    step_parts_and_floor(script, f"train.task_boundaries=unknown strategy.consolidate_every=3 {SMALL_NETWORKS}")


def test_the_configurations_of_a_group_are_all_its_files(script):
    assert script.configurations_of_group("strategy") == [f"strategy={name}" for name in names("strategy")]


@pytest.mark.parametrize("rows", [torch.zeros(4, 3), torch.zeros(3, 4).t(), torch.zeros(3).expand(4, 3)])
def test_operands_are_repeated_with_their_layout(script, rows):
    """4x3 by 3x2, into a new and into a given tensor: 2 * 4 * 3 * 2 operations, whatever the strides."""
    columns, out = torch.zeros(3, 2), torch.zeros(4, 2)
    with script.CountProducts() as products:
        rows @ columns
        torch.mm(rows, columns, out=out)
    assert sum(products.counts.values()) == 2
    for product in products.counts:
        operand = script._as_argument(product[1][0], torch.device("cpu"))
        assert operand.shape == rows.shape and operand.stride() == rows.stride()
        assert script._flops(product, torch.device("cpu")) == 48


def test_table(script, capsys):
    script.main([f"strategy=finetune {SMALL_NETWORKS}", "--turns", "1", "--steps", "2"])
    printed = capsys.readouterr().out
    assert re.search(r"^ +\d+\.\d{3} .*  strategy=finetune .*\(cpu, 1 thread\(s\), 1 run\(s\)\)$", printed, re.M)
    assert "ms by part" in printed
