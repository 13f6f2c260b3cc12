"""The settings of a run outside its components: what each means and allows. Defaults are in `conf/config.yaml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len, Lt

from gr_cli.types import FractionBelowOne, NonNegative, NonNegativeInt, Positive, PositiveInt

Fraction = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True)
class RunSetting:
    """A setting of a run.

    Attributes:
        allowed: The annotation that its values are checked against.
        meaning: What it sets, with its unit and its special values.
    """

    allowed: Any
    meaning: str


@dataclass(frozen=True)
class Section:
    """Settings with a common prefix, such as `train.`."""

    meaning: str
    settings: Mapping[str, RunSetting]


RUN_SETTINGS: dict[str, RunSetting | Section] = {
    "seed": RunSetting(NonNegativeInt, "Seed of all random numbers: initial weights, batches, noise, class order."),
    "scenario": RunSetting(
        Literal["class", "domain", "task"],
        "Continual learning scenario: class-, domain- or task-incremental (van de Ven et al. 2022).",
    ),
    "train": Section(
        "Length and batches of training.",
        {
            "iterations": RunSetting(
                PositiveInt | None, "Training iterations per task; `null` if `train.epochs` is set instead."
            ),
            "epochs": RunSetting(
                PositiveInt | None,
                "Epochs per task, counted on a task of mean size; `null` if `train.iterations` is set instead.",
            ),
            "online": RunSetting(
                bool,
                "Single-pass stream (online continual learning): each training sample is in one batch. The number of "
                "iterations follows from the data; `train.iterations` and `train.epochs` must be `null`.",
            ),
            "updates_per_batch": RunSetting(
                PositiveInt, "Iterations on each batch of a single-pass stream, each with newly drawn replay."
            ),
            "batch_size": RunSetting(PositiveInt, "Samples of the current task per iteration."),
            "active_classes": RunSetting(
                Literal["seen", "all", "task"],
                "Output units that compete on current samples in class-incremental training: those of the classes "
                "seen so far, all, or those of the current task (the labels trick, Zeno et al. 2018); on replayed "
                "samples those of the classes seen so far, or all.",
            ),
            "task_boundaries": RunSetting(
                Literal["known", "unknown"],
                "Whether the strategy knows when a task ends; `unknown` makes the stream task-free.",
            ),
            "tasks": RunSetting(
                PositiveInt | None, "Number of tasks, the first ones of the benchmark, for a search; `null`: all."
            ),
        },
    ),
    "labels": Section(
        "Labels of the training samples, drawn by the seed in each task; test and validation samples keep theirs.",
        {
            "noise": RunSetting(
                FractionBelowOne, "Share of the training labels of each task that are replaced by wrong ones."
            ),
            "noise_type": RunSetting(
                Literal["symmetric", "pair"],
                "Wrong labels: any other class of the task (`symmetric`), or the next one, after the last the first "
                "(`pair`, Han et al. 2018).",
            ),
            "per_class": RunSetting(
                PositiveInt | None,
                "Training samples of each class of a task that have a label, or all if there are fewer; the others are "
                "left out. `null`: all.",
            ),
            "share": RunSetting(
                Annotated[float, Gt(0), Le(1)] | None,
                "Share of the training samples of each class of a task that have a label, at least one; the others are "
                "left out. `null`: all.",
            ),
        },
    ),
    "membership": Section(
        "Runs on a part of the training samples, for membership inference; `gr-audit` sets them.",
        {
            "draw": RunSetting(
                NonNegativeInt | None,
                "Number of the draw that chooses the training samples, a share of each class of each task, and the "
                "random numbers of training; benchmark and candidates follow from the seed. With a draw the run writes "
                "membership scores of all candidates after each task. `null`: all samples, no scores.",
            ),
            "share": RunSetting(
                Annotated[float, Gt(0), Lt(1)],
                "Share of the samples of each class of a task that are members. At 0.5 each sample is a member in "
                "exactly one of the draws 2k and 2k + 1.",
            ),
            "candidates": RunSetting(
                PositiveInt | None,
                "Samples of each class of a task that get scores, evenly chosen, members or not; `null`: all.",
            ),
        },
    ),
    "canaries": Section(
        "Canaries: training samples of which coin flips decide whether they are trained on, for `gr-audit --canaries`.",
        {
            "count": RunSetting(
                PositiveInt | None,
                "Canaries of each task, at most half of its training samples. The run writes their scores after each "
                "task, as with a membership draw. `null`: none.",
            ),
            "draw": RunSetting(NonNegativeInt, "Number of the coin flips; the canaries follow from the seed."),
            "mislabelled": RunSetting(
                bool, "Give each canary another class of its task, so that it influences training more."
            ),
        },
    ),
    "augment": Section(
        "Random augmentation of the samples that the solver learns from; generators are trained without it.",
        {
            "noise": RunSetting(NonNegative, "Standard deviation of additive Gaussian noise, in units of the samples."),
            "shift": RunSetting(
                NonNegativeInt, "Largest shift of an image in each direction, in pixels; zeros move in."
            ),
            "flip": RunSetting(Fraction, "Probability that an image is mirrored left to right."),
            "brightness": RunSetting(
                Fraction, "Largest relative change of brightness: values are multiplied by 1 - b to 1 + b."
            ),
            "contrast": RunSetting(
                Fraction, "Largest relative change of contrast: distances from an image's mean are multiplied alike."
            ),
        },
    ),
    "normalise": RunSetting(
        Literal["first_task"] | Annotated[Sequence[Sequence[float]], Len(2, 2)] | None,
        "Normalisation of each channel of the solver's input; `null`: none. `first_task`: to mean 0 and variance 1 in "
        "the first task's training samples. [means, deviations]: by these lists, with a value for each channel.",
    ),
    "log": Section(
        "The log of losses.", {"every": RunSetting(PositiveInt, "Iterations between two rows of history.csv.")}
    ),
    "evaluate": Section(
        "What is measured, and when.",
        {
            "every": RunSetting(
                PositiveInt | None,
                "Iterations between evaluations within a task; `null`: only at the end of each task.",
            ),
            "tasks": RunSetting(
                Literal["all", "seen", "sampled"],
                "Tasks that are evaluated each time: all; those so far (`seen`); or the current one and ten earlier "
                "ones, drawn anew after each task (`sampled`; after the last task all). Metrics that need the accuracy "
                "on other tasks are empty.",
            ),
            "samples": RunSetting(
                PositiveInt | None,
                "Test samples of each task that are evaluated, evenly chosen; `null`: all.",
            ),
            "generated_samples": RunSetting(
                NonNegativeInt | None,
                "Generated samples of each task so far whose quality is measured after each task; `null` or 0: none.",
            ),
        },
    ),
    "checkpoint": Section(
        "Checkpoints, from which an interrupted run resumes.",
        {
            "every_seconds": RunSetting(
                Positive,
                "Seconds between checkpoints within a task; longer where writing would take more than 2 % of the "
                "time. One is also written after every task.",
            )
        },
    ),
    "privacy": Section(
        "Differential privacy: what the released files may reveal of one training sample. Neighbouring data sets "
        "differ by one sample that is added or removed.",
        {
            "epsilon": RunSetting(Positive | None, "Budget ε of the run; `null`: the run claims no privacy."),
            "delta": RunSetting(Annotated[float, Gt(0), Lt(1)], "Budget δ of the run."),
            "unit": RunSetting(Literal["sample"], "What is protected: one training sample."),
            "across": RunSetting(
                Literal["tasks", "stream"],
                "How the budgets of tasks compose: in parallel, because no sample is in two of them (`tasks`), or "
                "sequentially, because a sample may be in all of them (`stream`).",
            ),
            "secure": RunSetting(
                bool,
                "Draw noise from the operating system's generator, so that the run can't be repeated. `false`: from "
                "the seed; privacy is then simulated: ε holds only while the seed is secret.",
            ),
            "sampling_rate": RunSetting(
                Annotated[float, Gt(0), Le(1)] | None,
                "Probability with which a step of DP-SGD reads a sample; it must not follow from the size of the data.",
            ),
        },
    ),
    "device": RunSetting(str, "Device: `auto`, `cpu`, `cuda` or `cuda:<number>`; `auto`: a GPU if there is one."),
    "threads": RunSetting(
        Annotated[int, Ge(1), Le(1024)] | None,
        "CPU threads; `null`: 1 for small networks and where runs share the cores, else one per core.",
    ),
    "precision": RunSetting(
        Literal["float32", "float64", "bf16", "auto"],
        "Floating-point type. `bf16`: matrix products in bfloat16; `auto`: `bf16` where the processor supports it, "
        "else `float32`.",
    ),
    "data_root": RunSetting(str, "Folder of the data sets, in torchvision's layout; default from $GR_DATA_ROOT."),
    "cache_root": RunSetting(
        str,
        "Folder of the cache: decoded images in `images/`, frozen features in `features/`, reference classifiers. It "
        "may be deleted while no run uses it. Default from $GR_CACHE_ROOT.",
    ),
    "output_root": RunSetting(
        str,
        "Folder below which runs and sweeps are written, unless `hydra.run.dir` or `hydra.sweep.dir` names theirs; "
        "default from $GR_OUTPUT_ROOT.",
    ),
    "storage": RunSetting(
        Literal["auto", "memory", "mapped"],
        "Where samples of image folders and arrays, and features, lie: in `memory`, or in files that are memory-mapped "
        "(`mapped`); `auto`: mapped if they take more than a quarter of the available memory.",
    ),
    "download": RunSetting(bool, "Download data sets that are missing."),
    "fresh": RunSetting(bool, "Start a new run in a folder of its own, even if the same run exists already."),
    "objective": RunSetting(
        str,
        "Metric that a search optimises, the value that a run returns to Hydra's sweeper: one of metrics.csv, or "
        "`validation_<metric>`, which is measured on held-out training samples.",
    ),
    "prune_below": RunSetting(
        Sequence[Fraction | None] | None,
        "Average accuracy so far, by task, below which a run ends after that task; `hydra.sweeper.pruner` sets it. "
        "`null`: never.",
    ),
    "inspect": RunSetting(bool, "Show what the benchmark contains, and train nothing."),
}


def dotted_settings() -> dict[str, RunSetting]:
    """All settings by their dotted names."""
    settings: dict[str, RunSetting] = {}
    for name, entry in RUN_SETTINGS.items():
        if isinstance(entry, Section):
            settings |= {f"{name}.{key}": setting for key, setting in entry.settings.items()}
        else:
            settings[name] = entry
    return settings


RUN_SETTINGS_BY_NAME = dotted_settings()
