"""Gradient clipping by global norm, compared with torch, for solver and generator."""

import csv
from math import inf

import pytest
import torch

from gr_cli import ContinualTrainer, SimpleMLP
from gr_cli.cli.compose import compose_settings
from gr_cli.cli.launchers.grouping import group_compatible
from gr_cli.nn.gradient_rules import GradientStep, Loss
from gr_cli.nn.gradient_rules.clipping import NormClipping
from gr_cli.nn.random_streams import RandomStreams, ReplicaStreams
from gr_cli.strategies.context import TrainingStep
from gr_cli.training.batches import batches, sample_passes
from gr_cli.training.experiment import prepare
from gr_cli.training.stacking import stack_learners
from helpers.interruption import csvs, only_run

SMALL = ["train.batch_size=8", "model.hidden_sizes=[16]", "generator.hidden_dims=[16]", "threads=1"]
SMALL += ["strategy.generator_update_freq=1", "gradient_rule=clipping"]
RUN = [*SMALL, "train.iterations=6", "log.every=2", "evaluate.generated_samples=0", "benchmark.classes_per_task=[5,5]"]


def step_of(replicas):
    return GradientStep(
        "solver", 0, 0, ReplicaStreams([RandomStreams(seed) for seed in range(replicas)], torch.float64)
    )


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e9])
@pytest.mark.parametrize("replicas", [1, 3])
def test_clipping_matches_torch_for_each_replica(replicas, max_norm):
    generator = torch.Generator().manual_seed(3)
    shapes = [(4, 5), (5,), (2, 2)]
    stacked = [torch.randn(replicas, *s, dtype=torch.float64, generator=generator) for s in shapes]
    leaves = [(v if replicas > 1 else v[0]).clone().requires_grad_() for v in stacked]
    values = [leaf if replicas > 1 else leaf.unsqueeze(0) for leaf in leaves]
    unused = torch.zeros(replicas, 3, dtype=torch.float64, requires_grad=True)
    total = sum((i + 1) * (value**3).flatten(1).sum(1) for i, value in enumerate(values))
    rule = NormClipping(max_norm)
    clipped = rule.gradients(Loss(total), [*leaves, unused], step_of(replicas))
    assert clipped[-1] is None
    for replica in range(replicas):
        single = [torch.nn.Parameter(v[replica].clone()) for v in stacked]
        sum((i + 1) * (p**3).sum() for i, p in enumerate(single)).backward()
        norm = torch.nn.utils.clip_grad_norm_(single, max_norm)
        torch.testing.assert_close(rule.metrics()["gradient_norm"][replica], norm)
        assert rule.metrics()["clipped"][replica] == float(norm > max_norm)
        for gradient, p in zip(clipped, single, strict=False):
            torch.testing.assert_close(gradient if replicas == 1 else gradient[replica], p.grad, rtol=1e-12, atol=0)


def losses_of(jobs, steps=6):
    experiments = [prepare(job) for job in jobs]
    learner, losses = stack_learners(experiments), []
    for task in range(2):
        stream = batches(experiments, task, 0)
        learner.train_task(
            task, stream, steps, lambda _, values: losses.append(values), 0, sample_passes(experiments, task)
        )
    return losses


@pytest.mark.parametrize("own", [[], ["generator/gradient_rule=clipping", "generator.gradient_rule.max_norm=0.3"]])
@pytest.mark.parametrize("generator", ["vae", "wgan_gp"])
def test_three_replicas_match_single_runs(generator, own):
    """With a different `max_norm` in each replica."""
    overrides = [*SMALL, f"generator={generator}", "precision=float64", *own]
    jobs = [compose_settings([*overrides, f"seed={i}", f"gradient_rule.max_norm={0.1 + i}"]) for i in range(3)]
    if own:
        jobs = [
            compose_settings([*overrides, f"seed={i}", f"generator.gradient_rule.max_norm={0.1 + i}"]) for i in range(3)
        ]
    assert group_compatible(jobs) == [[0, 1, 2]]
    grouped = losses_of(jobs)
    for replica, job in enumerate(jobs):
        for single, group in zip(losses_of([job]), grouped, strict=True):
            assert single.keys() == group.keys()
            for name, value in single.items():
                torch.testing.assert_close(group[name][replica], value[0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("own", [None, "none"])
@pytest.mark.parametrize("generator", ["vae", "wgan_gp"])
def test_steps_of_solver_and_generator_are_clipped(generator, own):
    """With plain SGD a clipped step has the length lr * max_norm."""
    overrides = [*SMALL, f"generator={generator}", "optimizer=sgd", "optimizer.lr=1", "gradient_rule.max_norm=1e-3"]
    overrides += ["precision=float64", "generator/optimizer=sgd", "generator.optimizer.lr=1"]
    overrides += [] if own is None else [f"generator/gradient_rule={own}"]
    experiment = prepare(compose_settings(overrides))
    learner = experiment.learner
    learner.begin_task(0, sample_passes([experiment], 0))
    before = {name: [p.detach().clone() for p in d.parameters] for name, d in learner.functional_optimizers.items()}
    losses = learner.step(next(batches([experiment], 0, 0)), TrainingStep(0, 0, 6))
    for name, descent in learner.functional_optimizers.items():
        pairs = zip(descent.parameters, before[name], strict=True)
        moved = torch.cat([(p.detach() - b).flatten() for p, b in pairs]).norm().item()
        if f"{name}.clipped" in losses:
            assert losses[f"{name}.clipped"].item() == 1 and moved == pytest.approx(1e-3, rel=2e-3)
        else:
            assert name != "solver" and (own or name == "generator.generator")
            assert moved == 0 or (own and moved > 1.1e-3)


@pytest.mark.parametrize("strategy", ["ewc", "a_gem", "bir", "generative_classifier"])
def test_clipping_works_with_penalties_constraints_and_shared_losses(strategy):
    overrides = [w for w in SMALL if not w.startswith(("strategy.generator_up", "generator."))]
    generator = [] if strategy in ("ewc", "a_gem") else ["generator.hidden_dims=[16]"]
    (first, *_) = losses_of(
        [compose_settings([*overrides, f"strategy={strategy}", *(generator if strategy != "bir" else [])])], 3
    )
    assert any(name.endswith("gradient_norm") for name in first)


def tables(files):
    """The tables without timing and without the rule's metrics."""
    return {
        name: [
            [v for column, v in row.items() if not column.endswith((".gradient_norm", ".clipped"))]
            for row in csv.DictReader(text.decode().splitlines())
        ]
        for name, text in files.items()
    }


def test_a_huge_norm_changes_no_table(gr_run, tmp_path, monkeypatch):
    tables_by_rule = []
    for rule in ("none", "clipping"):
        (tmp_path / rule).mkdir()
        monkeypatch.chdir(tmp_path / rule)
        own = ["gradient_rule.max_norm=1e30"] if rule == "clipping" else []
        overrides = [word for word in RUN if word != "gradient_rule=clipping"]
        assert gr_run(*overrides, f"gradient_rule={rule}", *own)[0] == 0
        tables_by_rule.append(csvs(only_run()))
    plain, clipped = tables_by_rule
    assert tables(plain) == tables(clipped)
    assert [name for name in plain if plain[name] != clipped[name]] == ["history.csv"]
    assert b"clipped" in clipped["history.csv"] and b"clipped" not in plain["history.csv"]


def test_a_resumed_run_has_the_same_tables(gr_run, interrupted, tmp_path, monkeypatch):
    tables_of_runs = []
    for name in ("uninterrupted", "stopped"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        if name == "stopped":
            interrupted(*RUN, "gradient_rule.max_norm=0.5", at=(1, 3))
        assert gr_run(*RUN, "gradient_rule.max_norm=0.5")[0] == 0
        tables_of_runs.append(csvs(only_run()))
    assert tables_of_runs[0] == tables_of_runs[1]
    rows = list(csv.DictReader(tables_of_runs[0]["history.csv"].decode().splitlines()))
    assert all(0 <= float(row["solver.clipped"]) <= 1 and float(row["generator.vae.gradient_norm"]) > 0 for row in rows)


@pytest.mark.parametrize(("own", "generator_norm"), [({}, 0.5), ({"gradient_rule": {"type": "none"}}, None)])
def test_continual_trainer_clips(own, generator_norm):
    config = {
        "gradient_rule": {"type": "clipping", "max_norm": 0.5},
        "continual_strategy": {"generative_replay": {"memory_size": 20, "generator_update_freq": 1}},
        "generator": {"type": "vae", "hidden_dims": [8], "latent_dim": 2, **own},
    }
    trainer = ContinualTrainer(SimpleMLP(16, [8], 4), config)
    x, y = torch.rand(24, 16), torch.arange(24) % 4
    trainer.train_task([(x[i : i + 8], y[i : i + 8]) for i in range(0, 24, 8)])
    rules = trainer._learner.gradient_rules
    assert getattr(rules["generator.vae"], "max_norm", None) == generator_norm
    assert rules["solver"].max_norm == 0.5 and trainer._record.history[0]["solver.gradient_norm"] < inf


def test_max_norm_must_be_positive():
    from gr_cli.errors import ConfigError

    with pytest.raises(ConfigError, match=r"gradient_rule\.max_norm=0: must be a number > 0"):
        compose_settings(["gradient_rule=clipping", "gradient_rule.max_norm=0"])
