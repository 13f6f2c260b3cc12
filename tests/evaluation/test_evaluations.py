"""An evaluation is one module: its table is stored, checkpointed, tracked and reported by its columns."""

import csv
import re
import sys
from doctest import DocTestParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gr_cli.cli.compose import compose_settings
from gr_cli.config.arguments import dataclass_from_dict
from gr_cli.evaluation import base
from gr_cli.evaluation.base import Evaluation, EvaluationContext
from gr_cli.report.cli import main as report
from gr_cli.results.folder import RunFolder
from gr_cli.results.record import Record
from gr_cli.results.tables import (
    AFTER_TASK,
    FRACTION,
    TASK,
    Column,
    MeasuredTable,
    TableFormat,
    parse_table_formats,
)
from gr_cli.runner.run import run_together
from gr_cli.training.experiment import prepare
from gr_cli.training.observer import RunObserver
from helpers.interruption import csvs, only_run
from helpers.pages import embedded
from helpers.tracked import SHORT

WORDS = (*SHORT, "strategy=finetune")


@pytest.fixture
def confidence(monkeypatch):
    """The docstring example of the base class, as if a module of `measures` defined it."""
    names = {"Evaluation": Evaluation, "Column": Column, "__name__": __name__}
    for example in DocTestParser().get_examples(Evaluation.__doc__):
        exec(example.source, names)
    classes = base.evaluation_classes()
    monkeypatch.setattr(base, "evaluation_classes", lambda: [*classes, names["Confidence"]])
    return names["Confidence"]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_docstring_example_appears_in_table_tracker_and_report(gr_run, confidence):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert gr_run(*WORDS, "tracker=tensorboard")[0] == 0
    rows = read(only_run() / "confidence.csv")
    assert [(row["after_task"], row["task"]) for row in rows] == [("0", "0"), ("1", "0"), ("1", "1")]
    assert all(0.1 < float(row["confidence"]) <= 1 for row in rows)
    assert RunFolder(only_run()).tables()["confidence"] == confidence.table()
    events = EventAccumulator(str(only_run() / "tensorboard"))
    events.Reload()
    tracked = {event.step: event.value for event in events.Scalars("confidence/confidence/task_0")}
    assert tracked == pytest.approx({4: float(rows[0]["confidence"]), 8: float(rows[1]["confidence"])}, abs=1e-6)
    assert report(["outputs", "--html", "page.html"]) == 0
    shown = embedded(Path("page.html").read_text(encoding="utf-8"))
    family = next(one for one in shown["families"] if one["name"] == "confidence")
    assert "Mean probability of the predicted class." in family["description"]
    (column,) = family["columns"]
    assert column["label"] == "confidence (%)" and column["meaning"].startswith("mean of the highest probability")
    curves = shown["configurations"][0]["curves"]["confidence"]["confidence"]
    values = [curves["task 0"]["mean"][0], *(curves[f"task {task}"]["mean"][-1] for task in (0, 1))]
    assert values == pytest.approx([100 * float(row["confidence"]) for row in rows], abs=0.00501)


def test_resumed_run_has_the_same_tables(gr_run, goes_on, confidence):
    goes_on(*WORDS, at=(1, 2))
    assert "confidence.csv" in csvs(only_run())


def test_verify_reports_a_removed_evaluation(gr_run, confidence, monkeypatch):
    assert gr_run(*WORDS)[0] == 0
    others = [evaluation for evaluation in base.evaluation_classes() if evaluation is not confidence]
    monkeypatch.setattr(base, "evaluation_classes", lambda: others)
    code, out, _ = gr_run(f"verify={only_run()}")
    assert code == 1 and "confidence.csv: exists, but the repeated run does not write it" in out


def test_metric_is_the_value_of_the_last_row_with_its_unit(gr_run, confidence):
    confidence.columns = (AFTER_TASK, TASK, Column("confidence", "highest probability", FRACTION, metric="surety"))
    code, out, _ = gr_run(*WORDS)
    assert code == 0
    last = read(only_run() / "confidence.csv")[-1]["confidence"]
    assert {row["metric"]: row["value"] for row in read(only_run() / "metrics.csv")}["surety"] == last
    assert re.search(rf"confidence \(%\) +{100 * float(last):.2f} +highest probability", out)
    assert report(["outputs", "--metrics", "surety", "--format", "csv"]) == 0


def test_evaluations_of_all_modules_are_discovered():
    modules = {evaluation.__module__ for evaluation in base.evaluation_classes()}
    files = Path(sys.modules["gr_cli.evaluation.measures"].__file__).parent.glob("[!_]*.py")
    assert modules == {f"gr_cli.evaluation.measures.{path.stem}" for path in files}
    names = [evaluation.name for evaluation in base.evaluation_classes()]
    assert len(set(names)) == len(names)
    assert not set(names) & {"accuracy_matrix", "metrics", "history", "timing"}


def test_every_column_has_a_meaning():
    for evaluation in base.evaluation_classes():
        table = TableFormat(evaluation.name, evaluation.description, evaluation.columns, evaluation.layout)
        assert table.description and all(column.meaning and "\n" not in column.meaning for column in table.columns)
        assert dataclass_from_dict(TableFormat, table.as_dict()) == table


def test_predictions_are_computed_once(monkeypatch):
    class Counts:
        calls = 0

        def predict(self, batches, replica, task):
            self.calls += 1
            return [(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))]

    class Task:
        id = 0

        def evaluation_splits(self):
            return {"test": self, "validation": self}

        def subsample(self, max_samples):
            return self

        def batches(self):
            return []

    settings = SimpleNamespace(config={"evaluate": {"samples": None}})
    context = EvaluationContext(SimpleNamespace(settings=settings), counts := Counts(), 0, 0, 0, True)
    assert context.predictions(Task()) is context.predictions(Task()) is not context.predictions(Task(), "validation")
    assert counts.calls == 2


def test_evaluation_changes_neither_random_state_nor_training_mode():
    experiment = prepare(
        compose_settings([*SHORT, "evaluate.generated_samples=10", "generator=cvae", "model.dropout=0.1"])
    )
    learner = experiment.learner
    modules = [*learner.solver.modules(), *learner.generator.modules()]
    before = torch.random.get_rng_state(), [module.training for module in modules]
    base.run_evaluations(base.prepare_evaluations(experiment), EvaluationContext(experiment, learner, 0, 0, 4, True))
    applicable = [evaluation for evaluation in base.evaluation_classes() if evaluation.applies_to(experiment)]
    assert {evaluation.name for evaluation in applicable} == set(experiment.record.tables)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert [module.training for module in modules] == before[1]


def test_runs_of_a_group_have_the_tables_of_single_runs():
    words = [*SHORT, "strategy=finetune", "precision=float64"]
    jobs = [compose_settings([*words, f"seed={seed}"]) for seed in range(2)]
    for batch in ([jobs[0]], [jobs[1]], jobs):
        run_together(batch, [RunFolder(Path(f"{len(batch)}-{job.seed}")) for job in batch], RunObserver())
    for seed in range(2):
        assert csvs(Path(f"2-{seed}")) == csvs(Path(f"1-{seed}"))


@pytest.mark.parametrize(
    ("after_task", "task_finished", "phase"), [(-1, True, "before"), (2, False, "within"), (2, True, "after")]
)
def test_phases(after_task, task_finished, phase):
    assert base.EvaluationContext(None, None, 0, after_task, 0, task_finished).phase == phase


# --- tables

TABLE = TableFormat("made", "What was made.", (AFTER_TASK, TASK, Column("value", "how much", "nats", "lower")))


def test_table_round_trips_through_its_state():
    record = Record()
    record.add_rows(TABLE, [])
    assert "made" not in record.tables
    rows = [{"after_task": 0, "task": 0, "value": 0.5, "hidden": True}, {"after_task": 0, "task": "all", "value": None}]
    record.add_rows(TABLE, [rows[0] | {"hidden": True}, rows[1] | {"hidden": False}])
    assert record.tables["made"].csv_text() == "after_task,task,value\n0,0,0.500000\n0,all,\n"
    again = Record.from_state(record.state_dict())
    assert again == record and again.tables["made"].rows[0]["hidden"] is True
    assert MeasuredTable.from_state(MeasuredTable(TABLE).state_dict()) == MeasuredTable(TABLE)


def broken(**changes: object) -> dict[str, object]:
    return {"tables": [TABLE.as_dict() | changes]}


@pytest.mark.parametrize(
    "described",
    [
        {},
        {"tables": 5},
        {"tables": [5]},
        {"tables": [TABLE.as_dict()] * 101},
        broken(name="../made"),
        broken(name=""),
        broken(description=5),
        broken(description="two\nlines"),
        broken(description="x" * 1001),
        broken(layout="pie"),
        broken(columns="after_task"),
        broken(columns=[]),
        broken(columns=[5]),
        broken(more=1),
        broken(columns=[AFTER_TASK.__dict__] * 2),
        broken(columns=[AFTER_TASK.__dict__, TASK.__dict__ | {"direction": "up"}]),
        broken(columns=[AFTER_TASK.__dict__, TASK.__dict__ | {"key": "yes"}]),
        broken(columns=[AFTER_TASK.__dict__, TASK.__dict__ | {"metric": "a,b"}]),
        broken(columns=[AFTER_TASK.__dict__, TASK.__dict__ | {"name": "a\nb"}]),
    ],
)
def test_invalid_table_descriptions_are_refused(described):
    with pytest.raises(ValueError, match=r"must be|has "):
        parse_table_formats(described)
