"""`gr-audit --generated` and `--canaries`: what they print and write."""

import json
import shutil

import pytest

from gr_cli.evaluation import black_box

TINY = ("train.iterations=4", "log.every=2", "evaluate.generated_samples=0", "threads=1", "train.tasks=2")


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr(black_box, "_BOOTSTRAP_DRAWS", 20)
    monkeypatch.setattr(black_box, "NUM_GENERATED", 200)


def test_canaries_are_printed_in_every_format(made, gr_audit):
    folder = made(*TINY, "strategy=finetune", "canaries.count=20")
    code, csv, _ = gr_audit(folder, "--canaries", "--format", "csv")
    assert code == 0 and csv.startswith("after_task,part,score,task,canaries,guesses,correct,epsilon_at_least")
    assert len(csv.splitlines()) == 1 + 1 + 3
    code, text, _ = gr_audit(folder, "--canaries", "--format", "json", "--confidence", "0.5")
    rows = json.loads(text)["rows"]
    assert code == 0 and len(rows) == 4 and rows[0]["confidence"] == 0.5 and rows[0]["accounted"] is None
    code, table, _ = gr_audit(folder, "--canaries", "--format", "table")
    assert code == 0 and "epsilon" in table and "logit_scaled_confidence" in table
    assert "| epsilon at least |" in gr_audit(folder, "--canaries", "--format", "markdown")[1]


def test_generated_samples_and_their_picture(made, gr_audit, tmp_path):
    folder = made(*TINY, "generator=vae")
    picture, table = tmp_path / "pairs.png", tmp_path / "generated.csv"
    code, out, err = gr_audit(folder, "--generated", "--memorised", picture, "--output", table)
    assert code == 0 and out == "" and picture.exists()
    assert "pairs.png: contains training samples, for the owner of the data only" in err
    assert len(table.read_text(encoding="utf-8").splitlines()) == 1 + 2
    assert not list(folder.rglob("pairs.png"))


def test_rows_of_several_runs_have_their_folder(made, gr_audit):
    folder = made(*TINY, "strategy=finetune", "canaries.count=20")
    other = shutil.copytree(folder, folder.with_name("other"))
    code, csv, _ = gr_audit(folder, other, "--canaries", "--format", "csv")
    assert code == 0 and csv.startswith("run,after_task") and len(csv.splitlines()) == 1 + 8


def test_shadows_of_a_run_with_canaries_have_none(made):
    from gr_cli.audit.shadows import plan_shadows

    shadows = plan_shadows(made(*TINY, "strategy=finetune", "canaries.count=20"), 6, 4, [])
    assert all(job.config["canaries"]["count"] is None for job in shadows.jobs)
