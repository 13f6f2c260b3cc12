"""What training costs: operations, and bytes kept between tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gr_cli.benchmarks.base import ExtractionCosts
from gr_cli.evaluation.base import Evaluation, EvaluationContext
from gr_cli.results.tables import AFTER_TASK, Column, TableRow

# Phases of the operation count, by column.
_PHASES = {
    "solver": ("solver",),
    "generator": ("generator", "generator_batch"),
    "consolidation": ("consolidation",),
}


class Costs(Evaluation):
    """Operations of training, and bytes that are kept for the next task."""

    name = "costs"
    description = (
        "Floating-point operations of training since the beginning of the run (products of matrices, convolutions and "
        "decompositions; not element-wise operations, optimizer steps and random numbers), and bytes that are kept for "
        "the next task."
    )
    columns = (
        AFTER_TASK,
        Column("solver_flops", "steps of the solver, including the generation of replayed samples", "FLOP", "lower"),
        Column("generator_flops", "steps of the generator, and samples generated for them alone", "FLOP", "lower"),
        Column("consolidation_flops", "at the beginning and end of tasks: Fisher, fits, exemplars", "FLOP", "lower"),
        Column("features_flops", "frozen features of the training samples so far", "FLOP", "lower"),
        Column("training_flops", "all training so far", "FLOP", "lower", metric="training_flops"),
        Column("solver_bytes", "parameters and buffers of the solver", "bytes", "lower"),
        Column("generator_bytes", "parameters and buffers of the generator", "bytes", "lower"),
        Column("strategy_bytes", "stored samples, weight importance, frozen networks", "bytes", "lower"),
        Column("features_bytes", "network or filters of the frozen feature extractor", "bytes", "lower"),
        Column("optimizer_bytes", "moments of the optimizers, unless reset for each task", "bytes", "lower"),
        Column("stored_bytes", "all that is kept for the next task", "bytes", "lower", metric="stored_bytes"),
    )

    def rows(self, context: EvaluationContext) -> Sequence[TableRow]:
        learner = context.learner
        by_phase, num_runs = learner.operations.by_phase(), len(learner.random_streams)
        operations = {
            f"{phase}_flops": sum(by_phase.get(name, 0) for name in names) // num_runs
            for phase, names in _PHASES.items()
        }
        extraction, num_samples = _extraction(context)
        operations["features_flops"] = extraction.operations * num_samples
        state = learner.state_of(context.replica)
        restarts = learner.strategy.restarts_solver
        settings = {"solver": learner.optimizers, "generator": learner.generator_optimizers}
        optimizers = {
            name: moments
            for name, moments in state["optimizers"].items()
            if not (restarts or settings[name.partition(".")[0]][context.replica].reset_per_task)
        }
        kept = {
            "solver_bytes": num_bytes(state["solver"]),
            "generator_bytes": num_bytes(state["generator"]),
            "strategy_bytes": num_bytes([state["strategy"], state["regularizer"], state["gradient_rules"]])
            + _training_set_bytes(context),
            "features_bytes": extraction.num_bytes,
            "optimizer_bytes": num_bytes(optimizers),
        }
        totals = {"training_flops": sum(operations.values()), "stored_bytes": sum(kept.values())}
        return [{"after_task": context.after_task, **operations, **kept, **totals}]


def _extraction(context: EvaluationContext) -> tuple[ExtractionCosts, int]:
    """Costs of the feature extractor, and the number of training samples of the tasks so far."""
    benchmark = context.experiment.benchmark
    num_samples = sum(len(task.train) for task in benchmark.tasks[: context.after_task + 1])
    return benchmark.extraction or ExtractionCosts(0, 0), num_samples


def _training_set_bytes(context: EvaluationContext) -> int:
    """Bytes of the training samples, with labels, that the next task is trained on together with its own."""
    if context.learner.strategy.training_data != "cumulative":
        return 0
    sets = [task.train for task in context.experiment.benchmark.tasks[: context.after_task + 1]]
    return sum(len(samples) * samples.store[:1].nbytes + samples.y.nbytes for samples in sets)


def num_bytes(state: Any) -> int:
    """Bytes of all tensors in a nested state.

    >>> import torch
    >>> num_bytes({"a": torch.zeros(3), "b": [torch.zeros(2, dtype=torch.uint8), None]})
    14
    """
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(num_bytes(value) for value in state.values())
    if isinstance(state, list | tuple):
        return sum(num_bytes(value) for value in state)
    return 0
