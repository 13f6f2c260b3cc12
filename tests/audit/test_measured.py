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
    assert code == 0 and "solver: logit_scaled_confidence" in table and "confidence: 0.990" in table
    assert "| epsilon at least |" in gr_audit(folder, "--canaries", "--format", "markdown")[1]


def test_generated_samples_and_their_picture(made, gr_audit, tmp_path):
    folder = made(*TINY, "generator=vae")
    picture, table = tmp_path / "pairs.png", tmp_path / "generated.csv"
    code, out, err = gr_audit(folder, "--generated", "--memorised", picture, "--output", table)
    assert code == 0 and out == "" and picture.exists()
    assert "pairs.png: contains training samples, for the owner of the data only" in err
    assert len(table.read_text(encoding="utf-8").splitlines()) == 1 + 2
    assert not list(folder.rglob("pairs.png"))


@pytest.mark.parametrize("option", ["--generated", "--canaries"])
def test_a_terminal_of_80_characters_shows_all_figures(made, gr_audit, monkeypatch, option):
    folder = made(*TINY, "generator=vae", "canaries.count=20")
    monkeypatch.setenv("COLUMNS", "80")
    rows = json.loads(gr_audit(folder, option, "--format", "json")[1])["rows"]
    code, table, _ = gr_audit(folder, option, "--format", "table")
    assert code == 0 and "no room for" not in table
    assert max(map(len, table.splitlines())) <= 80
    shown = table.split()
    for row in rows:
        for name, value in row.items():
            is_percent = "auc" in name or "authenticity" in name
            if isinstance(value, float):
                text = f"{100 * value:.1f}" if is_percent else f"{value:.3f}"
                assert text in shown, (name, text)


def test_an_unreadable_run_among_others_is_left_out(made, gr_audit):
    folder = made(*TINY, "strategy=finetune", "canaries.count=20")
    other = shutil.copytree(folder, folder.with_name("other"))
    config = other / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8") + "from_another_version: 1\n", encoding="utf-8")
    expected = gr_audit(folder, "--canaries", "--format", "csv")[1]
    for words in ((folder.parent,), (folder, other)):
        code, csv, err = gr_audit(*words, "--canaries", "--format", "csv")
        assert code == 1 and csv == expected
        assert f"gr-audit: {other}" in err and "left out" in err and err.count("left out") == 1
    code, csv, err = gr_audit(other, "--canaries", "--format", "csv")
    assert code == 2 and csv == "" and "from_another_version=1: no such setting" in err and "left out" not in err


def test_a_release_is_named_as_such(made, gr_run, gr_audit):
    words = ("strategy=generative_classifier", "generator=private_gaussian", "privacy.epsilon=10")
    assert gr_run(f"release={made(*TINY[1:], *words)}", "to=released")[0] == 0
    for words in ((), ("--generated",), ("--canaries",), ("--raw-samples",)):
        code, out, err = gr_audit("released", *words)
        assert code == 2 and out == "" and "released: is a release" in err and err.count("\n") == 1


def test_rows_of_several_runs_have_their_folder(made, gr_audit):
    folder = made(*TINY, "strategy=finetune", "canaries.count=20")
    other = shutil.copytree(folder, folder.with_name("other"))
    code, csv, _ = gr_audit(folder, other, "--canaries", "--format", "csv")
    assert code == 0 and csv.startswith("run,after_task") and len(csv.splitlines()) == 1 + 8


def test_shadows_of_a_run_with_canaries_have_none(made):
    from gr_cli.audit.shadows import plan_shadows

    shadows = plan_shadows(made(*TINY, "strategy=finetune", "canaries.count=20"), 6, 4, [])
    assert all(job.config["canaries"]["count"] is None for job in shadows.jobs)
