"""`gr-audit --attacks`: shadow runs, what they find, and what is printed and written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gr_cli.audit.attacks import ATTACKS, AttackRow
from gr_cli.audit.cli import main
from gr_cli.audit.shadows import plan_shadows, with_overrides
from gr_cli.audit.tables import audit_figure, csv_text, markdown_text, read_rows
from gr_cli.cli.compose import compose_settings
from gr_cli.errors import ConfigError
from gr_cli.evaluation.attacks.likelihood_ratio import log_likelihood_ratios
from gr_cli.evaluation.attacks.rates import TargetScores
from gr_cli.evaluation.membership import membership_scores
from gr_cli.generators import WGANGP
from gr_cli.results.discovery import discover_runs
from gr_cli.training.experiment import prepare
from helpers.interruption import StopAt

TINY = ("train.iterations=3", "log.every=3", "threads=1", "train.tasks=2", "model.hidden_sizes=[8]")
FINETUNE = (*TINY, "strategy=finetune", "evaluate.generated_samples=0")


def scores_of(draw, generate, monkeypatch):
    """Membership scores of a run whose generator is a function of its training samples and its draw."""
    words = ("generator=wgan_gp", "train.iterations=1", "train.tasks=1", "evaluate.generated_samples=0", "threads=1")
    run = prepare(compose_settings([*words, f"membership.draw={draw}", "membership.candidates=40"]))
    x = next(run.benchmark.tasks[0].train.batches())[0]
    monkeypatch.setattr(WGANGP, "generate", lambda *_, **__: generate(x, draw))
    return membership_scores(run, run.learner, 0, 0)


def generator_auc(generate, monkeypatch):
    shadows = [scores_of(draw, generate, monkeypatch) for draw in range(8)]
    is_member = np.stack([scores.is_member for scores in shadows])
    values = np.stack([scores.parts["generator"].values for scores in shadows])
    return TargetScores(log_likelihood_ratios(values, is_member, np.arange(8) // 2), is_member).auc()


def test_a_generator_that_stores_its_samples_is_found(monkeypatch):
    assert generator_auc(lambda x, draw: x, monkeypatch).low > 0.95


def test_a_generator_that_ignores_its_samples_is_not_found(monkeypatch):
    def independent(x, draw):
        return torch.rand(200, *x.shape[1:], generator=torch.Generator().manual_seed(draw))

    estimate = generator_auc(independent, monkeypatch)
    assert estimate.low < 0.5 < estimate.high


# --- the command


def attacked(gr_audit, folder, *words):
    return gr_audit(folder, "--attacks", "--shadows", "6", "--candidates", "10", *words)


def test_figures_after_every_task_and_again_without_training(made, gr_audit, monkeypatch):
    folder = made(*FINETUNE)
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    code, out, err = attacked(gr_audit, folder, "--format", "csv")
    assert code == 0, err
    (audit,) = (folder / "audit").iterdir()
    assert out == (audit / "membership.csv").read_text(encoding="utf-8")
    rows = [line.split(",") for line in out.splitlines()]
    assert rows[0] == list(AttackRow._fields)
    keys = {(row[0], row[1]) for row in rows[1:]}
    assert keys == {("0", "0"), ("0", "all"), ("1", "0"), ("1", "1"), ("1", "all")}
    assert {row[3] for row in rows[1:]} == {attack.name for attack in ATTACKS} and {row[2] for row in rows[1:]} == {
        "solver"
    }
    (auc,) = [row for row in rows if row[:5] == ["1", "all", "solver", "likelihood_ratio", "auc"]]
    assert float(auc[6]) <= float(auc[5]) <= float(auc[7]) and auc[8] == str(6 * 2 * 2 * 10)
    # Ten false positives of 60 others are expected at no rate of the table.
    assert all(row[5:8] == ["", "", ""] for row in rows[1:] if row[4] == "tpr_at_fpr_0.01")
    assert {path.name for path in audit.iterdir()} >= {
        "audit.json",
        "membership.csv",
        "membership.svg",
        "membership.pdf",
    }
    provenance = json.loads((audit / "audit.json").read_text(encoding="utf-8"))
    assert provenance["draws"] == list(range(6)) and provenance["seed"] == 0
    # The run itself is as before, and no report sees the shadows.
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == before
    assert [run.path for run in discover_runs([Path("outputs")]).runs] == [folder]
    with monkeypatch.context() as patch:
        patch.setattr("gr_cli.cli.launchers.batched.BatchedLauncher.train", None)
        (audit / "audit.json").unlink()
        assert attacked(gr_audit, folder, "--format", "csv")[1] == out
        patch.setattr("gr_cli.audit.attacks.attack_rows", None)
        assert attacked(gr_audit, folder, "--format", "csv")[1] == out
    assert "| after task | task |" in attacked(gr_audit, folder, "--format", "markdown")[1]
    assert "likelihood-ratio attack on 6 shadow runs" in attacked(gr_audit, folder, "--format", "table")[1]


def test_tables_of_other_shadows_or_versions_are_computed_anew(made, gr_audit, monkeypatch):
    folder = made(*FINETUNE)
    assert attacked(gr_audit, folder)[0] == 0
    (audit,) = (folder / "audit").iterdir()
    expected = (audit / "membership.csv").read_bytes()

    def falsify() -> None:
        (audit / "membership.csv").write_text(f"{','.join(AttackRow._fields)}\n0,0,solver,threshold,auc,1,1,1,4\n")

    falsify()
    assert "0,0,solver,threshold,auc,1.0" in attacked(gr_audit, folder, "--format", "csv")[1]
    shutil.rmtree(audit / "draw_003")
    assert attacked(gr_audit, folder)[0] == 0 and (audit / "membership.csv").read_bytes() == expected
    falsify()
    monkeypatch.setattr("gr_cli.audit.shadows.__version__", "0.0.1")
    assert attacked(gr_audit, folder)[0] == 0 and (audit / "membership.csv").read_bytes() == expected


def test_an_interrupted_audit_continues_to_the_same_figures(made, gr_audit, monkeypatch):
    folder = made(*FINETUNE)
    assert attacked(gr_audit, folder)[0] == 0
    (expected,) = [path.read_bytes() for path in folder.glob("audit/*/membership.csv")]
    shutil.rmtree(folder / "audit")
    with monkeypatch.context() as patch:
        patch.setattr("gr_cli.terminal.run_display.TerminalObserver", lambda **_: StopAt(1, 1))
        code, _, err = attacked(gr_audit, folder)
    assert code == 130 and "gr-audit: interrupted; repeat the command" in err
    assert not list(folder.glob("audit/*/membership.csv"))
    assert attacked(gr_audit, folder)[0] == 0
    assert [path.read_bytes() for path in folder.glob("audit/*/membership.csv")] == [expected]


def test_a_wrong_number_of_shadows_is_refused_before_the_search(made, gr_audit):
    code, out, err = gr_audit(made(*FINETUNE), "--shadows", "7")
    assert code == 2 and "--shadows=7: must be even" in err and "stores_raw_samples" not in out + err


def test_the_search_for_raw_samples_leaves_shadows_out(made, gr_audit):
    folder = made(*TINY, "strategy=ncm")
    assert gr_audit(folder, "--shadows", "6", "--candidates", "4")[0] == 0
    code, out, _ = gr_audit(folder, "--raw-samples")
    assert code == 0 and "none was found" in out


def test_shadows_are_the_configuration_of_the_run_with_overrides(made):
    folder = made(*FINETUNE)
    shadows = plan_shadows(folder, 6, None, ["train.iterations=5", "optimizer.lr=1e-2"])
    assert [job.config["membership"] for job in shadows.jobs] == [
        {"draw": draw, "share": 0.5, "candidates": None} for draw in range(6)
    ]
    config = shadows.jobs[0].config
    assert config["train"]["iterations"] == 5 and config["optimizer"]["lr"] == 0.01
    assert config["evaluate"]["samples"] == 100
    assert config["model"] == shadows.settings.config["model"] and config["seed"] == shadows.settings.seed
    assert shadows.folder != plan_shadows(folder, 6, None, []).folder
    assert plan_shadows(folder, 8, None, []).folder == plan_shadows(folder, 6, None, []).folder


@pytest.mark.parametrize("override", ["strategy=er", "train=5", "seed=1", "membership.draw=1", "train.iterations"])
def test_overrides_of_other_settings_are_refused(override):
    with pytest.raises(ConfigError, match="is no setting of this run that shadows may change"):
        with_overrides(compose_settings(["strategy=finetune"]).config, [override])


def test_help_and_version_are_printed_without_torch():
    script = "import sys; sys.modules['torch'] = None; from gr_cli.audit.cli import main; main(sys.argv[1:])"
    for word, expected in (("--help", "gr-audit [options] FOLDER"), ("--version", "gr-audit 0.")):
        done = subprocess.run([sys.executable, "-c", script, word], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0 and expected in done.stdout, done.stderr


def test_a_folder_without_a_run_is_refused(capsys):
    assert main(["nowhere", "--attacks"]) == 2
    assert "gr-audit: nowhere: is not the folder of a run" in capsys.readouterr().err


# --- tables


ROWS = [
    AttackRow(0, 0, "solver", "likelihood_ratio", "auc", 0.625, 0.5, 0.75, 80),
    AttackRow(0, 0, "solver", "likelihood_ratio", "tpr_at_fpr_0.01", None, None, None, 80),
    AttackRow(0, 0, "generator", "likelihood_ratio", "auc", 0.5, None, None, 80),
    AttackRow(0, "all", "solver", "likelihood_ratio", "auc", 0.6, 0.55, 0.65, 160),
    AttackRow(0, 0, "solver", "threshold", "auc", 0.9, 0.8, 1.0, 80),
]


def test_the_table_shows_the_likelihood_ratio_attack():
    text = markdown_text(ROWS, ["a note"])
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    assert lines[0] == ["after task", "task", "solver AUC", "generator AUC"]
    assert lines[2:] == [["0", "0", "0.625 (0.500, 0.750)", "0.500"], ["0", "all", "0.600 (0.550, 0.650)", ""]]


def test_csv_has_all_attacks_and_the_run_where_there_are_several():
    assert csv_text({"a": ROWS}).splitlines()[2] == "0,0,solver,likelihood_ratio,tpr_at_fpr_0.01,,,,80"
    assert csv_text({"a": ROWS, "b": ROWS[:1]}).splitlines()[0].startswith("run,after_task,task")


def test_figures_are_read_as_they_were_written(tmp_path):
    (tmp_path / "membership.csv").write_text(csv_text({"a": ROWS}), encoding="utf-8")
    assert read_rows(tmp_path / "membership.csv") == ROWS


def test_the_picture_has_a_panel_for_each_part():
    figure = audit_figure(ROWS)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["solver", "generator"]
    assert audit_figure(ROWS[1:2]) is None


def test_the_axis_of_the_picture_fits_the_values_and_guessing():
    for areas in ((0.55, 0.58), (0.3, 0.45)):
        rows = [AttackRow(after, 0, "solver", "likelihood_ratio", "auc", a, a, a, 80) for after, a in enumerate(areas)]
        (axes,) = audit_figure(rows).axes
        low, high = axes.get_ylim()
        assert low < min(0.5, *areas) and max(0.5, *areas) < high and high - low < 0.3
        assert axes.get_ylabel() == "area under the curve"
        (line,) = [line for line in axes.lines if list(line.get_ydata()) == [0.5, 0.5]]
        (name,) = axes.texts
        assert name.get_text() == "guessing" and line.get_linewidth() < 1
        assert list(axes.get_xticks()) == [1, 2]
