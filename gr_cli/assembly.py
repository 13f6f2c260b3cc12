"""From settings to a run that is built and ready to go. Nothing is written here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor, nn

from gr_cli.benchmarks.base import Benchmark, Kind, Order, Samples
from gr_cli.build import build
from gr_cli.errors import ConfigError
from gr_cli.learner import Learner
from gr_cli.randomness import seeded
from gr_cli.results.record import Record
from gr_cli.scenario import Scenario
from gr_cli.settings import Settings
from gr_cli.strategies.base import Batch


@dataclass(frozen=True)
class Stage:
    """What is trained in one go: a task, or all of them in joint training. Labels of `train` are output units.

    `units`, bool (U,) or (N, U) by sample, and `replay_units`, bool (H, U): those that compete meanwhile.
    """

    task: int
    name: str
    train: Samples
    units: Tensor
    replay_units: Tensor
    iterations: int


@dataclass
class Experiment:
    """A run: what was asked for, what was built from it, and what it has found so far."""

    settings: Settings
    benchmark: Benchmark
    learner: Learner
    stages: list[Stage]
    threads: int
    record: Record = field(default_factory=Record)

    @property
    def parameters(self) -> dict[str, int]:
        """Number of parameters of solver and generator."""
        networks = {"solver": self.learner.solver, "generator": self.learner.generator}
        return {name: size(net) for name, net in networks.items() if net is not None}

    @property
    def metrics(self) -> dict[str, float | None]:
        """Metrics of what was found so far."""
        return self.record.metrics(self.learner.scenario.answers_unseen, self.parameters)

    def batches(self, stage: Stage, start: int) -> Iterator[Batch]:
        """The batches of a stage from iteration `start` on, without end."""
        size = self.settings.config["train"]["batch_size"]
        order = Order(len(stage.train), size, self.learner.draws, stage.task)
        for iteration in count(start):
            index = order[iteration]
            units = stage.units if stage.units.dim() == 1 else stage.units[index]
            yield Batch(*stage.train.batch(index), units, stage.replay_units)


def prepare(settings: Settings) -> Experiment:
    """Load the data and build everything that `settings` describe.

    Raises:
        ConfigError, DataError: something that was chosen does not fit.
    """
    config = settings.config
    device = pick_device(config["device"])
    benchmark: Benchmark = build(
        config["benchmark"], "benchmark", seed=settings.seed, data_root=config["data_root"], download=config["download"]
    )
    scenario = Scenario(config["scenario"], config["train"]["active_classes"])
    offsets = scenario.offsets(benchmark.class_counts)
    benchmark = benchmark.on(device, offsets)
    learner = build_learner(config, benchmark.kind, scenario.heads(benchmark.class_counts), device)
    threads = config["threads"] or default_threads(learner.solver, config["train"]["batch_size"])
    if config["train"]["batch_size"] == 1 and any(isinstance(m, nn.BatchNorm2d) for m in learner.solver.modules()):
        raise ConfigError("train.batch_size", 1, "batch statistics need more than one sample", "try model.norm=group")
    return Experiment(settings, benchmark, learner, _stages(config["train"], benchmark, learner), threads)


def build_learner(config: dict[str, Any], kind: Kind, heads: Tensor, device: torch.device) -> Learner:
    """Solver, generator, strategy and optimiser for samples of `kind`; initial parameters follow from the seed."""
    seed, scenario = config["seed"], Scenario(config["scenario"], config["train"]["active_classes"])
    with seeded(seed, "initialisation.solver"):
        solver = build(
            config["model"],
            "model",
            input_size=prod(kind.shape),
            image_shape=kind.shape,
            output_size=heads.shape[1],
        )
    provided = {}
    if config["generator"] is not None:
        with seeded(seed, "initialisation.generator"):
            provided["generator"] = build(
                config["generator"],
                "generator",
                sample_shape=kind.shape,
                image_shape=kind.shape,
                value_range=kind.value_range,
                trials=kind.trials,
            )
    strategy = build(config["strategy"], "strategy", **provided)
    optimizer = build(config["optimizer"], "optimizer")
    return Learner(solver, strategy, optimizer, scenario, heads, seed, device)


def _stages(train: dict[str, Any], benchmark: Benchmark, learner: Learner) -> list[Stage]:
    """What is trained one after the other: the tasks, or all at once."""
    tasks, scenario, heads = benchmark.tasks, learner.scenario, learner.heads
    mean_size = sum(len(task.train) for task in tasks) / len(tasks)
    iterations = train["iterations"] or ceil(train["epochs"] * mean_size / train["batch_size"])
    if not learner.strategy.all_tasks_at_once:
        return [
            Stage(
                task.id,
                task.name,
                task.train,
                scenario.training_units(heads, task.id),
                scenario.replay_units(heads, task.id),
                iterations,
            )
            for task in tasks
        ]
    owner = torch.cat([torch.full((len(task.train),), task.id, device=learner.device) for task in tasks])
    together = Samples.concatenated([task.train for task in tasks])
    units, last = scenario.joint_units(heads, owner), tasks[-1].id
    return [Stage(last, "all tasks", together, units, scenario.replay_units(heads, last), iterations * len(tasks))]


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto`: a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError("device", name, "must be auto, cpu, cuda or cuda:<number>") from error
    gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ConfigError("device", name, f"this machine has {gpus} usable GPUs", "try device=auto")
    return device


# Below this many multiplications per forward pass, a second thread costs more than it brings.
_WORTH_THREADS = 10_000_000


def default_threads(solver: nn.Module, batch_size: int) -> int:
    """Threads for networks of this size: one for small ones, else as many as torch would take."""
    convolutional = any(isinstance(module, nn.Conv2d) for module in solver.modules())
    return torch.get_num_threads() if convolutional or size(solver) * batch_size > _WORTH_THREADS else 1


@contextmanager
def thread_limit(threads: int) -> Iterator[None]:
    """Let torch use so many threads inside the block, and as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def repeatable(device: torch.device) -> AbstractContextManager[None]:
    """On a GPU, let convolutions choose kernels that give the same bits every time."""
    if device.type != "cuda":
        return nullcontext()
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    return flags


def size(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in network.parameters())
