"""An evaluation is one module: its table is kept, checkpointed, tracked and shown by whatever columns it has."""

import csv
import re
import sys
from pathlib import Path
from textwrap import dedent
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
from helpers.tracked import SHORT

WORDS = (*SHORT, "strategy=finetune")


@pytest.fixture
def confidence(monkeypatch):
    """The example of the base class, as if a module of `measures` defined it."""
    text = re.search(r"        class Confidence.*?return found\n", Evaluation.__doc__, re.DOTALL)[0]
    names = {"torch": torch, "Evaluation": Evaluation, "Column": Column, "__name__": __name__}
    names |= {"AFTER_TASK": AFTER_TASK, "TASK": TASK, "FRACTION": FRACTION}
    exec(dedent(text), names)
    found = base.evaluation_classes()
    monkeypatch.setattr(base, "evaluation_classes", lambda: [*found, names["Confidence"]])
    return names["Confidence"]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_example_becomes_a_table_a_curve_of_a_tracker_and_a_part_of_the_page(gr_run, confidence):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert gr_run(*WORDS, "tracker=tensorboard")[0] == 0
    rows = read(only_run() / "confidence.csv")
    assert [(row["after_task"], row["task"]) for row in rows] == [("0", "0"), ("1", "0"), ("1", "1")]
    assert all(0.1 < float(row["confidence"]) <= 1 for row in rows)
    assert RunFolder(only_run()).tables()["confidence"] == confidence().table
    events = EventAccumulator(str(only_run() / "tensorboard"))
    events.Reload()
    tracked = {event.step: event.value for event in events.Scalars("confidence/confidence/task_0")}
    assert tracked == pytest.approx({4: float(rows[0]["confidence"]), 8: float(rows[1]["confidence"])}, abs=1e-6)
    assert report(["outputs", "--html", "page.html"]) == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert 'id="measured-confidence"' in page and "How sure the solver is of its answers." in page
    assert "<b>confidence (%)</b>: mean highest probability" in page


def test_a_run_that_goes_on_has_the_same_tables(gr_run, goes_on, confidence):
    goes_on(*WORDS, at=(1, 2))
    assert "confidence.csv" in csvs(only_run())


def test_an_evaluation_that_is_not_there_any_more_is_told_by_verify(gr_run, confidence, monkeypatch):
    assert gr_run(*WORDS)[0] == 0
    others = [evaluation for evaluation in base.evaluation_classes() if evaluation is not confidence]
    monkeypatch.setattr(base, "evaluation_classes", lambda: others)
    code, out, _ = gr_run(f"verify={only_run()}")
    assert code == 1 and "confidence.csv: is there, and does not come out again" in out


def test_a_metric_is_the_value_of_the_last_row_and_keeps_its_unit(gr_run, confidence):
    confidence.columns = (AFTER_TASK, TASK, Column("confidence", "how sure", FRACTION, metric="surety"))
    code, out, _ = gr_run(*WORDS)
    assert code == 0
    last = read(only_run() / "confidence.csv")[-1]["confidence"]
    assert {row["metric"]: row["value"] for row in read(only_run() / "metrics.csv")}["surety"] == last
    assert re.search(rf"surety +{100 * float(last):.2f} %", out)
    assert report(["outputs", "--metric", "surety", "--csv", "-"]) == 0


def test_evaluations_are_found_by_looking():
    modules = {evaluation.__module__ for evaluation in base.evaluation_classes()}
    files = Path(sys.modules["gr_cli.evaluation.measures"].__file__).parent.glob("[!_]*.py")
    assert modules == {f"gr_cli.evaluation.measures.{path.stem}" for path in files}
    names = [evaluation.name for evaluation in base.evaluation_classes()]
    assert len(set(names)) == len(names)
    assert not set(names) & {"accuracy_matrix", "metrics", "history", "timing"}


def test_every_column_says_what_it_means():
    for evaluation in base.evaluation_classes():
        table = TableFormat(evaluation.name, evaluation.description, evaluation.columns, evaluation.layout)
        assert table.description and all(column.meaning and "\n" not in column.meaning for column in table.columns)
        assert dataclass_from_dict(TableFormat, table.as_dict()) == table


def test_a_forward_pass_is_made_once_for_all(monkeypatch):
    class Counts:
        calls = 0

        def answer(self, batches, replica):
            self.calls += 1
            return [(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))]

    class Task:
        id = 0

        def splits(self):
            return {"test": self, "validation": self}

        def thinned(self, most):
            return self

        def batches(self):
            return []

    settings = SimpleNamespace(config={"evaluate": {"samples": None}})
    context = EvaluationContext(SimpleNamespace(settings=settings), counts := Counts(), 0, 0, 0, True)
    assert context.predictions(Task()) is context.predictions(Task()) is not context.predictions(Task(), "validation")
    assert counts.calls == 2


def test_measuring_changes_neither_random_state_nor_mode():
    experiment = prepare(
        compose_settings([*SHORT, "evaluate.generated_samples=10", "generator=cvae", "model.dropout=0.1"])
    )
    learner = experiment.learner
    modules = [*learner.solver.modules(), *learner.generator.modules()]
    before = torch.random.get_rng_state(), [module.training for module in modules]
    base.run_evaluations(base.prepare_evaluations(experiment), EvaluationContext(experiment, learner, 0, 0, 4, True))
    assert {evaluation.name for evaluation in base.evaluation_classes()} == set(experiment.record.tables)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert [module.training for module in modules] == before[1]


def test_runs_trained_together_measure_what_each_measures_alone():
    words = [*SHORT, "strategy=finetune", "precision=float64"]
    jobs = [compose_settings([*words, f"seed={seed}"]) for seed in range(2)]
    for batch in ([jobs[0]], [jobs[1]], jobs):
        run_together(batch, [RunFolder(Path(f"{len(batch)}-{job.seed}")) for job in batch], RunObserver())
    for seed in range(2):
        assert csvs(Path(f"2-{seed}")) == csvs(Path(f"1-{seed}"))


@pytest.mark.parametrize(("after", "final", "moment"), [(-1, True, "before"), (2, False, "within"), (2, True, "after")])
def test_moments(after, final, moment):
    assert base.EvaluationContext(None, None, 0, after, 0, final).phase == moment


# --- tables as values

TABLE = TableFormat("made", "What was made.", (AFTER_TASK, TASK, Column("value", "how much", "nats", "lower")))


def test_a_table_and_its_state():
    record = Record()
    record.add_rows(TABLE, [])
    assert "made" not in record.tables
    rows = [{"after_task": 0, "task": 0, "value": 0.5, "hidden": True}, {"after_task": 0, "task": "all", "value": None}]
    record.add_rows(TABLE, [rows[0] | {"hidden": True}, rows[1] | {"hidden": False}])
    assert record.tables["made"].csv_rows() == (["after_task", "task", "value"], [[0, 0, 0.5], [0, "all", None]])
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
def test_a_description_that_is_none_is_refused(described):
    with pytest.raises(ValueError, match=r"must be|has "):
        parse_table_formats(described)
