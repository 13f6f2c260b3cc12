"""An experiment: benchmark, learner and stages, built from the settings of a run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from gr_cli.benchmarks.base import Benchmark
from gr_cli.benchmarks.canaries import with_canaries
from gr_cli.benchmarks.dataset_hash import dataset_hash
from gr_cli.benchmarks.labels import with_label_settings
from gr_cli.benchmarks.membership import with_membership_draw
from gr_cli.config.instantiate import build_as, fields_marked, get_path, shipped_targets
from gr_cli.config.settings import Settings
from gr_cli.errors import ConfigError, SizeError
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.nn.shared_fit import SharedFit
from gr_cli.privacy.claims import check_settings
from gr_cli.privacy.ledger import Ledger
from gr_cli.privacy.settings import PrivacySettings
from gr_cli.results.record import Record
from gr_cli.scenario import Scenario
from gr_cli.system.devices import default_threads, num_parameters, pick_device
from gr_cli.system.memory import out_of_memory_as, total_memory
from gr_cli.training.build import build_learner
from gr_cli.training.learner import Learner
from gr_cli.training.live_networks import check_own_model
from gr_cli.training.private_steps import check_private_steps
from gr_cli.training.private_training import check_private_benchmark, check_private_components
from gr_cli.training.single_pass import check_single_pass
from gr_cli.training.stages import Stage, build_stages, iterations_by_task
from gr_cli.training.task_free import ConsolidationSchedule
from gr_cli.types import CountsSamplesInMemory


@dataclass
class Experiment:
    """Everything built from the settings of one run, and its results so far.

    Attributes:
        settings: The settings.
        benchmark: The tasks, on the device.
        task_units: bool (T, U), the output units of each task.
        learner: Solver, strategy and generator.
        stages: What is trained, in order.
        threads: Number of CPU threads.
        dataset_hash: Hash of the samples of the benchmark.
        class_size: Largest number of training samples of a class in a task.
        record: Rows of all tables so far.
        training_provenance: Execution mode, processor and interruptions, as in status.json.
        ledger: Accesses to raw samples, in memory until the run has a folder; None: the run claims no privacy.
    """

    settings: Settings
    benchmark: Benchmark
    task_units: Tensor
    learner: Learner
    stages: list[Stage]
    threads: int
    dataset_hash: str
    class_size: int
    record: Record = field(default_factory=Record)
    training_provenance: dict[str, Any] = field(default_factory=dict)
    ledger: Ledger | None = None

    @property
    def privacy(self) -> PrivacySettings | None:
        """Budget of the run; None: it claims no privacy."""
        return None if self.ledger is None else self.ledger.privacy

    @property
    def parameters(self) -> dict[str, int]:
        """Number of parameters of solver and generator."""
        networks = {"solver": self.learner.solver, "generator": self.learner.generator}
        return {name: num_parameters(net) for name, net in networks.items() if net is not None}

    @property
    def shared_fits(self) -> tuple[SharedFit, ...]:
        """What was fitted on samples of several classes or tasks before strategy and generator saw them."""
        fits = list(self.benchmark.shared_fits)
        if self.settings.config["normalise"] == "first_task":
            reason = "inputs are normalised by mean and deviation of the first task"
            fits.append(SharedFit(reason, "normalise=null leaves them as they are", scope="first_task"))
        if self.benchmark.has_task_overlap:
            fits.append(SharedFit("tasks exchange samples", "benchmark.task_overlap=0 keeps them apart"))
        if self.settings.config["labels"]["noise"]:
            fits.append(SharedFit("samples of a class have labels of others", "labels.noise=0 has none", scope="task"))
        if self.learner.consolidation_schedule is not None:
            fits.append(SharedFit("the stream has no task boundaries", "train.task_boundaries=known"))
        return tuple(fits)

    @property
    def metrics(self) -> dict[str, float | None]:
        """Summary metrics of the results so far."""
        return self.record.metrics(self.learner.scenario.defined_on_unseen_tasks, self.parameters)


def load_benchmark(settings: Settings) -> Benchmark:
    """Load the benchmark that `settings` describe, on the CPU.

    Raises:
        ConfigError: Settings don't fit the data.
        DataError: The data can't be read or downloaded.
    """
    config = settings.config
    roots = {name: config[name] for name in ("data_root", "cache_root", "storage", "download")}
    device = pick_device(config["device"])
    provided = {"seed": settings.seed, "device": device, "live": settings.live_value, **roots}
    benchmark = build_as(Benchmark, config["benchmark"], "benchmark", **provided)
    benchmark = _first_tasks(benchmark, config["train"].get("tasks"))
    benchmark = with_label_settings(benchmark, settings.seed, config["labels"])
    benchmark = with_membership_draw(benchmark, settings.seed, config["membership"])
    return with_canaries(benchmark, settings.seed, config["canaries"])


def _first_tasks(benchmark: Benchmark, number: int | None) -> Benchmark:
    """The benchmark with its first tasks only, by `train.tasks`.

    Raises:
        ConfigError: It has fewer, or its tasks exchange samples.
    """
    if number is None:
        return benchmark
    if number > (total := len(benchmark.tasks)):
        raise ConfigError("train.tasks", number, f"this benchmark has {total}", "null trains all")
    if benchmark.has_task_overlap:
        remedy = "set benchmark.task_overlap=0 or train.tasks=null"
        raise ConfigError("train.tasks", number, "the first tasks contain samples of later ones", remedy)
    return replace(benchmark, tasks=benchmark.tasks[:number])


def dataset_hash_of(settings: Settings, benchmark: Benchmark | None = None) -> str:
    """Hash of the samples of the benchmark in `settings`; of the images where features are extracted from them.

    Features are left out because other versions of a library may compute other values.

    Args:
        settings: Settings of a run.
        benchmark: The benchmark in `settings`, if it is loaded already.
    """
    node = settings.config["benchmark"]
    if node.get("features") is not None:
        config = settings.config | {"benchmark": node | {"features": None}}
        return dataset_hash(load_benchmark(replace(settings, config=config)))
    return dataset_hash(benchmark or load_benchmark(settings))


@out_of_memory_as(SizeError)
def prepare(settings: Settings, runs_in_group: int = 1) -> Experiment:
    """Load the data and build everything that `settings` describe.

    Args:
        settings: Settings of the run.
        runs_in_group: Number of runs trained together, for the number of threads.

    Raises:
        ConfigError: Settings don't fit together.
        DataError: The data can't be read or downloaded.
        SizeError: Memory does not suffice.
    """
    try:
        return _prepare(settings, runs_in_group)
    except ConfigError as error:
        raise settings.naming_options(error) from error.__cause__


def _prepare(settings: Settings, runs_in_group: int) -> Experiment:
    config = settings.config
    check_settings(config)
    device = pick_device(config["device"])
    benchmark = load_benchmark(settings)
    privacy = PrivacySettings.from_config(config["privacy"], len(benchmark.tasks))
    if privacy is not None:
        check_private_benchmark(benchmark, privacy)
    hash_of_samples = dataset_hash_of(settings, benchmark)
    scenario = Scenario(config["scenario"], config["train"]["active_classes"])
    _check_memory(config, benchmark.spec, device)
    task_units = scenario.task_units(benchmark.class_counts, benchmark.repeated_tasks)
    benchmark = benchmark.to(device, scenario.unit_offsets(benchmark.class_counts, benchmark.repeated_tasks))
    if benchmark.has_task_overlap:
        task_units = _with_borrowed_classes(task_units, benchmark, scenario)
    schedule = None
    if config["train"]["task_boundaries"] == "unknown":
        iterations = iterations_by_task(config["train"], benchmark.tasks)
        length = config["strategy"].get("consolidate_every") or sum(iterations)
        schedule = ConsolidationSchedule(tuple(iterations), min(length, sum(iterations)))
    learner_units = task_units if schedule is None else schedule.interval_units(task_units)
    class_size = max(int(task.train.y.bincount().max()) for task in benchmark.tasks)
    samples, live = benchmark.tasks[0].train, settings.live_value
    learner = build_learner(config, benchmark.spec, learner_units, device, schedule, samples, class_size, live)
    if privacy is not None:
        check_private_components(settings, learner)
    if config["model"]["_target_"] not in shipped_targets("model"):
        check_own_model(learner.solver, samples, learner_units.shape[1], settings)
    task_units = task_units.to(device)
    threads = config["threads"] or default_threads(learner.solver, runs_in_group * config["train"]["batch_size"])
    if config["train"]["batch_size"] == 1 and any(isinstance(m, nn.BatchNorm2d) for m in learner.solver.modules()):
        raise ConfigError("train.batch_size", 1, "batch statistics need more than one sample", "try model.norm=group")
    stages = build_stages(benchmark, task_units, learner, config["train"])
    sizes = [len(stage.train) for stage in stages]
    if config["train"]["online"]:
        check_single_pass(settings, learner, sizes)
    check_private_steps(settings, learner, sizes)
    ledger = None if privacy is None else Ledger(privacy)
    return Experiment(
        settings, benchmark, task_units, learner, stages, threads, hash_of_samples, class_size, ledger=ledger
    )


def _check_memory(config: dict[str, Any], spec: SampleSpec, device: torch.device) -> None:
    """Refuse numbers of samples that alone would exceed the memory of the device."""
    memory, sample_bytes = total_memory(device), spec.size * (8 if config["precision"] == "float64" else 4)
    counts = {
        "train.batch_size": config["train"]["batch_size"],
        "evaluate.generated_samples": config["evaluate"]["generated_samples"] or 0,
    }
    has_pool = get_path(config["strategy"], "replay_source") == "pool"
    for name in fields_marked(config["strategy"], "strategy", CountsSamplesInMemory):
        if name == "pool_size" and not has_pool:
            continue
        counts[f"strategy.{name}"] = get_path(config["strategy"], name) or 0
    for path, number in counts.items():
        if number * sample_bytes > memory:
            needs = f"needs at least {number * sample_bytes >> 30:,} GiB of memory, and there are {memory >> 30:,}"
            raise ConfigError(path, number, needs, f"{memory // sample_bytes:,} samples would fill it")


def _with_borrowed_classes(task_units: Tensor, benchmark: Benchmark, scenario: Scenario) -> Tensor:
    """`task_units` with the classes of samples exchanged between tasks (benchmark.task_overlap) added."""
    if scenario.task_id_available:
        raise ConfigError(
            "benchmark.task_overlap",
            "on",
            f"with scenario={scenario.name} each sample has a task label, and tasks can't overlap",
            "try scenario=class or scenario=domain",
        )
    extended = task_units.clone()
    for row, task in zip(extended, benchmark.tasks, strict=True):
        row[task.train.y.unique().to(row.device)] = True
    return extended
