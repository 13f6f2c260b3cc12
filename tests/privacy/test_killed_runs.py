"""Private runs that are killed, within tasks and between them: tables, and what their ledgers count."""

import csv
import json
from pathlib import Path

import pytest

from gr_cli.privacy.ledger import FILE_NAME
from gr_cli.results.folder import RunFolder
from gr_cli.training.stages import ResumePoint
from helpers.interruption import csvs, only_run
from helpers.killed import kill
from helpers.situations_release import MEANS, REPLAY

SMALL = ("threads=1", "train.iterations=6", "train.batch_size=96", "benchmark.classes_per_task=5", "log.every=2")
SMALL += ("privacy.epsilon=8", "privacy.sampling_rate=0.05", "model.hidden_sizes=[8]")
SOLVER = ("strategy=finetune", "gradient_rule=dp_sgd", "gradient_rule.noise_multiplier=2", *SMALL)
GENERATOR = ("strategy=generative_classifier", "generator=class_vae", "generator.hidden_dims=[8]")
GENERATOR += ("generator/gradient_rule=dp_sgd", "generator.gradient_rule.noise_multiplier=2", *SMALL)
SECURE = "privacy.secure=true"


def ledger(folder: Path) -> list[str]:
    return (folder / FILE_NAME).read_text(encoding="utf-8").splitlines()


def tasks_accessed(folder: Path) -> list[int]:
    return [json.loads(line)["access"]["task"] for line in ledger(folder) if "access" in line]


def resume_point(folder: Path) -> ResumePoint:
    saved = RunFolder(folder).load_checkpoint()
    return ResumePoint(*(saved[name] for name in ResumePoint._fields))


@pytest.mark.parametrize(
    ("words", "kills"),
    [
        (SOLVER, [((0, 3), False, None), ((0, "end"), False, (1, 0)), ((1, 3), True, (1, 3))]),
        (GENERATOR, [((1, 3), True, (1, 3))]),
    ],
    ids=["solver", "generator"],
)
def test_a_run_with_dp_sgd_that_was_killed_has_the_same_tables(gr_run, monkeypatch, tmp_path, words, kills):
    assert gr_run(*words)[0] == 0
    undisturbed = csvs(only_run()), ledger(only_run())
    assert {"accuracy_matrix.csv", "history.csv", "privacy.csv"} <= set(undisturbed[0])
    (tmp_path / "killed").mkdir()
    monkeypatch.chdir(tmp_path / "killed")
    for at, every_step, saved in kills:
        kill(*words, at=at, every_step=every_step)
        assert RunFolder(only_run()).state() == "killed"
        if saved is None:
            assert RunFolder(only_run()).load_checkpoint() is None
        else:
            assert resume_point(only_run()) == ResumePoint(*saved)
    assert gr_run(*words)[0] == 0
    assert (csvs(only_run()), ledger(only_run())) == undisturbed


def test_noise_of_the_system_is_drawn_once_if_a_run_is_killed_between_tasks(gr_run):
    kill(*SOLVER, SECURE, at=(0, "end"))
    assert gr_run(*SOLVER, SECURE)[0] == 0
    assert tasks_accessed(only_run()) == [0, 1]


def test_noise_of_the_system_is_paid_for_twice_if_a_run_is_killed_within_a_task(gr_run):
    kill(*SOLVER, SECURE, at=(1, 3), every_step=True)
    spent = json.loads(ledger(only_run())[-1])["access"]
    code, _, err = gr_run(*SOLVER, SECURE)
    assert code == 2 and len(err.splitlines()) == 1
    twice = f"would spend an epsilon of {2 * spent['epsilon']:.6g} at a delta of 2e-05 in all"
    assert f"{twice}, because what an interrupted run does again has new noise" in err
    assert tasks_accessed(only_run()) == [0, 1] and RunFolder(only_run()).state() == "failed"


def test_a_killed_task_with_noise_of_the_system_is_counted_twice_where_the_budget_allows_it(gr_run):
    target = "generator._target_=helpers.situations_release.Frugal"
    words = ("strategy=generative_replay", target, *MEANS[1:], *REPLAY[len(MEANS) + 1 :], SECURE)
    kill(*words, at=(1, 2), every_step=True)
    assert gr_run(*words)[0] == 0
    assert tasks_accessed(only_run()) == [0] * 5 + [1] * 10
    with (only_run() / "privacy.csv").open(encoding="utf-8") as file:
        spent = {(row["task"], row["class"]): float(row["epsilon"]) for row in csv.DictReader(file)}
    assert spent["0", "all"] < spent["1", "all"] == spent["all", "all"] <= 2
