"""Costs are those of a hand count."""

import pytest
import torch

from gr_cli.evaluation.base import EvaluationContext
from gr_cli.evaluation.measures.costs import Costs, num_bytes
from gr_cli.training.experiment import prepare
from helpers.shipped_methods import SMALL, settings_of, train

# Digits of 8x8 pixels, 16 hidden units, 10 classes, batches of 8, 6 iterations.
PARAMETERS = 64 * 16 + 16 + 16 * 10 + 10
FORWARD = 2 * 8 * (64 * 16 + 16 * 10)
STEP = 2 * FORWARD + 2 * 8 * 16 * 10  # gradients of all weights, and of the inputs of the second layer


def costs(*overrides, stages=1):
    experiment = prepare(settings_of(*overrides, *SMALL))
    for stage in range(stages):
        train([experiment], experiment.learner, stage)
    (row,) = Costs().rows(EvaluationContext(experiment, experiment.learner, 0, stages - 1, 6, task_finished=True))
    return row


def test_costs_of_a_network_alone():
    row = costs("strategy=finetune", stages=2)
    assert row["solver_flops"] == row["training_flops"] == 2 * 6 * STEP
    assert row["solver_bytes"] == 4 * PARAMETERS
    assert 2 * 4 * PARAMETERS <= row["optimizer_bytes"] <= 2 * 4 * PARAMETERS + 64  # moments, and step counts
    assert row["strategy_bytes"] == row["generator_bytes"] == 0
    assert row["stored_bytes"] == row["solver_bytes"] + row["optimizer_bytes"]


def test_moments_that_are_reset_are_not_kept():
    assert costs("strategy=finetune", "optimizer.reset_per_task=true")["optimizer_bytes"] == 0
    assert costs("strategy=separate")["optimizer_bytes"] == 0  # each task has a new network


@pytest.mark.parametrize("words", [("slda",), ("ncm",), ("generative_classifier", "generator=mixture")])
def test_a_solver_that_is_never_trained_has_no_moments(words):
    strategy, *others = words
    row = costs(f"strategy={strategy}", *others, stages=2)
    assert row["optimizer_bytes"] == 0
    assert row["stored_bytes"] == row["solver_bytes"] + row["generator_bytes"] + row["strategy_bytes"]


def test_of_a_generative_classifier_the_generator_alone_has_moments():
    experiment = prepare(settings_of("strategy=generative_classifier", *SMALL))
    sizes = [p.numel() for p in experiment.learner.generator.parameters()]
    row = costs("strategy=generative_classifier")
    assert row["optimizer_bytes"] == 2 * 4 * sum(sizes) + 4 * len(sizes)  # moments, and step counts


def test_stored_samples_are_kept():
    few, many = (costs("strategy=er", f"strategy.per_class={size}")["strategy_bytes"] for size in (5, 10))
    assert many - few >= 5 * 2 * 64 * 4  # five samples of two classes


def test_cumulative_training_keeps_all_samples():
    experiment = prepare(settings_of("strategy=cumulative", *SMALL))
    sizes = [len(task.train) for task in experiment.benchmark.tasks]
    bytes_per_sample = experiment.benchmark.tasks[0].train.store[:1].nbytes + 8  # and a label
    assert costs("strategy=cumulative")["strategy_bytes"] == sizes[0] * bytes_per_sample
    assert costs("strategy=cumulative", stages=2)["strategy_bytes"] == sum(sizes[:2]) * bytes_per_sample
    assert costs("strategy=joint")["strategy_bytes"] == 0


def test_samples_for_the_generator_alone_are_among_its_costs():
    row = costs("strategy=dgr", "strategy.generator_training=before", stages=2)
    assert row["training_flops"] == sum(row[f"{phase}_flops"] for phase in ("solver", "generator", "consolidation"))
    alongside = costs("strategy=dgr", stages=2)
    assert row["generator_flops"] > alongside["generator_flops"]


def test_a_weight_penalty_keeps_importance_and_the_old_parameters():
    row = costs("strategy=online_ewc")
    assert row["strategy_bytes"] >= 2 * 4 * PARAMETERS
    assert row["consolidation_flops"] > 0


def test_a_generator_costs_steps_of_its_own():
    row = costs("strategy=generative_replay", stages=2)
    assert row["generator_flops"] > 0 < row["generator_bytes"]
    assert row["solver_flops"] > 2 * 6 * STEP  # replayed samples are generated, and trained on
    assert row["training_flops"] == row["solver_flops"] + row["generator_flops"] + row["consolidation_flops"]


def test_bytes_of_a_state():
    assert num_bytes([torch.zeros(2), {"a": (torch.zeros(3, dtype=torch.uint8), 1.5, "text")}]) == 11


def test_frozen_features_cost_their_network_and_one_pass():
    features = ("benchmark/features=patches", "benchmark.features.num_filters=5", "benchmark.features.filters=noise")
    experiment = prepare(settings_of("strategy=finetune", *features, *SMALL))
    sizes, extraction = [len(task.train) for task in experiment.benchmark.tasks], experiment.benchmark.extraction
    row, images = costs("strategy=finetune", *features, stages=2), costs("strategy=finetune", stages=2)
    assert row["features_flops"] == sum(sizes[:2]) * extraction.operations > 0
    assert row["training_flops"] == row["solver_flops"] + row["features_flops"]
    assert row["features_bytes"] == extraction.num_bytes > 0
    assert row["stored_bytes"] == row["solver_bytes"] + row["optimizer_bytes"] + row["features_bytes"]
    assert images["features_flops"] == images["features_bytes"] == 0
