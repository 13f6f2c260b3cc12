"""The width of programs: runs that can't be stacked, memory and speed."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from gr_cli.cli.compose import compose_settings
from gr_cli.cli.launchers.program_width import MemoryModel, WidthChoice, balanced_width, choose_width, fastest_width
from gr_cli.generators import VAE
from gr_cli.nn.replicas import Replicas

SMALL_SOLVER, SMALL_GENERATOR = "model.hidden_sizes=[16]", "generator.hidden_dims=[16]"
WIDE = "model.hidden_sizes=[1000]"
SWEEP = (
    "-m",
    "hydra/launcher=batched",
    "threads=1",
    "evaluate.generated_samples=0",
    "strategy.replay_weight=0.5,1",
    "seed=0,1",
)
SMALL = ["train.batch_size=4", SMALL_SOLVER, SMALL_GENERATOR]


def jobs_of(*words, seeds=4):
    return [compose_settings([*SMALL, *words, f"seed={seed}"]) for seed in range(seeds)]


def chosen(jobs, width=32, memory=4096 << 20):
    return choose_width(jobs, width, memory)


def test_runs_with_running_statistics_are_reported_and_run_alone():
    jobs = [
        compose_settings(["model=resnet18", "model.norm=batch", f"seed={i}", "strategy=finetune"]) for i in range(2)
    ]
    choice = chosen(jobs)
    assert choice.width == 1
    assert choice.reason == "BatchNorm2d `net.bn1` keeps running statistics"


class Noisy(nn.Module):
    """Draws from torch's global random stream, so that replicas can't have streams of their own."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(input_size, output_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(nn.functional.dropout(x.flatten(1), 0.5, self.training))


def test_runs_that_cannot_be_stacked_are_reported_and_run_alone():
    jobs = jobs_of("strategy=finetune")
    node = {"_target_": f"{__name__}.Noisy", "input_size": None, "output_size": None}
    choice = chosen([replace(job, config={**job.config, "model": node}) for job in jobs])
    assert choice.width == 1 and "random" in choice.reason


def test_runs_with_other_losses_when_stacked_run_alone(monkeypatch):
    stack = Replicas._stack

    def mixed_up(self):
        stack(self)
        for value in self._stacked_tensors.values():
            value.data.copy_(value.data.flip(0).clone())

    monkeypatch.setattr(Replicas, "_stack", mixed_up)
    choice = chosen(jobs_of("strategy=finetune"))
    assert choice.width == 1 and "as one program their loss" in choice.reason


def test_the_width_follows_from_settings_and_shapes_alone(monkeypatch):
    jobs = jobs_of(seeds=9)
    choice = chosen(jobs)
    reason = "wider is hardly faster, and leaves less to other cores"
    assert choice == WidthChoice(5, reason, choice.bytes_per_run, choice.seconds_per_run)  # two programs of up to 8
    assert chosen(jobs[:8]) == replace(choice, width=32, reason="")
    for name in ("time.perf_counter", "time.monotonic", "gr_cli.system.memory.available_memory"):
        monkeypatch.setattr(name, lambda *_: pytest.fail("the width must not depend on it"))
    assert chosen(jobs) == choice
    assert chosen(jobs, width=3).width == 3
    assert chosen(jobs, width=1) == WidthChoice(1, "that is the requested width")


@pytest.mark.parametrize(
    ("runs", "width", "balanced"),
    [(8, 8, 8), (9, 8, 5), (16, 8, 8), (20, 8, 5), (32, 8, 8), (33, 8, 5), (100, 8, 7), (9, 1, 1), (1, 8, 1)],
)
def test_programs_are_as_many_as_cores_share_evenly(runs, width, balanced):
    """1, 2, or a multiple of 4 as far as the number of runs allows."""
    assert balanced_width(runs, width) == balanced <= width


MIB = 1 << 20


@pytest.mark.parametrize(
    ("gradients", "outputs", "convolutional", "width"),
    [
        (2 * MIB, 0, False, 32),
        (1 * MIB, 1 * MIB, False, 32),
        (6 * MIB, 4 * MIB, False, 6),
        (2 * MIB, 0, True, 6),
        (1 * MIB, 3 * MIB, True, 3),
        (40 * MIB, 0, False, 1),
        (400 * MIB, 0, False, 1),
        (8 * MIB, 9 * MIB, True, 1),
    ],
)
def test_the_fastest_width_shares_a_budget_among_the_runs(gradients, outputs, convolutional, width):
    assert fastest_width(MemoryModel(gradients, outputs, has_convolutions=convolutional)) == width


def test_programs_of_larger_runs_and_of_convolutions_are_narrower():
    for size in (MemoryModel(0, 0), MemoryModel(1, 1), MemoryModel(MIB // 3, MIB // 7), MemoryModel(5 * MIB, 3 * MIB)):
        for larger in (
            replace(size, gradient_bytes=2 * size.gradient_bytes + MIB),
            replace(size, activation_bytes=2 * size.activation_bytes + MIB),
            replace(size, has_convolutions=True),
        ):
            assert 1 <= fastest_width(larger) < fastest_width(size)
        assert fastest_width(replace(size, state_bytes=1 << 40)) == fastest_width(
            size
        )  # it is not touched by each step


def test_the_size_of_a_step_counts_gradients_and_activations(monkeypatch):
    jobs = jobs_of("strategy=finetune")  # 64 inputs, 16 units, 10 outputs; 4 samples of float32
    sizes = []
    monkeypatch.setattr("gr_cli.cli.launchers.program_width.fastest_width", lambda size: sizes.append(size) or 3)
    choice = chosen(jobs)
    assert choice.width == 2 and choice.reason.startswith("wider is slower: a step of a run takes 0.0 MiB")
    assert sizes[0].gradient_bytes == 4 * (64 * 16 + 16 + 16 * 10 + 10)
    assert sizes[0].activation_bytes >= 4 * 4 * (16 + 10) and not sizes[0].has_convolutions
    words = ["strategy=finetune", "model=cnn", "model.channels=[2]", "train.batch_size=4"]
    chosen([compose_settings([*words, f"seed={seed}"]) for seed in range(2)])
    assert sizes[1].has_convolutions


def test_runs_that_exceed_the_memory_are_split_and_the_reason_printed(gr_run):
    jobs = jobs_of(seeds=9)
    size = chosen(jobs).bytes_per_run
    choice = chosen(jobs, memory=5 * size + 1)
    assert choice.width == 5 and choice.reason.startswith("a run takes up to ")
    assert chosen(jobs, memory=1).width == 1
    code, out, err = gr_run(*SWEEP, "train.iterations=3", WIDE, "hydra.launcher.memory_mib=1")
    assert code == 0, err
    assert "one after the other, because a run takes up to" in out and "MiB of hydra.launcher.memory_mib=1" in out


def test_the_memory_bound_counts_states_and_activations():
    small, wide = (chosen(jobs_of("strategy=finetune", *words)).bytes_per_run for words in ((), (WIDE,)))
    parameters = 4 * (64 * 1000 + 1000 + 10 * 1000 + 10)
    assert small < 3 * parameters < wide  # weights and two moments of Adam, gradients and temporaries not counted
    assert wide < 20 * parameters


class Tied(nn.Module):
    """A network with two names for one layer."""

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.first = nn.Linear(input_size, input_size)
        self.second, self.last = self.first, nn.Linear(input_size, output_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.first(x.flatten(1)).relu()))


def test_runs_with_tied_weights_are_reported_and_run_alone():
    jobs = jobs_of("strategy=finetune")
    node = {"_target_": f"{__name__}.Tied", "input_size": None, "output_size": None}
    choice = chosen([replace(job, config={**job.config, "model": node}) for job in jobs])
    assert choice.width == 1 and choice.reason == "ValueError: `second.weight` is another name of a parameter"


class Careless(VAE):
    """A loss that sums over the first axis: the batch of one run, the replicas of a program."""

    def losses(self, objective, x, noise):
        losses = super().losses(objective, x, noise)
        mean, _ = self.encode(x, noise)
        return {**losses, "size": mean.square().sum(0).mean(-1).expand_as(losses["kl"])}


def test_a_generator_with_losses_across_replicas_is_detected():
    jobs = jobs_of()
    node = {**jobs[0].config["generator"], "_target_": f"{__name__}.Careless"}
    choice = chosen([replace(job, config={**job.config, "generator": node}) for job in jobs])
    assert choice.width == 1 and "their loss `size` would be" in choice.reason
