"""Task-free streams: consolidation every N steps in place of task boundaries."""

from functools import lru_cache
from pathlib import Path

import pandas as pd
import pytest
import torch

from gr_cli import load_run
from gr_cli.cli.compose import compose_settings
from gr_cli.cli.launchers.program_width import choose_width
from gr_cli.config.settings import Settings
from gr_cli.errors import Interrupted
from gr_cli.results.folder import RunFolder
from gr_cli.runner import run as runner
from gr_cli.strategies.context import TrainingStep
from gr_cli.training.batches import batches
from gr_cli.training.experiment import prepare
from gr_cli.training.observer import RunObserver
from gr_cli.training.task_free import ConsolidationSchedule
from helpers.interruption import StopAt, csvs

TINY = ("train.iterations=20", "log.every=7", "model.hidden_sizes=[16]", "benchmark.classes_per_task=[4,3,3]",
        "evaluate.generated_samples=0", "train.task_boundaries=unknown")  # fmt: skip
REPLAY = ("generator.hidden_dims=[16]", "strategy.consolidate_every=13")
VARIANTS = {
    "finetune": (),
    "er_plus": ("strategy.memory_size=50",),
    "generative_replay": (*REPLAY, "strategy.memory_size=30"),
    "dgr": REPLAY,
    "rtf": REPLAY,
    "bir": REPLAY,
    "dgr generator=cvae": REPLAY,
    "dgr_distill strategy.generator_scope=per_task": REPLAY,
}


def overrides_of(variant: str) -> list[str]:
    return [*TINY, *f"strategy={variant}".split(), *VARIANTS[variant]]


@lru_cache(maxsize=1)
def settings_of(*overrides: str) -> Settings:
    """Cached: composing takes longer than these runs."""
    return compose_settings(overrides)


def run(folder: str, *overrides: str, observer: RunObserver | None = None) -> dict[str, bytes]:
    """Run in `folder` with `overrides`, and return its tables."""
    runner.run(settings_of(*overrides), RunFolder(Path(folder)), observer or RunObserver())
    return csvs(Path(folder))


def test_intervals_of_the_consolidation_schedule():
    schedule = ConsolidationSchedule(iterations=(10, 10, 10), interval_length=8)
    assert schedule.interval_of(TrainingStep(0, 7, 10)) == TrainingStep(0, 7, 8)
    assert schedule.interval_of(TrainingStep(0, 8, 10)) == TrainingStep(1, 0, 8)
    assert schedule.interval_of(TrainingStep(2, 9, 10)) == TrainingStep(3, 5, 8)
    assert [schedule.last_interval_before(*at) for at in ((0, 1), (0, 8), (0, 9), (1, 0), (3, 0))] == [0, 0, 1, 1, 3]
    task_units = torch.eye(3, dtype=torch.bool)
    assert schedule.interval_units(task_units).tolist() == [
        [True, False, False],
        [True, True, False],
        [False, True, True],
        [False, False, True],
    ]


@pytest.mark.parametrize("strategy", ["generative_replay", "dgr"])
def test_consolidation_at_every_boundary_equals_known_boundaries(strategy):
    overrides = [*TINY[:-1], f"strategy={strategy}", "generator.hidden_dims=[16]"]
    unknown = "train.task_boundaries=unknown"
    known, same, other = (
        run("known", *overrides),
        run("unknown", *overrides, unknown, "strategy.consolidate_every=20"),
        run("other", *overrides, unknown, "strategy.consolidate_every=15"),
    )
    for tables in (known, same, other):
        del tables["costs.csv"]  # a stream is consolidated after the evaluation at a boundary that it does not know
    assert same == known
    assert other != known


def test_finetune_is_the_same_with_unknown_boundaries():
    overrides = [*TINY[:-1], "strategy=finetune"]
    assert run("unknown", *overrides, "train.task_boundaries=unknown") == run("known", *overrides)


@pytest.mark.parametrize(
    ("variant", "scenario"), [*((v, "class") for v in VARIANTS), ("generative_replay", "domain"), ("er_plus", "domain")]
)
def test_tasks_are_evaluated_with_unknown_boundaries(variant, scenario):
    counts = "benchmark.classes_per_task=5" if scenario == "domain" else "benchmark.classes_per_task=[4,3,3]"
    run("here", *overrides_of(variant), f"scenario={scenario}", counts)
    matrix = pd.read_csv("here/accuracy_matrix.csv")
    assert matrix["after_task"].tolist() == list(range(matrix.shape[1] - 1))
    history = pd.read_csv("here/history.csv")
    assert history["iteration"].tolist() == [7, 14, 20] * len(matrix)
    if VARIANTS[variant] and "replay" in history and "er_plus" not in variant:
        # Replay starts after the first consolidation, at step 13.
        assert history["replay"].notna().tolist() == [False] + [True] * (len(history) - 1)


def test_raw_samples_are_dropped_at_each_consolidation():
    experiment = prepare(compose_settings([*overrides_of("generative_replay"), "strategy.memory_size=5000"]))
    learner, num_seen = experiment.learner, []
    for index, stage in enumerate(experiment.stages):
        stream = batches([experiment], index, 0)
        learner.train_task(stage.task, stream, 20, lambda *_: num_seen.append(learner.strategy.memory.num_seen))
    assert num_seen == [32 * (1 + step % 13) for step in range(60)]
    assert learner.strategy.memory is None


def test_replayed_labels_are_those_of_consolidated_classes():
    experiment = prepare(compose_settings(overrides_of("dgr generator=cvae")))
    learner, result = experiment.learner, []

    def record_labels(step, losses):
        replay = learner.strategy.replay(batch, learner.consolidation_schedule.interval_of(step))
        result.append(None if replay is None else sorted(set(replay.labels.flatten().tolist())))

    for index, stage in enumerate(experiment.stages[:2]):
        stream = batches([experiment], index, 0)
        batch = next(batches([experiment], index, 0))
        learner.train_task(stage.task, stream, 20, record_labels)
    assert result[:13] == [None] * 13
    assert result[13:26] == [[0, 1, 2, 3]] * 13
    assert result[26:39] == [list(range(7))] * 13


# Consolidation takes place after step 13 of the first task and after step 6 of the second.
STOPS = [
    *(("generative_replay", at) for at in [(0, 4), (0, 12), (0, 13), (0, 19), (1, 5), (2, 19)]),
    *((variant, (1, 8)) for variant in VARIANTS if variant not in ("finetune", "dgr", "rtf")),
]


@pytest.mark.parametrize(("variant", "at"), STOPS)
def test_resumed_run_is_bit_identical(variant, at):
    overrides = overrides_of(variant)
    with pytest.raises(Interrupted):
        run("broken", *overrides, observer=StopAt(*at))
    assert run("broken", *overrides) == run("whole", *overrides)


def test_networks_are_restored_from_a_task_free_run():
    run("here", *overrides_of("dgr"))
    assert load_run("here").generator.generate(2).shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["strategy=ewc"], "ewc estimates the importance of parameters at the end of each task"),
        (["strategy=si"], "si estimates the importance"),
        (["strategy=lwf"], "copies the solver at the start of each task"),
        (["strategy=er"], "strategy=er_plus strategy.alpha=0 is experience replay from a reservoir"),
        (["strategy=icarl"], "icarl selects exemplars"),
        (["strategy=joint"], "trains on all tasks at once"),
        (["strategy=cumulative"], "adds a task's samples"),
        (["strategy=generative_classifier"], "trains the model of each class within one task"),
        (["generator=mixture", *REPLAY[1:]], "trains this generator at the start or end of each task"),
        (["strategy.generator_training=after", *REPLAY[1:]], "trains this generator at the start or end of each task"),
        ([], "strategy.consolidate_every=null: must be the number of steps"),
        (["scenario=task"], "train.task_boundaries=unknown: with scenario=task each sample has"),
        (["train.task_boundaries=known", *REPLAY[1:]], "strategy.consolidate_every=13: is for task-free streams"),
        (["train.task_boundaries=none"], "train.task_boundaries=none: must be one of known, unknown"),
    ],
    ids=str,
)
def test_methods_that_need_boundaries_are_refused_in_one_line(gr_run, overrides, message):
    code, _, err = gr_run("train.task_boundaries=unknown", *overrides)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not Path("outputs").exists()


def test_task_free_runs_are_not_stacked():
    choice = choose_width([compose_settings([*overrides_of("dgr"), f"seed={seed}"]) for seed in range(2)], 32, 4 << 30)
    assert choice.width == 1
    assert "task-free runs" in choice.reason
