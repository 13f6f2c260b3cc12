"""Single-pass streams: each training sample is in one batch, on which the solver takes a few steps."""

import json
from functools import lru_cache
from itertools import islice
from pathlib import Path

import pandas as pd
import pytest
import torch

from gr_cli.cli.compose import compose_settings
from gr_cli.config.settings import Settings
from gr_cli.errors import Interrupted
from gr_cli.results.folder import RunFolder
from gr_cli.runner import run as runner
from gr_cli.strategies.context import TrainingStep
from gr_cli.training.batches import batches, sample_passes
from gr_cli.training.experiment import prepare
from gr_cli.training.observer import RunObserver
from gr_cli.training.stacking import stack_learners
from gr_cli.training.task_free import ConsolidationSchedule
from helpers.interruption import StopAt, csvs
from helpers.shipped_methods import STRATEGY_SIZES

ONLINE = ("preset=online", "train.batch_size=32", "model.hidden_sizes=[8]", "benchmark.classes_per_task=[4,3,3]",
          "evaluate.generated_samples=0", "threads=1")  # fmt: skip
REPLAY = ("generator.hidden_dims=[8]", "generator.latent_dim=4")
VARIANTS = {
    "er_plus": ("strategy.memory_size=50",),
    "er": ("strategy.per_class=5",),
    "generative_replay": (*REPLAY, "strategy.memory_size=30", "strategy.batch_size=16"),
    "dgr": REPLAY,
    "joint": (),
}


@lru_cache(maxsize=4)
def settings_of(*overrides: str) -> Settings:
    return compose_settings([*ONLINE, *overrides])


def of_variant(variant: str) -> list[str]:
    return [f"strategy={variant}", *VARIANTS[variant]]


def run(folder: str, *overrides: str, observer: RunObserver | None = None) -> dict[str, bytes]:
    """Run in `folder`, and return its tables."""
    runner.run(settings_of(*overrides), RunFolder(Path(folder)), observer or RunObserver())
    return csvs(Path(folder))


def final(folder: str, table: str, column: str) -> float:
    return float(pd.read_csv(f"{folder}/{table}.csv")[column].iloc[-1])


@pytest.mark.parametrize("updates", [1, 3])
def test_each_sample_is_in_one_batch(updates):
    experiment = prepare(settings_of("strategy=finetune", f"train.updates_per_batch={updates}"))
    for number, stage in enumerate(experiment.stages):
        stream = list(batches([experiment], number, 0))
        assert stage.iterations == len(stream) == updates * -(-len(stage.train) // 32)
        assert stage.num_processed == sum(batch.y.numel() for batch in stream) == updates * len(stage.train)
        distinct = stream[::updates]
        assert all(batch is distinct[i // updates] for i, batch in enumerate(stream))
        index = torch.cat([batch.sample_index[0] for batch in distinct])
        assert index.sort().values.tolist() == list(range(len(stage.train)))
        assert [batch.is_remainder for batch in distinct] == [False] * (len(distinct) - 1) + [len(stage.train) % 32 > 0]
        x, y = stage.train.batch(index)
        assert torch.equal(torch.cat([batch.x[0] for batch in distinct]), x)
        assert torch.equal(torch.cat([batch.y[0] for batch in distinct]), y)
        rest = list(batches([experiment], number, 4))
        assert [batch.y.tolist() for batch in rest] == [batch.y.tolist() for batch in stream[4:]]


def test_the_order_is_that_of_the_first_epoch():
    single = prepare(settings_of("strategy=finetune"))
    usual = prepare(settings_of("strategy=finetune", "train.online=false", "train.iterations=50"))
    full = len(single.stages[0].train) // 32
    pairs = zip(islice(batches([single], 0, 0), full), batches([usual], 0, 0), strict=False)
    assert all(torch.equal(ours.sample_index, theirs.sample_index) for ours, theirs in pairs)


def test_joint_training_is_one_pass_over_all_tasks():
    experiment = prepare(settings_of("strategy=joint"))
    (stage,) = experiment.stages
    index = torch.cat([batch.sample_index[0] for batch in batches([experiment], 0, 0)])
    assert index.sort().values.tolist() == list(range(sum(len(task.train) for task in experiment.benchmark.tasks)))
    assert stage.iterations == -(-len(stage.train) // 32)


def test_memories_take_each_sample_once():
    experiment = prepare(settings_of("strategy=er_plus", "strategy.memory_size=2000", "train.updates_per_batch=3"))
    learner, samples = experiment.learner, []
    for number, stage in enumerate(experiment.stages):
        stream = batches([experiment], number, 0)
        learner.train_task(stage.task, stream, stage.iterations, lambda *_: None)
        samples.append(stage.train.batch(torch.arange(len(stage.train)))[0].flatten(1))
    expected, buffer = torch.cat(samples), learner.strategy.buffer
    stored = buffer.x[0, : buffer.num_filled].flatten(1)
    assert buffer.num_seen == len(expected) == len(stored)
    assert sorted(stored.tolist()) == sorted(expected.tolist())


def test_the_generator_waits_for_the_first_batch():
    experiment = prepare(settings_of(*of_variant("generative_replay"), "train.updates_per_batch=6"))
    learner, steps = experiment.learner, []
    stream, stage = batches([experiment], 0, 0), experiment.stages[0]
    learner.train_task(0, stream, stage.iterations, lambda step, losses: steps.append("recon" in " ".join(losses)))
    # An update every five iterations; the memory is filled after the sixth.
    assert [i for i, trained in enumerate(steps) if trained][:3] == [9, 14, 19]


def test_operations_are_those_of_the_samples():
    run("usual", "strategy=finetune", "train.online=false", "train.iterations=1")
    run("online", "strategy=finetune", "train.updates_per_batch=2")
    per_sample = final("usual", "costs", "solver_flops") / (3 * 32)
    experiment = prepare(settings_of("strategy=finetune"))
    num_samples = sum(len(task.train) for task in experiment.benchmark.tasks)
    assert final("online", "costs", "solver_flops") == 2 * num_samples * per_sample


def test_status_and_configuration_name_the_single_pass():
    run("here", "strategy=finetune")
    assert json.loads(Path("here/status.json").read_text(encoding="utf-8"))["single_pass"] is True
    assert "online: true" in Path("here/config.yaml").read_text(encoding="utf-8")


STOPS = [("er_plus", (1, 7)), ("generative_replay", (0, 4)), ("generative_replay", (1, 7)), ("dgr", (2, 20)),
         ("er", (1, 7)), ("joint", (0, 31))]  # fmt: skip


@pytest.mark.parametrize(("variant", "at"), STOPS)
def test_resumed_run_is_bit_identical(variant, at):
    overrides = [*of_variant(variant), "train.updates_per_batch=3"]
    with pytest.raises(Interrupted):
        run("broken", *overrides, observer=StopAt(*at))
    assert run("broken", *overrides) == run("whole", *overrides)


@pytest.mark.parametrize("variant", ["er_plus", "generative_replay"])
def test_replicas_are_those_of_runs_alone(variant):
    overrides = [*of_variant(variant), "precision=float64", "train.updates_per_batch=2"]
    jobs = [settings_of(*overrides, f"seed={seed}") for seed in range(2)]

    def losses(group):
        experiments, recorded = [prepare(job) for job in group], []
        learner = stack_learners(experiments)
        for number, stage in enumerate(experiments[0].stages[:2]):
            learner.train_task(
                stage.task, batches(experiments, number, 0), stage.iterations,
                lambda _, values: recorded.append(values["total"]), 0, sample_passes(experiments, number),
            )  # fmt: skip
        return torch.stack(recorded, 1)

    together = losses(jobs)
    for replica, job in enumerate(jobs):
        torch.testing.assert_close(together[replica : replica + 1], losses([job]), rtol=1e-7, atol=1e-9)


def test_tasks_of_other_sizes_are_other_groups():
    sizes = {
        str([(stage.iterations, stage.num_processed) for stage in prepare(job).stages])
        for job in (settings_of("strategy=finetune", f"benchmark.classes_per_task={c}") for c in ("[4,3,3]", "[3,4,3]"))
    }
    assert len(sizes) == 2


# --- task-free


def test_intervals_of_tasks_of_several_lengths():
    schedule = ConsolidationSchedule(iterations=(3, 5, 2), interval_length=4)
    steps = [(0, 0), (0, 2), (1, 0), (1, 1), (1, 4), (2, 0), (2, 1)]
    intervals = [schedule.interval_of(TrainingStep(task, i, 9)) for task, i in steps]
    assert [(at.task, at.iteration) for at in intervals] == [(0, 0), (0, 2), (0, 3), (1, 0), (1, 3), (2, 0), (2, 1)]
    assert [schedule.last_interval_before(*at) for at in ((0, 1), (1, 1), (1, 2), (2, 0), (3, 0))] == [0, 0, 1, 1, 2]
    units = schedule.interval_units(torch.eye(3, dtype=torch.bool))
    assert units.int().tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_single_pass_without_boundaries():
    known = run("known", "strategy=finetune")
    assert run("unknown", "strategy=finetune", "train.task_boundaries=unknown") == known
    replay = [*of_variant("generative_replay"), "train.task_boundaries=unknown", "strategy.consolidate_every=9"]
    with pytest.raises(Interrupted):
        run("broken", *replay, "train.updates_per_batch=3", observer=StopAt(1, 4))
    assert run("broken", *replay, "train.updates_per_batch=3") == run("replay", *replay, "train.updates_per_batch=3")


# --- refusals


@pytest.mark.parametrize("strategy", ["slda", "ncm", "fecam", "ranpac"])
def test_sums_over_samples_are_those_of_one_pass(strategy):
    """A sum needs one pass: the result is that of the same tasks without `train.online`."""
    by_task = "train.online=false", "train.iterations=5"
    words = [f"strategy={strategy}", *STRATEGY_SIZES.get(strategy, [])]
    tables = [run(name, *words, *more) for name, more in (("online", ()), ("by_task", by_task))]
    assert tables[0]["accuracy_matrix.csv"] == tables[1]["accuracy_matrix.csv"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("strategy=fetril", "strategy=fetril: passes over"),
        ("strategy=ewc", "strategy.regularizer=ewc: passes over the samples of a task a second time"),
        ("strategy=icarl", "strategy=icarl: passes over"),
        ("generator=mixture", "strategy=generative_replay: passes over"),
        ("strategy=cumulative", "strategy=cumulative: trains on the samples of earlier tasks again"),
        ("strategy.generator_training=after", "trains the generator in steps of its own"),
        ("normalise=first_task", "normalise=first_task: reads all samples of the first task"),
        ("train.iterations=5", "train.iterations=5: a single pass over the samples has no other length"),
        ("train.epochs=1", "train.epochs=1: a single pass"),
        ("train.online=false", "exactly one must be set"),
        ("train.online=false train.iterations=3 train.updates_per_batch=2", "train.updates_per_batch=2: is for single"),
        (
            "train.task_boundaries=unknown train.updates_per_batch=2 strategy.consolidate_every=5",
            "would consolidate between the 2 updates on one batch",
        ),
        ("model=resnet18 model.norm=batch train.batch_size=4 strategy=finetune", "leaves a last batch of one sample"),
    ],
    ids=str,
)
def test_what_needs_a_second_pass_is_refused(gr_run, overrides, message):
    code, _, err = gr_run("preset=online", *overrides.split())
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not Path("outputs").exists()
