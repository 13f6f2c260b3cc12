"""Black-box attacks on the generator of a run, and its most memorised samples beside their originals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gr_cli.benchmarks.base import Task
from gr_cli.config.instantiate import import_target
from gr_cli.errors import ConfigError, FolderError
from gr_cli.evaluation.attacks.generated_distance import Estimate
from gr_cli.evaluation.black_box import GeneratedSamplesAudit
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.results.folder import RunFolder
from gr_cli.results.stored_config import stored_settings
from gr_cli.results.tables import AFTER_TASK, FRACTION, TASK, CellValue, Column, MeasuredTable, TableFormat
from gr_cli.runner.load import load_learner, load_state
from gr_cli.training.experiment import load_benchmark
from gr_cli.training.stages import training_tasks

NUM_PAIRS = 50


def _with_interval(name: str, meaning: str, unit: str = "") -> tuple[Column, ...]:
    return (
        Column(name, meaning, unit, "lower"),
        Column(f"{name}_low", "lower end of its 95 % interval", unit),
        Column(f"{name}_high", "upper end of its 95 % interval", unit),
    )


GENERATED_TABLE = TableFormat(
    "generated_samples",
    "What generated samples alone reveal about training samples, by Euclidean distances, compared with held-out "
    "samples. Independent samples have an AUC of 50 % and a distance ratio of 1.",
    (
        AFTER_TASK,
        TASK,
        Column("n", "training samples that are compared, and as many held-out samples", "samples"),
        Column("generated", "generated samples", "samples"),
        *_with_interval("monte_carlo_auc", "attack by the number of near samples (Hilprecht et al. 2019)", FRACTION),
        *_with_interval("log_distance_auc", "attack by the log distance of near samples (same paper)", FRACTION),
        *_with_interval("distance_auc", "attack by the distance to the nearest generated sample", FRACTION),
        *_with_interval("distance_ratio", "distance to the nearest generated sample, training to held-out samples"),
        Column("authenticity", "share of authentic generated samples (Alaa et al. 2022)", FRACTION, "higher"),
        Column("held_out_authenticity", "the same for held-out samples, as a reference", FRACTION),
    ),
)


@dataclass(frozen=True)
class GeneratorOfRun:
    """The generator of a run after its last finished task, and the attacks on it.

    Attributes:
        audit: The attacks.
        spec: Specification of samples.
        after_task: Task that was trained last.
    """

    audit: GeneratedSamplesAudit
    spec: SampleSpec
    after_task: int


def generator_of_run(path: Path, trust: tuple[str, ...] = ()) -> GeneratorOfRun:
    """Load the generator of a run, and the training samples of its finished tasks.

    Raises:
        FolderError: There is no checkpoint, no task is finished, or the run has no generator.
    """
    settings, folder = stored_settings(path, trust), RunFolder(path)
    saved = load_state(settings, folder)
    learner = load_learner(settings, saved)
    if learner.generator is None:
        raise FolderError(f"{path}: has no generator whose samples could be attacked; name a run of generative replay")
    if saved["stage"] == 0:
        raise FolderError(f"{path}: has finished no task yet; continue it with gr-run resume={path}")
    tasks = _trained_tasks(settings.config["strategy"]["_target_"], load_benchmark(settings).tasks, saved["stage"])
    generator = learner.strategy.sampling_generator(0, learner.generator.eval())
    has_draw = settings.config["membership"]["draw"] is not None
    audit = GeneratedSamplesAudit(generator, tasks, settings.seed, has_draw)
    return GeneratorOfRun(audit, SampleSpec(**saved["spec"]), tasks[-1].id)


def _trained_tasks(strategy: str, tasks: Sequence[Task], stages: int) -> list[Task]:
    """The tasks of the first `stages` stages."""
    training_data = getattr(import_target(strategy, "strategy"), "training_data", "current")
    trained = {task.id: task for stage in range(stages) for task in training_tasks(tasks, training_data, stage)}
    return [trained[task] for task in sorted(trained)]


def generated_table(run: GeneratorOfRun) -> MeasuredTable:
    """The figures of each task."""
    table = MeasuredTable(GENERATED_TABLE)
    for leak in run.audit.leaks():
        estimates = {f"{name}_auc": auc for name, auc in leak.auc.items()} | {"distance_ratio": leak.distance_ratio}
        row: dict[str, CellValue] = {
            "after_task": run.after_task,
            "task": leak.task,
            "n": leak.samples,
            "generated": leak.generated,
            "authenticity": leak.authenticity,
            "held_out_authenticity": leak.held_out_authenticity,
        }
        for name, estimate in estimates.items():
            row |= _cells(name, estimate)
        table.rows.append(row)
    return table


def _cells(name: str, estimate: Estimate) -> dict[str, CellValue]:
    low, high = estimate.interval
    return {name: estimate.value, f"{name}_low": low, f"{name}_high": high}


def draw_memorised(run: GeneratorOfRun, folder: Path, picture: Path) -> None:
    """Draw the most memorised samples, each above the training sample nearest to it, for the owner of the data.

    Args:
        run: The generator.
        folder: Folder of the run.
        picture: PNG file; it contains training samples, so that it may not lie in the folder.

    Raises:
        ConfigError: The picture would lie in the folder of the run, or the samples have no preview.
    """
    if picture.resolve().is_relative_to(folder.resolve()):
        problem = "contains training samples, which a run's folder must not hold"
        raise ConfigError("--memorised", picture, problem, "name a file outside of it")
    if not run.spec.has_preview:
        raise ConfigError("--memorised", picture, "the samples of this run have no picture", "leave it out")
    from gr_cli.results import figures

    pairs = run.audit.memorised(NUM_PAIRS)
    columns = 10
    rows = [
        part
        for generated, originals in zip(pairs.generated.split(columns), pairs.originals.split(columns), strict=True)
        for part in (generated, originals)
    ]
    title = "generated over training samples: for the data owner only"
    figures.draw_sample_sheet(run.spec.preview(torch.cat(rows)), title, picture, columns, run.spec.names)
