"""scripts/bench_gpu.py, on the CPU with tiny networks."""

import json
from pathlib import Path

import pytest
import torch

from gr_cli.nn.random_streams import RandomStreams
from gr_cli.training.learner import Learner

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_gpu

    return bench_gpu


def run(script, tmp_path, *arguments):
    small = ["--device", "cpu", "--small", "--steps", "4", "--turns", "1", "--replicas", "2"]
    return script.main([*arguments, *small, "--json", str(tmp_path / "gpu.json")])


def test_every_part_runs(script, tmp_path, capsys):
    assert run(script, tmp_path, "strategy=ewc", "strategy=dgr") == 0
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert list(parts) == list(script.PARTS)
    for name, rows in parts.items():
        assert len(rows) == (1 if name == "graphs" else 2)
        assert all(row.get("passed", True) for row in rows)
    assert {row["difference"] for name in ("equality", "resume") for row in parts[name]} == {0.0}
    assert parts["replicas"][0]["runs"] == 2 and parts["speed"][0]["floor_ms"] > 0
    assert "strategy=dgr" in capsys.readouterr().out


@pytest.mark.parametrize("strategy", ["joint", "generative_classifier", "icarl"])
def test_strategies_with_other_stages_and_steps_are_checked(script, tmp_path, strategy):
    assert run(script, tmp_path, f"strategy={strategy}", "--part", "equality", "--part", "resume") == 0


def test_without_a_gpu(script, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script.main([]) == 2
    assert capsys.readouterr().err == (
        "bench_gpu: torch finds no GPU; --device cpu --small tests the script without one\n"
    )


def test_a_difference_above_the_tolerance_fails(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "rounding_tolerance", lambda steps: -1.0)
    assert run(script, tmp_path, "strategy=finetune", "--part", "equality") == 1


def test_a_state_that_is_restored_wrongly_fails(script, tmp_path, monkeypatch):
    load_states = Learner.load_states

    def load_other_states(learner, *arguments):
        load_states(learner, *arguments)
        next(learner.solver.parameters()).data += 0.5

    monkeypatch.setattr(Learner, "load_states", load_other_states)
    assert run(script, tmp_path, "strategy=finetune", "--part", "resume") == 1
    (row,) = json.loads((tmp_path / "gpu.json").read_text())["parts"]["resume"]
    assert row["difference"] > script.rounding_tolerance(8)


def test_largest_difference(script):
    a, nan = torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")])
    assert script.largest_difference([a], [a.clone()]) == 0
    assert script.largest_difference([a, a], [a, torch.tensor([1.0, 2.5])]) == 0.5
    assert script.largest_difference([a], [a[:1]]) == float("inf")
    assert script.largest_difference([a], [nan]) == float("inf")


def test_single_precision_exceeds_the_tolerance(script):
    """Initial weights rounded to another float32 differ by 1e-8 of their size, 0.1 to 1; a step of Adam by 0.001."""
    assert 1e-13 * 100 < script.rounding_tolerance(16) < 1e-8


def test_random_numbers_of_the_cpu_on_another_device(script):
    streams, other = RandomStreams(3), RandomStreams(3, torch.device("meta"))
    expected = streams.draw("normal", "a stream", 1, shape=(5,))
    with script.cpu_random_numbers():
        assert torch.equal(streams.draw("normal", "a stream", 1, shape=(5,)), expected)
        drawn, order = other.draw("normal", "a stream", 1, shape=(5,)), other.permutation("order", n=4)
        generator = other.generator("labels")
        labels = torch.multinomial(torch.ones(2, 3), 1, generator=generator)
    assert drawn.device.type == order.device.type == "meta" and drawn.shape == (5,) and order.shape == (4,)
    assert torch.equal(labels, torch.multinomial(torch.ones(2, 3), 1, generator=streams.generator("labels")))
