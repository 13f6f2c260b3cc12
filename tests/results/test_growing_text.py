"""Text of tables that grow, formatted once per row."""

import math

import pytest

from gr_cli.results.growing_text import GrowingText, json_columns, rows_from_json
from gr_cli.results.record import Record


def test_each_row_is_formatted_once():
    formatted = []

    def format_rows(rows):
        formatted.append([row["x"] for row in rows])
        return "".join(f"{row['x']}\n" for row in rows)

    text, rows = GrowingText(format_rows), [{"x": 1}, {"x": 2}]
    assert "".join(text.blocks(rows)) == "1\n2\n"
    rows.append({"x": 3})
    assert "".join(text.blocks(rows)) == "".join(text.blocks(rows)) == "1\n2\n3\n"
    assert formatted == [[1, 2], [3]]


@pytest.mark.parametrize("more", [[], [{"x": 5}], [{"x": 5}, {"x": 6}]], ids=["fewer", "as many", "more"])
def test_rows_that_were_taken_back_are_not_in_the_text(more):
    """A Python trainer takes back the rows of a task that failed."""
    text, rows = GrowingText(lambda rows: "".join(f"{row['x']}," for row in rows)), [{"x": 1}, {"x": 2}]
    text.blocks(rows)
    del rows[1:]
    rows += more
    assert "".join(text.blocks(rows)) == "".join(f"{row['x']}," for row in rows)


def test_rows_are_restored_exactly():
    rows = [
        {"task": 0, "value": 0.1 + 0.2, "finished": True, "text": 'a,"b"\n'},
        {"task": 1, "value": None, "finished": False, "text": "ä"},
        {"task": "all", "value": 5e-324, "finished": True, "text": ""},
    ]
    again = rows_from_json([json_columns(rows[:1]), json_columns(rows[1:])])
    assert again == rows and [list(map(type, row.values())) for row in again] == [
        list(map(type, row.values())) for row in rows
    ]
    uneven = [{"task": 0, "current": 1.0}, {"task": 1, "current": 1.5, "replay": math.inf}]
    assert rows_from_json([json_columns(uneven)]) == uneven
    assert math.isnan(rows_from_json([json_columns([{"x": math.nan}])])[0]["x"])


def test_a_loss_that_appears_later_gets_a_column_for_all_rows():
    record = Record()
    record.history.append({"task": 0, "iteration": 5, "current": 0.5})
    assert record.csv_texts()["history"] == "task,iteration,current\n0,5,0.500000\n"
    record.history.append({"task": 1, "iteration": 5, "current": 0.25, "replay": 2.0})
    expected = "task,iteration,current,replay\n0,5,0.500000,\n1,5,0.250000,2.000000\n"
    assert record.csv_texts()["history"] == expected
    assert Record.from_state(record.state_dict()).csv_texts() == record.csv_texts()
