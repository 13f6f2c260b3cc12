"""Runs with a budget: tables, status, resuming, replicas; and runs without one, which are as they were."""

import csv
import json
from pathlib import Path

import pytest

from gr_cli import load_run
from gr_cli.config.settings import result_relevant
from gr_cli.privacy.analytic_gaussian import epsilon_of_gaussian
from gr_cli.privacy.claims import SIMULATED
from gr_cli.privacy.ledger import FILE_NAME
from helpers.interruption import csvs, only_run

PARTS = "helpers.private_parts"
MEANS = (f"generator._target_={PARTS}.NoisyMeans", "privacy.epsilon=2", "threads=1", "log.every=2")
CLASSIFIER = ("strategy=generative_classifier", *MEANS)
# A solver that learns from generated samples, in steps that can be interrupted.
REPLAY = (
    "strategy=generative_replay",
    *MEANS,
    "strategy.current_data=generated",
    "strategy.generator_training=before",
    "train.iterations=6",
    "benchmark.classes_per_task=5",
    "model.hidden_sizes=[8]",
)


def table(folder: Path, name: str = "privacy") -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def status(folder: Path) -> dict[str, object]:
    return json.loads((folder / "status.json").read_text(encoding="utf-8"))


def ledger(folder: Path) -> list[str]:
    return (folder / FILE_NAME).read_text(encoding="utf-8").splitlines()


def test_the_table_has_classes_tasks_and_the_total(made):
    folder = made(*CLASSIFIER)
    rows = table(folder)
    last = [(row["task"], row["class"], row["composition"]) for row in rows if row["after_task"] == "4"]
    assert last == [
        ("4", "8", "one access"),
        ("4", "9", "one access"),
        ("4", "all", "parallel over classes"),
        ("all", "all", "parallel over tasks"),
    ]
    assert {row["epsilon"] for row in rows} == {"2.000000"} and {row["delta"] for row in rows} == {"1e-05"}
    assert {row["guarantee"] for row in rows} == {SIMULATED}
    assert {row["mechanism"] for row in rows} == {"gaussian (generator)"}
    privacy = status(folder)["privacy"]
    assert privacy["guarantee"] == SIMULATED and privacy["spent_epsilon"] == pytest.approx(2)
    metrics = {row["metric"]: row["value"] for row in table(folder, "metrics")}
    assert metrics["simulated_epsilon"] == "2.000000" and "privacy_epsilon" not in metrics
    assert SIMULATED in load_run(folder).tables["privacy"].reset_index().to_csv()


def test_a_run_without_budget_claims_nothing(folder):
    assert status(folder)["privacy"] == {"guarantee": "none: privacy.epsilon is not set"}
    assert not (folder / "privacy.csv").exists() and not (folder / FILE_NAME).exists()


def test_a_run_without_budget_is_the_run_that_it_was_before_there_were_budgets():
    config = {"train": {"iterations": 3}, "privacy": {"epsilon": None, "delta": 1e-5, "secure": False}}
    assert result_relevant(config) == {"train": {"iterations": 3.0}}
    private = result_relevant(config | {"privacy": {"epsilon": 1, "delta": 1e-5, "secure": False}})
    assert private["privacy"]["epsilon"] == 1


@pytest.mark.parametrize("at", [(0, 2), (1, 2)])
def test_a_resumed_run_has_the_same_tables_and_spends_nothing_twice(gr_run, interrupted, monkeypatch, tmp_path, at):
    assert gr_run(*REPLAY)[0] == 0
    undisturbed = csvs(only_run()), ledger(only_run())
    (tmp_path / "resumed").mkdir()
    monkeypatch.chdir(tmp_path / "resumed")
    interrupted(*REPLAY, at=at)
    assert gr_run(*REPLAY)[0] == 0
    assert (csvs(only_run()), ledger(only_run())) == undisturbed
    assert len(ledger(only_run())) == 10


def test_the_ledger_is_written_before_a_task_is_trained(gr_run, interrupted):
    interrupted(*REPLAY, at=(1, 0))
    assert [json.loads(line)["access"]["task"] for line in ledger(only_run())] == [0] * 5 + [1] * 5
    assert {row["after_task"] for row in table(only_run())} == {"0"}


def test_system_noise_after_a_stop_goes_on(gr_run, interrupted):
    secure = (*REPLAY, "privacy.secure=true")
    interrupted(*secure, at=(1, 2))
    assert gr_run(*secure)[0] == 0
    rows = table(only_run())
    assert {row["epsilon"] for row in rows} == {"2.000000"}
    assert {row["guarantee"] for row in rows} == {"(ε, δ)-differential privacy, add or remove one sample"}


def test_a_secure_run_that_was_killed_is_refused(gr_run, interrupted):
    secure = (*REPLAY, "privacy.secure=true")
    interrupted(*secure, at=(1, 2))
    path = only_run() / FILE_NAME
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "stopped_at" not in line), encoding="utf-8")
    code, _, err = gr_run(*secure)
    assert code == 2 and "what an interrupted run does again has new noise" in err and len(err.splitlines()) == 1
    assert status(only_run())["state"] == "failed"


def test_secure_runs_differ(gr_run, monkeypatch, tmp_path):
    tables = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert gr_run(*CLASSIFIER, "privacy.secure=true")[0] == 0
        tables.append(csvs(only_run()))
    assert tables[0]["privacy.csv"] == tables[1]["privacy.csv"]
    assert tables[0]["calibration.csv"] != tables[1]["calibration.csv"]


def test_budgets_of_a_stream_add_up(made):
    """Ten samples' tasks in all: Gaussian mechanisms compose to the budget exactly."""
    folder = made(
        "benchmark=rotated_digits", "benchmark.tasks=3", "scenario=domain", "strategy=generative_replay", *MEANS,
        "strategy.current_data=generated", "strategy.generator_training=before", "strategy.generator_scope=per_task",
        "train.iterations=2", "model.hidden_sizes=[8]", "privacy.across=stream",
    )  # fmt: skip
    totals = [float(row["epsilon"]) for row in table(folder) if row["task"] == "all"]
    assert totals == sorted(totals) and totals[-1] == pytest.approx(2, abs=2e-6)
    single = json.loads(ledger(folder)[0])["access"]
    assert totals[0] == pytest.approx(single["epsilon"], abs=1e-6)
    assert single["epsilon"] == epsilon_of_gaussian(1e-5, single["noise_multiplier"])
    assert table(folder)[-1]["composition"] == "Gaussian composition over tasks"


def test_replicas_have_a_ledger_each(made):
    root = made("-m", *CLASSIFIER, "seed=0,1", "hydra/launcher=batched")
    ledgers = [ledger(path.parent) for path in sorted(root.glob(f"*/*/*/{FILE_NAME}"))]
    assert len(ledgers) == 2 and ledgers[0] == ledgers[1] and len(ledgers[0]) == 10
    assert len(list(root.glob("*/*/*/privacy.csv"))) == 2


def test_a_solver_that_learns_raw_samples_by_a_private_rule_is_accepted(made):
    folder = made(
        "strategy=finetune", f"gradient_rule._target_={PARTS}.Spending", "privacy.epsilon=2", "train.iterations=2",
        "benchmark.classes_per_task=5", "model.hidden_sizes=[8]", "threads=1", "log.every=2",
    )  # fmt: skip
    assert {row["mechanism"] for row in table(folder)} == {"subsampled_gaussian (solver)"}
    assert {row["epsilon"] for row in table(folder)} == {"2.000000"}


def test_solver_and_generator_share_the_budget(made):
    folder = made(
        "strategy=generative_replay", "generator=vae", f"gradient_rule._target_={PARTS}.Spending", "privacy.epsilon=2",
        "strategy.generator_data=current_and_replay", "strategy.generator_update_freq=2", "train.iterations=4",
        "benchmark.classes_per_task=5", "model.hidden_sizes=[8]", "generator.hidden_dims=[8]", "threads=1",
        "log.every=2",
    )  # fmt: skip
    accesses = [json.loads(line)["access"] for line in ledger(folder)]
    assert [(a["part"], a["steps"], a["epsilon"]) for a in accesses[:2]] == [
        ("solver", 4, 1.0),
        ("generator.vae", 2, 1.0),
    ]
    rows = [row for row in table(folder) if row["class"] == "0"]
    assert rows[0]["epsilon"] == "2.000000" and rows[0]["composition"] == "sum over accesses"
