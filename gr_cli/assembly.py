"""From settings to a run that is built and ready to go. Nothing is written here."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from itertools import count, islice
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor, nn

from gr_cli.benchmarks.base import Benchmark, Kind, Samples, Task
from gr_cli.benchmarks.fingerprint import fingerprint
from gr_cli.config.instantiate import asks_for, at, build_as, marked_fields, split_optimizer
from gr_cli.config.settings import Settings
from gr_cli.errors import ConfigError, SizeError
from gr_cli.generators.base import Generator
from gr_cli.learner import Learner, Precision
from gr_cli.nn.augmentation import Augment
from gr_cli.nn.batch_order import Order
from gr_cli.nn.layers import HasFeatures
from gr_cli.nn.random_streams import Draws, seeded
from gr_cli.nn.replicas import Replicas
from gr_cli.normalisation import moments
from gr_cli.optimizers import Optimizer
from gr_cli.results.record import Record
from gr_cli.scenario import Scenario
from gr_cli.strategies.base import Strategy
from gr_cli.strategies.steps import Batch, Pass
from gr_cli.stretches import Stretches, check_boundaries
from gr_cli.system.devices import default_threads, pick_device, size
from gr_cli.system.memory import memory_told, whole_memory
from gr_cli.types import InMemory, PerReplica


@dataclass(frozen=True)
class Stage:
    """What is trained in one go: a task, or all of them in joint training. Labels of `train` are output units.

    `units`, bool (U,) or (N, U) by sample, `replay_units`, bool (H, U), and `rivals`, bool (U, U): those that compete
    meanwhile (see `Batch`).
    """

    task: int
    name: str
    train: Samples
    units: Tensor
    replay_units: Tensor
    rivals: Tensor
    iterations: int


@dataclass
class Experiment:
    """A run: what was asked for, what was built from it, and what it has found so far."""

    settings: Settings
    benchmark: Benchmark
    heads: Tensor  # bool (T, U): which units belong to which task
    learner: Learner
    stages: list[Stage]
    threads: int
    data: str  # a name for its samples
    record: Record = field(default_factory=Record)
    training: dict[str, Any] = field(default_factory=dict)  # how it is trained, see `facts.training`

    @property
    def parameters(self) -> dict[str, int]:
        """Number of parameters of solver and generator."""
        networks = {"solver": self.learner.solver, "generator": self.learner.generator}
        return {name: size(net) for name, net in networks.items() if net is not None}

    @property
    def metrics(self) -> dict[str, float | None]:
        """Metrics of what was found so far."""
        return self.record.metrics(self.learner.scenario.answers_unseen, self.parameters)


# Iterations whose samples are chosen at once, and most samples for it.
_BLOCK, _CHOSEN = 64, 1 << 20


def batches(experiments: Sequence[Experiment], number: int, start: int) -> Iterator[Batch]:
    """The batches of stage `number` from iteration `start` on, without end, for runs that are trained together."""
    stages = [experiment.stages[number] for experiment in experiments]
    size, first = experiments[0].settings.config["train"]["batch_size"], stages[0]
    orders = [Order(len(s.train), size, e.learner.draws[0], s.task) for s, e in zip(stages, experiments, strict=True)]
    one_store = all(s.train.store is first.train.store and s.train.transform is None for s in stages)
    length = max(1, min(_BLOCK, _CHOSEN // size))
    for block in count(start, length):
        chosen = [order.block(block, length) for order in orders]  # (length, B) each
        places = torch.stack(chosen, 1)  # (length, R, B)
        rows = torch.stack([s.train.rows(index) for s, index in zip(stages, chosen, strict=True)], 1)
        labels = torch.stack([s.train.y[index] for s, index in zip(stages, chosen, strict=True)], 1)
        units = (
            [first.units] * length
            if first.units.dim() == 1
            else torch.stack([s.units[index] for s, index in zip(stages, chosen, strict=True)], 1)
        )
        for row, y, competing, index in zip(rows, labels, units, places, strict=True):
            if one_store:
                x = first.train.values(row)
            else:
                x = torch.stack([s.train.values(mine) for s, mine in zip(stages, row, strict=True)])
            yield Batch(x.to(experiments[0].learner.dtype), y, competing, first.replay_units, first.rivals, index)


def load_benchmark(settings: Settings) -> Benchmark:
    """The benchmark that `settings` describe, on the CPU.

    Raises:
        ConfigError, DataError: it does not fit, or its data are not to be had.
    """
    config = settings.config
    roots = {name: config[name] for name in ("data_root", "cache_root", "download")}
    device = pick_device(config["device"])
    return build_as(Benchmark, config["benchmark"], "benchmark", seed=settings.seed, device=device, **roots)


def data_of(settings: Settings, benchmark: Benchmark | None = None) -> str:
    """A name for the samples that `settings` name, those of their `benchmark`; of images, not of features of them,
    which other versions may compute otherwise."""
    node = settings.config["benchmark"]
    if node.get("features") is not None:
        config = settings.config | {"benchmark": node | {"features": None}}
        return fingerprint(load_benchmark(replace(settings, config=config)))
    return fingerprint(benchmark or load_benchmark(settings))


def prepare(settings: Settings, together: int = 1) -> Experiment:
    """Load the data and build everything that `settings` describe, for a run that is one of so many trained together.

    Raises:
        ConfigError, DataError, SizeError: something that was chosen does not fit.
    """
    with memory_told(SizeError):
        return _prepared(settings, together)


def _prepared(settings: Settings, together: int) -> Experiment:
    config = settings.config
    device = pick_device(config["device"])
    benchmark = load_benchmark(settings)
    data = data_of(settings, benchmark)
    scenario = Scenario(config["scenario"], config["train"]["active_classes"])
    _check_room(config, benchmark.kind, device)
    heads = scenario.heads(benchmark.class_counts, benchmark.repeats)
    benchmark = benchmark.on(device, scenario.offsets(benchmark.class_counts, benchmark.repeats))
    if benchmark.blurred:
        heads = _widened(heads, benchmark, scenario)
    iterations, stretches = _iterations(config["train"], benchmark), None
    if config["train"]["boundaries"] == "hidden":
        total = iterations * len(benchmark.tasks)
        length = config["strategy"].get("consolidate_every") or total
        stretches = Stretches(len(benchmark.tasks), iterations, min(length, total))
    told = heads if stretches is None else stretches.heads(heads)
    learner = build_learner(config, benchmark.kind, told, device, stretches, benchmark.tasks[0].train)
    heads = heads.to(device)
    threads = config["threads"] or default_threads(learner.solver, together * config["train"]["batch_size"])
    if config["train"]["batch_size"] == 1 and any(isinstance(m, nn.BatchNorm2d) for m in learner.solver.modules()):
        raise ConfigError("train.batch_size", 1, "batch statistics need more than one sample", "try model.norm=group")
    stages = _stages(benchmark, heads, learner, iterations)
    return Experiment(settings, benchmark, heads, learner, stages, threads, data)


def _check_room(config: dict[str, Any], kind: Kind, device: torch.device) -> None:
    """Refuse numbers of samples that would not fit into memory, if nothing else was there."""
    room, one = whole_memory(device), prod(kind.shape) * (8 if config["precision"] == "float64" else 4)
    counts = {"train.batch_size": config["train"]["batch_size"], "evaluate.dreams": config["evaluate"]["dreams"] or 0}
    without_pool = at(config["strategy"], "replay_source") != "pool"
    for name in marked_fields(config["strategy"], "strategy", InMemory):
        if name == "pool_size" and without_pool:
            continue
        counts[f"strategy.{name}"] = at(config["strategy"], name) or 0
    for path, number in counts.items():
        if number * one > room:
            takes = f"takes {number * one >> 30:,} GiB of memory at least, and there are {room >> 30:,}"
            raise ConfigError(path, number, takes, f"{room // one:,} samples would fill them")


def _widened(heads: Tensor, benchmark: Benchmark, scenario: Scenario) -> Tensor:
    """The units of each task's classes and of the classes that other tasks lent it."""
    if scenario.tells_tasks:
        raise ConfigError(
            "benchmark.blur",
            "on",
            f"with scenario={scenario.kind} each sample tells which task it is from, and no boundary is blurred",
            "try scenario=class or scenario=domain",
        )
    wide = heads.clone()
    for row, task in zip(wide, benchmark.tasks, strict=True):
        row[task.train.y.unique().to(row.device)] = True
    return wide


def build_learner(
    config: dict[str, Any],
    kind: Kind,
    heads: Tensor,
    device: torch.device,
    stretches: Stretches | None = None,
    first: Samples | None = None,
) -> Learner:
    """Solver, generator, strategy and optimiser for samples of `kind`; initial parameters follow from the seed.

    `first`: the training samples of the first task, by which the solver may see all; None: its state will be loaded.
    """
    seed, recurring = config["seed"], bool((heads.sum(0) > 1).any())
    scenario = Scenario(config["scenario"], config["train"]["active_classes"], recurring)
    with seeded(seed, "initialisation.solver"):
        sizes = {"input_size": prod(kind.shape), "image_shape": kind.shape, "output_size": heads.shape[1]}
        _check_sizes(config["model"], "model", sizes)
        if config["normalise"] is not None and not asks_for(config["model"], "model", "moments"):
            raise ConfigError(
                "normalise", config["normalise"], "this model takes no moments to normalise by", "try normalise=null"
            )
        seen = moments(config["normalise"], kind, first)
        solver = build_as(nn.Module, config["model"], "model", moments=seen, **sizes)
    provided, own = {}, None
    if config["generator"] is not None:
        with seeded(seed, "initialisation.generator"):
            provided["generator"] = build_generator(
                config["generator"], kind, heads.shape[1], solver, None if scenario.tasks_have_units else len(heads)
            )
        own = build_generator_optimizer(config["generator"], provided["generator"])
    strategy = build_as(Strategy, config["strategy"], "strategy", **provided)
    check_boundaries(config["train"]["boundaries"] == "hidden", strategy, scenario)
    strategy.check(scenario, solver)
    augment = Augment(**config["augment"])
    augment.check(kind.shape)
    optimizer = build_as(Optimizer, config["optimizer"], "optimizer")  # type: ignore[type-abstract]
    draws, precision = Draws(seed, device), config["precision"]
    return one_learner(solver, strategy, optimizer, scenario, heads, draws, precision, augment, stretches, own)


def build_generator(
    node: dict[str, Any], kind: Kind, classes: int, solver: nn.Module, tasks: int | None = None
) -> Generator:
    """A generator of samples of `kind`, beside `solver`; `tasks`: how many share their classes, if they do."""
    node, _ = split_optimizer(node)
    provided: dict[str, Any] = {
        "sample_shape": kind.shape,
        "image_shape": kind.shape,
        "value_range": kind.value_range,
        "trials": kind.trials,
        "classes": classes,
        "tasks": tasks,
    }
    if asks_for(node, "generator", "feature_size"):
        if not isinstance(solver, HasFeatures):
            raise ConfigError(
                "model", type(solver).__name__, "has no features, which this generator reads", "try model=mlp"
            )
        provided["feature_size"] = solver.feature_size
    if node.get("hidden_dims", ()) is None:
        # The solver's own widths, where it is a plain stack of layers.
        provided["hidden_dims"] = getattr(solver, "hidden_sizes", None)
        if provided["hidden_dims"] is None:
            raise ConfigError(
                "generator.hidden_dims",
                None,
                f"{type(solver).__name__} has no hidden_sizes to be taken over",
                "name them: generator.hidden_dims=[256,128]",
            )
    _check_sizes(node, "generator", {name: value for name, value in provided.items() if name in _SIZES})
    return build_as(Generator, node, "generator", **provided)  # type: ignore[type-abstract]


def build_generator_optimizer(node: dict[str, Any], generator: Generator) -> Optimizer | None:
    """The optimiser of the generator's own; None: it has the settings of the solver's."""
    _, own = split_optimizer(node)
    if own is None:
        return None
    if not generator.parts():
        fitted = f"{type(generator).__name__} is fitted in one go, and takes no steps"
        raise ConfigError("generator.optimizer", own["_target_"], fitted, "leave it out")
    return build_as(Optimizer, own, "generator.optimizer")  # type: ignore[type-abstract]


# What a generator can't choose for itself: what samples look like, and what it is connected to.
_SIZES = ("sample_shape", "image_shape", "classes", "feature_size", "tasks")


def _check_sizes(node: dict[str, Any], path: str, sizes: Mapping[str, Any]) -> None:
    """Refuse settings that say otherwise than what follows from the benchmark."""
    for name, value in sizes.items():
        said, follows = node.get(name), list(value) if isinstance(value, tuple) else value
        if said not in (None, follows):
            allowed = f"follows from the other choices, and is {follows} here"
            raise ConfigError(f"{path}.{name}", said, allowed, "leave it out")


def one_learner(
    solver: nn.Module,
    strategy: Strategy,
    optimizer: Optimizer,
    scenario: Scenario,
    heads: Tensor,
    draws: Draws,
    precision: Precision = "float32",
    augment: Augment | None = None,
    stretches: Stretches | None = None,
    generator_optimizer: Optimizer | None = None,
) -> Learner:
    """A learner of one replica, on the device of its random streams."""
    for network in (solver, strategy.generator):
        if network is not None:
            network.to(draws.device)
            if precision == "float64":
                network.double()
    generators = None if strategy.generator is None else Replicas([strategy.generator])
    return Learner(
        Replicas([solver]),
        generators,
        strategy,
        [optimizer],
        scenario,
        heads,
        [draws],
        precision,
        augment,
        stretches,
        None if generator_optimizer is None else [generator_optimizer],
    )


def side_by_side(experiments: Sequence[Experiment]) -> Learner:
    """One learner for all: that of the one, or one whose replicas are the networks of each."""
    learners = [experiment.learner for experiment in experiments]
    if len(learners) == 1:
        return learners[0]
    first, varying = learners[0], partial(_varying, [e.settings.config for e in experiments], device=learners[0].device)
    strategy = copy.copy(first.strategy)
    strategy.regularizer = copy.copy(strategy.regularizer)
    for name, values in varying("strategy").items():
        *owners, leaf = name.split(".")
        setattr(reduce(getattr, owners, strategy), leaf, values)
    generators = [learner.generator for learner in learners if learner.generator is not None]
    return Learner(
        Replicas([learner.solver for learner in learners], varying("model")),
        Replicas(generators, varying("generator")) if generators else None,
        strategy,
        [optimizer for learner in learners for optimizer in learner.optimizers],
        first.scenario,
        first.heads,
        [draws for learner in learners for draws in learner.draws],
        first.precision,
        first.augment,
        first.stretches,
        [optimizer for learner in learners for optimizer in learner.generator_optimizers],
    )


def _varying(configs: Sequence[dict[str, Any]], group: str, device: torch.device) -> dict[str, Tensor]:
    """The numbers of a group in which the configurations differ, (R,) each."""
    nodes = [config[group] for config in configs]
    names = () if nodes[0] is None else marked_fields(nodes[0], group, PerReplica)
    values = {name: [at(node, name) for node in nodes] for name in names if at(nodes[0], name) is not None}
    return {
        name: torch.tensor(found, dtype=torch.float64, device=device)
        for name, found in values.items()
        if len(set(found)) > 1
    }


def passes(experiments: Sequence[Experiment], number: int, most: int | None = None) -> Pass:
    """Passes over the samples of stage `number`, for each run; over the first `most` batches of them."""
    stages, dtype = [experiment.stages[number] for experiment in experiments], experiments[0].learner.dtype
    return lambda replica: ((x.to(dtype), y) for x, y in islice(stages[replica].train.batches(), most))


def _iterations(train: dict[str, Any], benchmark: Benchmark) -> int:
    """Iterations of each task: given, or epochs of a task of mean size."""
    mean_size = sum(len(task.train) for task in benchmark.tasks) / len(benchmark.tasks)
    given: int | None = train["iterations"]
    return given or ceil(train["epochs"] * mean_size / train["batch_size"])


def _stages(benchmark: Benchmark, heads: Tensor, learner: Learner, iterations: int) -> list[Stage]:
    """What is trained one after the other: each task, each with all before it, or all at once."""
    tasks, sees = benchmark.tasks, learner.strategy.sees
    if sees == "all":
        return [_stage(tasks, "all tasks", heads, learner, iterations * len(tasks))]
    return [_stage(trained_in(tasks, sees, task.id), task.name, heads, learner, iterations) for task in tasks]


def trained_in(tasks: Sequence[Task], sees: str, number: int) -> Sequence[Task]:
    """The tasks that stage `number` trains, under a strategy that sees so much."""
    if sees == "all":
        return tasks
    return tasks[0 if sees == "so_far" else number : number + 1]


def _stage(tasks: Sequence[Task], name: str, heads: Tensor, learner: Learner, iterations: int) -> Stage:
    """The samples of some tasks as one stage, which counts as the last of them."""
    scenario, last = learner.scenario, tasks[-1].id
    rest = (scenario.replay_units(heads, last), scenario.rivals(heads, last), iterations)
    if len(tasks) == 1:
        return Stage(last, name, tasks[0].train, scenario.training_units(heads, last), *rest)
    owner = torch.cat([torch.full((len(task.train),), task.id, device=learner.device) for task in tasks])
    together = Samples.concatenated([task.train for task in tasks])
    return Stage(last, name, together, scenario.joint_units(heads, owner, last), *rest)
