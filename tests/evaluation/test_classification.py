"""Evaluation in batches that span tasks, and which tasks are evaluated."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gr_cli import load_run
from gr_cli.benchmarks.base import Samples
from gr_cli.cli.compose import compose_settings
from gr_cli.evaluation.base import EvaluationContext, run_evaluations
from gr_cli.evaluation.classification import (
    NUM_SAMPLED_TASKS,
    SampleSet,
    _stored_batches,
    classify_sets,
    tasks_to_evaluate,
)
from gr_cli.evaluation.evaluated_samples import EvaluatedSamples
from gr_cli.evaluation.measures.accuracy import Accuracy
from gr_cli.nn.losses import cross_entropy
from gr_cli.nn.sample_spec import as_floats
from gr_cli.report.cli import main as report
from gr_cli.training.experiment import prepare
from gr_cli.training.scoring import ClassifiedSamples, classify, score, score_predictions, scores
from helpers.interruption import only_run
from helpers.tracked import SHORT

STREAM = ("benchmark=permuted_digits", "benchmark.tasks=5", "scenario=domain", "strategy=finetune", "threads=1")
STREAM += ("train.iterations=3", "train.batch_size=8", "log.every=2", "model.hidden_sizes=[8]", "precision=float64")


# --- numbers per sample


@pytest.mark.parametrize("units", [[1, 1, 1, 1, 1], [0, 1, 1, 1, 0], [1, 0, 1, 0, 1]], ids=["all", "range", "gaps"])
def test_numbers_per_sample_follow_from_the_logits(units):
    torch.manual_seed(0)
    logits, labels = torch.randn(40, 5, dtype=torch.float64), torch.randint(5, (40,))
    active = torch.tensor(units).bool()
    samples = classify(logits, labels, active)
    masked = logits.masked_fill(~active, -math.inf)
    assert torch.equal(samples.predicted, masked.argmax(1)) and torch.equal(samples.label_competes, active[labels])
    torch.testing.assert_close(samples.confidence, masked.softmax(1).amax(1))
    torch.testing.assert_close(samples.nll, -masked.log_softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1))
    result = score(samples)
    assert result.accuracy == (masked.argmax(1) == labels).double().mean().item()
    assert result.loss is None or result.loss == pytest.approx(cross_entropy(logits, labels, active).mean().item())
    assert (result.loss is None) == (not active.all())


def test_groups_have_units_of_their_own():
    torch.manual_seed(0)
    units = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 1, 0, 1], [1, 1, 1, 1, 1]]).bool()
    group = torch.tensor([0, 0, 1, 1, 1, 2])
    logits, labels = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, 2, 2, 3, 4, 1])
    together = classify(logits, labels, units, group)
    parts = [classify(logits[group == g], labels[group == g], units[g]) for g in range(3)]
    for name in ("predicted", "confidence", "nll", "label_competes"):
        alone = getattr(ClassifiedSamples.concatenate(parts), name)
        torch.testing.assert_close(getattr(together, name), alone)
    assert together.nll[1] == together.nll[3] == math.inf  # their units don't compete


def test_no_samples_have_no_accuracy():
    result = score_predictions([], torch.ones(3, dtype=torch.bool))
    assert math.isnan(result.accuracy) and result.loss is None and result.num_samples == 0


# --- batches


@pytest.mark.parametrize("scenario", ["class", "domain", "task"])
def test_batches_across_tasks_give_the_numbers_of_single_tasks(scenario, monkeypatch):
    monkeypatch.setattr("gr_cli.evaluation.classification.EVALUATION_BATCH", 800)
    experiment = prepare(compose_settings([*STREAM, f"scenario={scenario}"]))
    learner, calls = experiment.learner, []
    context = EvaluationContext(experiment, learner, 0, 4, 3, True)
    for task in experiment.benchmark.tasks:
        alone = learner.evaluate(task.test.batches(), context.competing_units(task.id))
        shared = context.score(task)
        assert shared.accuracy == alone.accuracy and shared.num_samples == alone.num_samples == 355
        assert shared.loss == pytest.approx(alone.loss, abs=1e-12)
    learner.solver.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    sets = [SampleSet(task.id, task.test, context.competing_units(task.id)) for task in experiment.benchmark.tasks]
    classify_sets(learner, 0, sets)
    assert calls == [710, 710, 355]


def test_classes_that_cannot_be_predicted_need_no_forward_pass():
    experiment = prepare(compose_settings([*STREAM, "scenario=class"]))
    calls = []
    experiment.learner.solver.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    context = EvaluationContext(experiment, experiment.learner, 0, 1, 3, True)
    later = [context.score(task) for task in experiment.benchmark.tasks[2:]]
    assert [(result.accuracy, result.loss, result.num_samples) for result in later] == [(0.0, None, 355)] * 3
    assert not calls
    context.score(experiment.benchmark.tasks[0])
    assert sum(calls) == 2 * 355


def test_a_task_that_is_not_evaluated_has_no_score():
    experiment = prepare(compose_settings([*STREAM, "evaluate.tasks=seen"]))
    context = EvaluationContext(experiment, experiment.learner, 0, 1, 3, True)
    assert context.score(experiment.benchmark.tasks[1]).num_samples > 0
    with pytest.raises(KeyError):
        context.score(experiment.benchmark.tasks[2])


def test_estimates_with_random_draws_are_made_task_by_task():
    """A batch gets random numbers by position; batches that span tasks would change them."""
    words = [*SHORT, "strategy=generative_classifier", "strategy.importance_samples=2", "precision=float64"]
    experiment = prepare(compose_settings(words))
    learner = experiment.learner
    assert learner.logits_depend_on_batch
    learner.begin_task(0)
    learner.generator.mark_learned(torch.ones(10, dtype=torch.bool))
    units = torch.ones(10, dtype=torch.bool)
    tests = [task.test.subsample(7) for task in experiment.benchmark.tasks]
    together = classify_sets(learner, 0, [SampleSet(i, samples, units) for i, samples in enumerate(tests)])
    for samples, classified in zip(tests, together, strict=True):
        (alone,) = classify_sets(learner, 0, [SampleSet(0, samples, units)])
        assert torch.equal(classified.nll, alone.nll)


def rows_of(words, limit, monkeypatch):
    """The rows of two evaluations of a new run, of which so many bytes of samples are kept."""
    monkeypatch.setattr("gr_cli.evaluation.evaluated_samples._MAX_BYTES", limit)
    experiment = prepare(compose_settings(words))
    for _ in range(2):
        context = EvaluationContext(experiment, experiment.learner, 0, 4, 3, True)
        run_evaluations([Accuracy()], context)
    return experiment, experiment.record.tables["evaluations"].rows


@pytest.mark.parametrize("stream", ["permuted_digits", "rotated_digits"])
def test_samples_that_are_kept_change_no_number(stream, monkeypatch):
    words = [*STREAM, f"benchmark={stream}", "benchmark.validation_share=0.2", "evaluate.samples=50"]
    _, expected = rows_of(words, 0, monkeypatch)
    assert len(expected) == 2 * 2 * 5
    sample = prepare(compose_settings(words)).benchmark.spec.size * 4
    for limit in (sample * 60, 1 << 28):  # of one set, and of all
        experiment, rows = rows_of(words, limit, monkeypatch)
        assert rows == expected
        samples = [EvaluatedSamples.of(experiment).get(task, "test") for task in range(5)]
        assert sum(each.transform is None for each in samples) == (1 if limit < 1 << 28 else 5)


def test_a_solver_may_change_its_input(monkeypatch):
    experiment = prepare(compose_settings([*STREAM, "precision=float32"]))
    experiment.learner.solver.register_forward_pre_hook(lambda module, inputs: (inputs[0].mul_(0.5), None)[1])
    first, second = (
        [
            EvaluationContext(experiment, experiment.learner, 0, 4, 3, True).score(task)
            for task in experiment.benchmark.tasks
        ]
        for _ in range(2)
    )
    assert first == second


def test_samples_are_read_on_the_device_of_their_labels():
    store, y = torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)
    ((x, labels),) = _stored_batches(Samples(store, y))
    assert x.data_ptr() == store.data_ptr() and torch.equal(labels, y)
    # As mapped samples of a run on a GPU.
    assert _stored_batches(Samples(store, y.to("meta"))) is None


def test_samples_that_are_stored_as_they_are_read_are_not_copied():
    experiment = prepare(compose_settings([*STREAM, "benchmark=permuted_digits", "benchmark.tasks=2"]))
    tests = [task.test.with_transform_applied() for task in experiment.benchmark.tasks]
    stored = [Samples(as_floats(test.store), test.y) for test in tests]
    tasks = tuple(replace(task, test=test) for task, test in zip(experiment.benchmark.tasks, stored, strict=True))
    experiment = replace(experiment, benchmark=replace(experiment.benchmark, tasks=tasks))
    assert all(EvaluatedSamples.of(experiment).get(i, "test") is each for i, each in enumerate(stored))


def test_scores_of_sets_of_any_size():
    torch.manual_seed(0)
    units = torch.tensor([True, True, False])
    for sizes in ((3, 3), (2, 0, 5)):
        sets = [classify(torch.randn(n, 3), torch.randint(3, (n,)), units) for n in sizes]
        for each, result in zip(sets, scores(sets), strict=True):
            n, competes = len(each), bool(each.label_competes.all())
            assert result.num_samples == n
            assert math.isnan(result.accuracy) if n == 0 else result.accuracy == each.is_correct.double().mean().item()
            assert result.loss == (pytest.approx(each.nll.mean().item()) if n and competes else None)
    assert scores([]) == []


# --- which tasks


def test_choice_of_tasks():
    assert tasks_to_evaluate("all", 0, 4, -1, True) == [0, 1, 2, 3]
    assert tasks_to_evaluate("seen", 0, 4, -1, True) == tasks_to_evaluate("sampled", 0, 4, -1, True) == []
    assert tasks_to_evaluate("seen", 0, 4, 1, True) == [0, 1]
    assert tasks_to_evaluate("sampled", 0, 40, NUM_SAMPLED_TASKS, True) == list(range(NUM_SAMPLED_TASKS + 1))
    assert tasks_to_evaluate("sampled", 0, 40, 39, True) == list(range(40))
    drawn = {
        (seed, after): tasks_to_evaluate("sampled", seed, 40, after, False) for seed in (0, 1) for after in (38, 39)
    }
    for (_, after), tasks in drawn.items():
        assert len(set(tasks)) == len(tasks) == NUM_SAMPLED_TASKS + 1 and tasks == sorted(tasks)
        assert tasks[-1] == after and tasks[0] >= 0
    assert len({str(tasks[:-1]) for tasks in drawn.values()}) == 4  # another draw for each seed and task
    assert drawn[0, 38] == tasks_to_evaluate("sampled", 0, 100, 38, True)


def test_earlier_tasks_are_drawn_evenly():
    counts = torch.zeros(50)
    for seed in range(400):
        counts[tasks_to_evaluate("sampled", seed, 99, 50, True)[:-1]] += 1
    assert counts.sum() == 400 * NUM_SAMPLED_TASKS
    # Each count is binomial with mean 80 and deviation 8.
    assert (counts - 80).abs().max() < 5 * 8


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def matrix(folder: Path) -> list[list[str]]:
    return [list(row.values())[1:] for row in read(folder / "accuracy_matrix.csv")]


@pytest.fixture
def one_sampled(monkeypatch):
    """One earlier task is drawn instead of ten."""
    monkeypatch.setattr("gr_cli.evaluation.classification.NUM_SAMPLED_TASKS", 1)


@pytest.mark.parametrize("choice", ["seen", "sampled"])
def test_tasks_that_are_not_evaluated_have_empty_cells(gr_run, one_sampled, tmp_path, monkeypatch, choice):
    folders = {}
    for tasks in ("all", choice):
        (tmp_path / tasks).mkdir()
        monkeypatch.chdir(tmp_path / tasks)
        code, _, err = gr_run(*STREAM, "evaluate.every=2", "benchmark.validation_share=0.2", f"evaluate.tasks={tasks}")
        assert code == 0, err
        folders[tasks] = only_run().resolve()
    full, partial_matrix = (matrix(folders[tasks]) for tasks in ("all", choice))
    shown = {(i, j) for i, row in enumerate(partial_matrix) for j, cell in enumerate(row) if cell}
    assert all(full[i][j] == partial_matrix[i][j] for i, j in shown) and {len(row) for row in partial_matrix} == {5}
    if choice == "seen":
        assert shown == {(i, j) for i in range(5) for j in range(i + 1)}
    else:
        assert [sum(i == row for i, _ in shown) for row in range(5)] == [1, 2, 2, 2, 5]
        assert all((i, i) in shown for i in range(5))
    rows, all_rows = (read(folders[tasks] / "evaluations.csv") for tasks in (choice, "all"))
    assert all(row in all_rows for row in rows)
    at_ends = {(int(r["after_task"]), int(r["task"])) for r in rows if r["iteration"] == "3" and r["split"] == "test"}
    assert at_ends == shown and {row["split"] for row in rows} == {"test", "validation"}
    metrics, all_values = ({r["metric"]: r["value"] for r in read(folders[t] / "metrics.csv")} for t in (choice, "all"))
    undefined = {name for name in metrics if not metrics[name]}
    needs_more = {"sampled": {"forgetting", "average_incremental_accuracy"}, "seen": set()}[choice]
    assert undefined == {"forward_transfer", *needs_more}
    assert all(metrics[name] == all_values[name] for name in metrics.keys() - undefined - {"forgetting"})
    # Readers of the folder cope with empty cells.
    assert load_run(folders[choice]).matrix.iloc[0, 1:].isna().all()
    assert gr_run(f"verify={folders[choice]}")[0] == 0
    figures = ["--figures", "figures"] if choice == "sampled" else []  # which take as long as all else
    assert report(["outputs", "--html", "page.html", *figures]) == 0
    assert Path("page.html").stat().st_size > 0
    assert not figures or list(Path("figures").iterdir())


def test_run_resumes_with_sampled_tasks(gr_run, goes_on, one_sampled):
    goes_on(*STREAM, "evaluate.tasks=sampled", at=(3, 1))


def test_score_of_a_sampled_run_is_complete(gr_run, one_sampled):
    from gr_cli.results.folder import RunFolder
    from gr_cli.runner.run import run
    from gr_cli.training.observer import RunObserver

    words = [*STREAM, "benchmark.validation_share=0.2"]
    scores = [
        run(compose_settings([*words, f"evaluate.tasks={tasks}"]), RunFolder(Path(tasks)), RunObserver()).value(
            "validation_average_accuracy"
        )
        for tasks in ("all", "seen", "sampled")
    ]
    assert scores[0] is not None and scores[0] == scores[1] == scores[2]


def test_quality_of_all_tasks_together_does_not_depend_on_the_evaluated_tasks(
    gr_run, one_sampled, monkeypatch, tmp_path
):
    monkeypatch.setattr("gr_cli.evaluation.measures.sample_quality._MAX_COMPARED_SAMPLES", 25)
    monkeypatch.setattr("gr_cli.evaluation.measures.sample_quality._BATCH", 10)
    words = ("strategy=generative_replay", "evaluate.generated_samples=10", "benchmark.classes_per_task=2", "threads=1")
    rows = {}
    for tasks in ("all", "sampled"):
        (tmp_path / tasks).mkdir()
        monkeypatch.chdir(tmp_path / tasks)
        assert gr_run(*words, "train.iterations=3", f"evaluate.tasks={tasks}")[0] == 0
        rows[tasks] = read(only_run() / "sample_quality.csv")
    pooled = [row for row in rows["all"] if row["task"] == "all"]
    assert [row for row in rows["sampled"] if row["task"] == "all"] == pooled
    assert [row["after_task"] for row in rows["sampled"] if row["task"] == "0"] == ["0", "1", "4"]
