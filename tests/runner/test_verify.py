"""gr-run verify=<folder> repeats a run and compares the tables."""

import json
import re
from pathlib import Path

import pytest

from gr_cli.errors import OutOfMemoryError
from gr_cli.results.folder import RunFolder
from gr_cli.runner import verify

SHORT = ("train.iterations=6", "log.every=3", "threads=1", "model.hidden_sizes=[16]")
TINY = (*SHORT, "strategy=finetune")


@pytest.fixture
def finished(made) -> Path:
    return made(*TINY)


def test_a_verified_run_is_the_same_and_unchanged(gr_run, finished):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in finished.rglob("*") if path.is_file()}
    code, out, err = gr_run(f"verify={finished}")
    assert (code, err) == (0, "")
    tables = {path.name for path in finished.glob("*.csv")} - {"timing.csv"}
    assert {line.partition(":")[0] for line in out.splitlines() if "the same byte for byte" in line} == tables
    assert out.splitlines()[-1] == "verified: all tables are the same"
    assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in finished.rglob("*") if p.is_file()}
    assert list(Path("outputs").glob("*/*/*")) == [finished]


def test_a_difference_is_located_with_its_possible_causes(gr_run, finished):
    history = finished / "history.csv"
    row = history.read_text().splitlines()[1]
    history.write_text(history.read_text().replace(row, f"{row}1"))
    (finished / "metrics.csv").unlink()
    status = json.loads((finished / "status.json").read_text())
    status["commit"] = "of another"
    (finished / "status.json").write_text(json.dumps(status))
    code, out, _ = gr_run(f"verify={finished}")
    assert code == 1
    assert re.search(rf"history\.csv: differs from row 2 on \(by \S+ at most\): {row}1 there, {row} here", out)
    assert "metrics.csv: is missing" in out
    assert "NOT the same; what else differs: commit was of another and is " in out


def test_a_run_that_is_not_finished_can_not_be_verified(gr_run, finished):
    status = json.loads((finished / "status.json").read_text())
    (finished / "status.json").write_text(json.dumps(status | {"state": "interrupted"}))
    code, _, err = gr_run(f"verify={finished}")
    assert code == 2
    assert err == f"gr-run: {finished}: can't be verified, it is interrupted; finish it with resume={finished}\n"
    assert gr_run("verify=nowhere")[0] == 2
    assert "can't be combined with other arguments: remove seed=3" in gr_run(f"verify={finished}", "seed=3")[2]


def test_a_run_whose_checkpoint_is_of_an_earlier_task_can_not_be_verified(gr_run, made):
    folder = made(*TINY, at=(2, 3))
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"state": "finished"}))
    code, _, err = gr_run(f"verify={folder}")
    assert code == 2 and "can't be verified, its checkpoint is not from the end" in err


# --- trained together with others


@pytest.fixture
def together(made) -> Path:
    words = (*SHORT, "generator.hidden_dims=[16]", "benchmark.classes_per_task=[4,3,3]", "evaluate.generated_samples=0")
    made("-m", *words, "seed=0,1", "strategy.replay_weight=0.5,2", "hydra/launcher=batched", "hydra.launcher.width=4")
    folder = min(path.parent for path in Path("outputs").glob("*/*/*/status.json"))
    status = json.loads((folder / "status.json").read_text())
    assert (status["mode"], status["width"], len(status["program"]["jobs"])) == ("batched", 4, 4)
    return folder


def test_a_run_of_a_group_is_repeated_in_such_a_group(gr_run, together):
    code, out, err = gr_run(f"verify={together}")
    assert (code, err) == (0, "")
    assert "4 runs as one program" in out
    assert out.splitlines()[-1] == "verified: all tables are the same"


def test_a_forged_table_is_found_whatever_mode_the_status_names(gr_run, together):
    metrics, history = together / "metrics.csv", together / "history.csv"
    rows = metrics.read_text().splitlines()
    name, value = rows[1].split(",")
    metrics.write_text("\n".join([rows[0], f"{name},{float(value) + 0.000001:.6f}", *rows[2:]]) + "\n")
    code, out, _ = gr_run(f"verify={together}")
    assert code == 1 and "metrics.csv: differs from row 2 on (by 1e-06 at most)" in out
    assert out.splitlines()[-1].startswith("NOT the same")
    history.write_text(history.read_text().splitlines()[0] + "\n")
    status = json.loads((together / "status.json").read_text())
    RunFolder(together).write_status(status | {"mode": "alone, then batched"})
    assert gr_run(f"verify={together}")[0] == 1


def test_on_another_processor_the_largest_difference_is_reported(gr_run, together, monkeypatch):
    monkeypatch.setattr("gr_cli.runner.verify.processor", lambda: {"name": "another", "instructions": "fewer"})
    assert gr_run(f"verify={together}")[0] == 0  # the same bytes are the same bytes
    matrix = together / "accuracy_matrix.csv"
    rows = matrix.read_text().splitlines()
    last = rows[-1].split(",")
    last[-1] = f"{float(last[-1]) + 0.03:.6f}"
    matrix.write_text("\n".join([*rows[:-1], ",".join(last)]) + "\n")
    code, out, _ = gr_run(f"verify={together}")
    assert code == 3 and "verified" not in out
    assert re.search(r"^agrees within 0\.03; not repeated exactly: processor was .* and is another fewer$", out, re.M)
    matrix.write_text("\n".join(rows[:-1]) + "\n")  # a row less is no rounding
    assert gr_run(f"verify={together}")[0] == 1


def test_a_run_of_a_group_too_large_for_memory_is_repeated_alone(gr_run, together, monkeypatch):
    run_together = verify.run_together

    def too_large(jobs, folders, observer):
        if len(jobs) > 1:
            raise OutOfMemoryError("out of memory")
        return run_together(jobs, folders, observer)

    monkeypatch.setattr(verify, "run_together", too_large)
    code, out, _ = gr_run(f"verify={together}")
    assert code in (0, 3)  # alone it may be rounded otherwise, or not
    metrics = together / "metrics.csv"
    metrics.write_text(metrics.read_text().replace("average_accuracy,0.", "average_accuracy,1."))
    code, out, _ = gr_run(f"verify={together}")
    assert code == 3 and re.search(r"^agrees within \S+; .*: a program of 4 runs does not fit here", out, re.M)
