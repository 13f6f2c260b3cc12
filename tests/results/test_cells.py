"""Values of a run's tables by address."""

import pytest

from gr_cli.evaluation.measures.sample_quality import SampleQuality
from gr_cli.results.accuracy import ACCURACY
from gr_cli.results.cells import cell_addresses, parse_cell, with_cells_as_metrics
from gr_cli.results.metrics import fraction_metrics, metric_bounds, metric_directions
from gr_cli.results.statistics import UNIT_INTERVAL, Bounds
from gr_cli.results.tables import TableFormat
from gr_cli.system.reading import read_table

QUALITY = TableFormat(SampleQuality.name, SampleQuality.description, SampleQuality.columns)


def rows(text: str, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    return read_table(path)


EVALUATIONS = """after_task,iteration,task,split,accuracy,loss
0,20,0,test,0.9,0.1
1,10,0,test,0.8,0.2
1,10,1,test,0.4,0.3
1,20,0,validation,0.1,0.9
1,20,1,validation,0.1,0.9
1,20,0,test,0.5,0.4
1,20,1,test,0.7,
"""
SAMPLES = """after_task,task,recall
0,0,0.9
0,all,0.9
1,0,0.2
1,1,0.4
1,all,0.25
"""


@pytest.mark.parametrize(
    ("address", "text", "value"),
    [
        ("evaluations.accuracy", EVALUATIONS, 0.6),  # the mean over tasks, of test samples, after the last iteration
        ("evaluations.accuracy@task=1", EVALUATIONS, 0.7),
        ("evaluations.accuracy@split=validation", EVALUATIONS, 0.1),
        ("evaluations.accuracy@after_task=0", EVALUATIONS, 0.9),
        ("evaluations.loss", EVALUATIONS, None),  # the mean over some of the tasks would be another number
        ("evaluations.loss@task=0", EVALUATIONS, 0.4),
        ("evaluations.loss@task=2", EVALUATIONS, None),
        ("sample_quality.recall", SAMPLES, 0.25),  # of all tasks together
        ("sample_quality.recall@task=0", SAMPLES, 0.2),
        ("sample_quality.recall@after_task=0@task=0", SAMPLES, 0.9),
        ("sample_quality.recall@task=all", SAMPLES, 0.25),
    ],
)
def test_value_of_a_cell(address, text, value, tmp_path):
    cell = parse_cell(address)
    assert cell.value(rows(text, tmp_path)) == (value if value is None else pytest.approx(value))


@pytest.mark.parametrize("text", ["average_accuracy", "a.b.c", "a.b@c", "a/b.c", "a.b@c=", "../a.b"])
def test_other_texts_are_no_addresses(text):
    assert parse_cell(text) is None


def test_a_cell_has_unit_range_and_direction_of_its_column():
    names = ["sample_quality.label_agreement", "evaluations.loss@task=0", "average_accuracy", "nowhere.loss"]
    formats = with_cells_as_metrics([ACCURACY, QUALITY], names)
    assert len(formats) == 4
    assert {"sample_quality.label_agreement", "average_accuracy"} <= fraction_metrics(formats)
    assert metric_bounds("sample_quality.label_agreement", formats) == UNIT_INTERVAL
    assert metric_bounds("evaluations.loss@task=0", formats) == Bounds(0.0)
    assert metric_directions(formats, [])["evaluations.loss@task=0"] == "lower"


def test_counts_have_no_address():
    assert cell_addresses([ACCURACY]) == ["evaluations.accuracy", "evaluations.loss"]
    assert "sample_quality.n" not in cell_addresses([QUALITY])
