"""What gr-audit measured of a run, as a table of the run: in reports, on the page, and in Python."""

import json

import pytest

from gr_cli.errors import FolderError
from gr_cli.report.cli import main
from gr_cli.results.audits import audit_of
from gr_cli.results.discovery import discover_runs
from gr_cli.results.frames import table_frame, table_names
from helpers.pages import embedded
from helpers.run_folders import AUDIT_HEADER, TASKS, auc, write_audit, write_run


def written(root, seeds=range(3), **audit):
    """Audited runs of a configuration with a generator, by seed."""
    runs = {seed: write_run(root, seed, "generative_replay") for seed in seeds}
    for seed, run in runs.items():
        write_audit(run, seed, **audit)
    return runs


def report(capsys, *arguments):
    code = main([*map(str, arguments), "--format", "json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def test_its_areas_are_metrics_of_the_report(tmp_path, capsys):
    written(tmp_path)
    names = ["membership_solver_auc", "membership_generator_auc", "membership.solver_auc@task=0"]
    code, found, _ = report(capsys, tmp_path, "--metrics", *names)
    values = {name: found["rows"][0]["metrics"][name]["values"] for name in names}
    assert code == 0
    assert values[names[0]] == pytest.approx({str(seed): auc(seed, TASKS - 1, "all") for seed in range(3)})
    assert values[names[1]] == dict.fromkeys("012", 0.75)
    assert values[names[2]] == pytest.approx({str(seed): auc(seed, TASKS - 1, 0) for seed in range(3)})


def test_a_rate_that_no_task_has_samples_for_is_no_metric(tmp_path, capsys):
    written(tmp_path / "few")
    code, _, err = report(capsys, tmp_path / "few", "--metrics", "membership_solver_true_positive_rate")
    assert code == 2 and "no such metric; did you mean" in err
    written(tmp_path / "many", rate="0.25")
    code, found, _ = report(capsys, tmp_path / "many", "--metrics", "membership_solver_true_positive_rate")
    (row,) = found["rows"]
    assert code == 0 and row["metrics"]["membership_solver_true_positive_rate"]["mean"] == 0.25


def test_runs_are_chosen_by_it(tmp_path, capsys):
    written(tmp_path)
    write_run(tmp_path, 0)  # not audited
    _, found, _ = report(capsys, tmp_path, "--where", "membership_solver_auc>0.55", "--runs")
    assert sorted(run["seed"] for run in found["runs"]) == [1, 2]


def test_the_page_draws_it_and_counts_it_as_a_cost(tmp_path, capsys):
    written(tmp_path)
    page = tmp_path / "page.html"
    assert main([str(tmp_path), "--html", str(page)]) == 0
    data = embedded(page.read_text(encoding="utf-8"))
    (configuration,) = data["configurations"]
    curve = configuration["curves"]["membership"]["solver_auc"]["all so far"]
    assert curve["x"] == [1, 2, 3]
    assert curve["mean"] == pytest.approx([100 * auc(1, after, "all") for after in range(TASKS)], abs=0.01)
    assert set(configuration["costs"]) > {"membership solver auc (%)", "membership generator auc (%)"}
    assert "membership" in [family["name"] for family in data["families"]]


def test_runs_without_a_generator_are_on_the_same_page(tmp_path, capsys):
    written(tmp_path)
    other = write_run(tmp_path, 0)
    write_audit(other, generator=False)
    page = tmp_path / "page.html"
    assert main([str(tmp_path), "--html", str(page)]) == 0
    data = embedded(page.read_text(encoding="utf-8"))
    columns = [set(configuration["curves"]["membership"]) for configuration in data["configurations"]]
    assert columns == [{"solver_auc"}, {"solver_auc", "generator_auc"}]
    (family,) = [family for family in data["families"] if family["name"] == "membership"]
    assert [column["name"] for column in family["columns"]] == ["solver_auc", "generator_auc"]
    assert "left out" not in capsys.readouterr().err


def test_without_an_audit_there_is_no_such_table(tmp_path):
    run = write_run(tmp_path)
    assert audit_of(run) is None
    assert "membership" not in discover_runs([tmp_path]).runs[0].tables
    assert "membership" not in table_names(discover_runs([tmp_path]).runs[0].folder)


def test_shadows_with_the_settings_of_the_run_count_first_then_many_shadows(tmp_path):
    run = write_run(tmp_path)
    write_audit(run, name="f", overrides=["train.iterations=5"], shadows=64)
    assert str(audit_of(run)) == "64 shadows with train.iterations=5"
    write_audit(run, name="e", shadows=8)
    assert str(audit_of(run)) == "8 shadows"
    write_audit(run, name="a", shadows=16)
    assert str(audit_of(run)) == "16 shadows"


def test_an_audit_of_another_run_does_not_count(tmp_path):
    run = write_run(tmp_path)
    write_audit(run, identity="00000000")
    write_audit(run, name="other_seed", seed=7)
    assert audit_of(run) is None


def test_the_report_says_what_shadows_differ_in(tmp_path, capsys):
    runs = {seed: write_run(tmp_path, seed, "generative_replay") for seed in range(3)}
    write_audit(runs[0], 0)
    write_audit(runs[1], 1, shadows=32)
    write_audit(runs[2], 2, overrides=["train.iterations=5"])
    _, found, _ = report(capsys, tmp_path)
    warning = "membership inference differs: 16 shadows; 16 shadows with train.iterations=5; 32 shadows"
    assert warning in found["rows"][0]["warnings"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("audit.json", "{"),
        ("audit.json", "[]"),
        ("audit.json", '{"seed": 0}'),
        ("membership.csv", "after_task,task\n0,0\n"),
        ("membership.csv", f"{AUDIT_HEADER}\n0,all,solver,likelihood_ratio,auc,nan,,,8\n"),
        ("membership.csv", f"{AUDIT_HEADER}\n0,all,=1+2,likelihood_ratio,auc,0.5,,,8\n"),
    ],
)
def test_a_damaged_audit_is_named_and_left_out(tmp_path, capsys, file, content):
    run = write_run(tmp_path)
    (write_audit(run) / file).write_text(content)
    code, found, err = report(capsys, tmp_path)
    assert code == 1 and "audit" in err and "left out" in err and len(err.splitlines()) == 1
    assert found["rows"][0]["seeds"] == [0]


def test_other_tables_do_not_need_a_damaged_audit(tmp_path):
    run = write_run(tmp_path)
    (write_audit(run) / "audit.json").write_text("{")
    folder = discover_runs([tmp_path]).runs[0].folder
    assert "membership" in table_names(folder) and len(table_frame(folder, "history"))
    with pytest.raises(FolderError, match="audit"):
        table_frame(folder, "membership")


def test_it_is_a_data_frame(tmp_path):
    run = write_run(tmp_path)
    write_audit(run)
    folder = discover_runs([tmp_path]).runs[0].folder
    frame = table_frame(folder, "membership")
    assert "membership" in table_names(folder)
    assert frame.loc[(0, 0), "solver_auc"] == pytest.approx(auc(0, 0, 0))
    assert frame["generator_auc"].isna().sum() == len(frame) - TASKS - 1
