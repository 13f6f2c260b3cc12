"""gr-run verify=<folder>: a run repeated elsewhere."""

import json
from pathlib import Path

import pytest
from interruption import only_run

TINY = ("train.iterations=6", "log.every=3", "strategy=finetune")


@pytest.fixture
def finished(gr_run) -> Path:
    assert gr_run(*TINY)[0] == 0
    return only_run()


def test_a_run_comes_out_the_same_and_is_left_alone(gr_run, finished):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in finished.rglob("*") if path.is_file()}
    code, out, err = gr_run(f"verify={finished}")
    assert (code, err) == (0, "")
    assert out.count("the same byte for byte") == 4
    assert out.splitlines()[-1] == "verified: all tables come out the same"
    assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in finished.rglob("*") if p.is_file()}
    assert list(Path("outputs").glob("*/*/*")) == [finished]


def test_a_run_that_comes_out_otherwise_says_where_and_what_else_differs(gr_run, finished):
    history = finished / "history.csv"
    row = history.read_text().splitlines()[1]
    history.write_text(history.read_text().replace(row, f"{row}1"))
    (finished / "metrics.csv").unlink()
    status = json.loads((finished / "status.json").read_text())
    status["versions"]["torch"], status["commit"] = "1.0", None
    (finished / "status.json").write_text(json.dumps(status))
    code, out, _ = gr_run(f"verify={finished}")
    assert code == 1
    assert f"history.csv: differs from row 2 on: {row}1 there, {row} here" in out
    assert "metrics.csv: is missing" in out
    assert "NOT the same; what else differs: versions.torch was 1.0 and is" in out


def test_a_run_that_is_not_finished_can_not_be_verified(gr_run, finished):
    status = json.loads((finished / "status.json").read_text())
    (finished / "status.json").write_text(json.dumps(status | {"state": "interrupted"}))
    code, _, err = gr_run(f"verify={finished}")
    assert code == 2
    assert err == f"gr-run: {finished}: can't be verified, it is interrupted; finish it with resume={finished}\n"
    assert gr_run("verify=nowhere")[0] == 2
    assert "goes alone: remove seed=3" in gr_run(f"verify={finished}", "seed=3")[2]


def test_a_run_that_was_trained_together_is_verified_within_a_tolerance(gr_run):
    words = ("-m", *TINY, "seed=0,1", "hydra/launcher=batched", "hydra.launcher.width=2")
    assert gr_run(*words)[0] == 0
    folder = next(Path("outputs").glob("*/*/*-seed0-*"))
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"mode": "batched"}))  # whatever the trial found
    (folder / "history.csv").write_text("rounded otherwise\n")
    code, out, _ = gr_run(f"verify={folder}")
    assert code == 0
    assert out.splitlines()[-1].startswith("verified: trained together with others")
    matrix = folder / "accuracy_matrix.csv"
    rows = matrix.read_text().splitlines()
    last = rows[-1].split(",")
    last[-1] = f"{float(last[-1]) - 0.03:.6f}"
    matrix.write_text("\n".join([*rows[:-1], ",".join(last)]) + "\n")
    assert gr_run(f"verify={folder}")[0] == 1
