"""A small tracked run, and the values its tracker must have received."""

import csv
import json
from pathlib import Path

import pytest

SHORT = ("train.iterations=4", "log.every=2", "evaluate.every=3", "model.hidden_sizes=[8]", "threads=1")
SHORT += ("benchmark.classes_per_task=5", "generator.hidden_dims=[8]", "evaluate.generated_samples=0")
ENDS = [4, 8]  # of its two tasks, in iterations over all tasks


def folders():
    return sorted(path.parent for path in Path("outputs").glob("*/*/*/status.json"))


def table(folder, name):
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def expected_values(folder):
    """The values that a tracker must have received from a finished run, by name and step."""
    values_by_name = {}
    for row in table(folder, "history"):
        step = 4 * int(row.pop("task")) + int(row.pop("iteration"))
        for name, value in row.items():
            if value:  # no replay in the first task
                values_by_name.setdefault(f"loss/{name}", {})[step] = float(value)
    for row in table(folder, "evaluations"):
        step = 4 * max(0, int(row["after_task"])) + int(row["iteration"])
        if row["split"] == "test":
            values_by_name.setdefault(f"accuracy/task_{row['task']}", {})[step] = float(row["accuracy"])
    return {name: pytest.approx(values, rel=1e-5, abs=1e-6) for name, values in values_by_name.items()}


def stopped_and_resumed(gr_run, interrupted, *argv):
    """The folder of a run that was interrupted within its second task and resumed."""
    interrupted(*SHORT, *argv)
    (folder,) = folders()
    code, _, err = gr_run(f"resume={folder}")
    assert (code, err) == (0, "")
    return folder


def killed_before_storing_its_state(gr_run, interrupted, *argv):
    """The folder of a resumed run whose tracker had received more than tracker.json recorded."""
    interrupted(*SHORT, *argv)
    (folder,) = folders()
    ((destination, state),) = json.loads((folder / "tracker.json").read_text()).items()
    state |= {"last_step": 3, "history_rows": 1, "accuracy_rows": 4, "num_images": 0}  # as it was after three steps
    (folder / "tracker.json").write_text(json.dumps({destination: state}))
    assert gr_run(f"resume={folder}")[::2] == (0, "")
    return folder
