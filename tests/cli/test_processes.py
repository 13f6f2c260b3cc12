"""The number of processes of a batched sweep, chosen from jobs, cores, shapes and memory."""

import json
from pathlib import Path

import pytest
import torch

from gr_cli.cli.compose import compose_settings
from gr_cli.cli.launchers import processes
from gr_cli.cli.launchers.processes import PlannedProgram, choose_processes, estimated_seconds
from gr_cli.cli.launchers.selection import starts_local_processes, uses_other_processes
from gr_cli.training.experiment import prepare

GIB = 1 << 30
LONG = PlannedProgram([0], seconds=1000.0)


def unused(job):
    pytest.fail("an estimate loads the data of a job")


@pytest.mark.parametrize(
    ("programs", "cores", "memory", "expected"),
    [
        ([LONG] * 4, 2, 64 * GIB, 2),  # one per core
        ([LONG] * 4, 16, 64 * GIB, 4),  # one per program
        ([LONG] * 4, 1, 64 * GIB, 1),
        ([LONG], 8, 64 * GIB, 1),
        ([], 8, 64 * GIB, 1),
        ([PlannedProgram([0], 1000.0, 3 * GIB)] * 8, 8, 32 * GIB, 4),  # 4 GiB each, in half of the memory
        ([PlannedProgram([0], 1000.0, 3 * GIB)] * 8, 8, 1 * GIB, 1),
        ([PlannedProgram([0], seconds=4.0)] * 4, 4, 64 * GIB, 1),  # over before a process has started
        ([PlannedProgram([0], seconds=5.0)] * 4, 4, 64 * GIB, 4),
    ],
)
def test_long_sweeps_get_a_process_for_each_core(programs, cores, memory, expected):
    assert choose_processes(programs, unused, cores, memory) == expected


def test_programs_without_an_estimate_are_estimated_until_the_sweep_is_long():
    estimated = []

    def estimate(job):
        estimated.append(job)
        return 15.0

    programs = [PlannedProgram([i]) for i in range(5)] + [PlannedProgram([5], seconds=0.0)]
    assert choose_processes(programs, estimate, 2, 64 * GIB) == 2
    assert estimated == [0, 1]
    assert choose_processes(programs[:1] + programs[5:], estimate, 2, 64 * GIB) == 1


def test_the_estimate_counts_steps_parameters_and_samples(monkeypatch):
    words = ["strategy=finetune", "model.hidden_sizes=[16]", "train.batch_size=4", "train.iterations=30"]
    experiment = prepare(compose_settings(words))
    monkeypatch.setattr(processes, "_SECONDS_PER_STEP", 2.0)
    monkeypatch.setattr(processes, "_OPERATIONS_PER_SECOND", 3.0)
    parameters = 64 * 16 + 16 + 16 * 10 + 10
    assert estimated_seconds(experiment) == pytest.approx(5 * 30 * (2.0 + 6 * parameters * 4 / 3.0))


SWEEP = ("-m", "hydra/launcher=batched", "train.iterations=4", "evaluate.generated_samples=0", "seed=range(3)")


@pytest.fixture
def with_two_cores(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(processes, "_MIN_SECONDS", 0.0)


def test_a_long_sweep_is_trained_in_other_processes(gr_run, with_two_cores):
    words = (*SWEEP, "threads=1", "strategy=finetune", "hydra.launcher.width=2")
    code, out, err = gr_run(*words)
    assert code == 0, err
    assert "2 programs of up to 2" in out and "other processes train these runs; to watch them: gr-report" in err
    statuses = [json.loads(path.read_text()) for path in Path("outputs").rglob("status.json")]
    assert len({status["process"] for status in statuses}) == 2 and len(statuses) == 3


def test_a_sweep_whose_runs_use_all_cores_stays_in_this_process(gr_run, with_two_cores):
    code, _, err = gr_run(*SWEEP, "threads=2", "strategy=finetune", "hydra.launcher.width=2")
    assert (code, err) == (0, "")


def test_the_programs_do_not_depend_on_cores(gr_run, with_two_cores, monkeypatch):
    words = (*SWEEP, "threads=1", "strategy=finetune", "train.batch_size=4")
    outputs = []
    for cores in (1, 16):
        monkeypatch.setattr(torch, "get_num_threads", lambda cores=cores: cores)
        code, out, _ = gr_run(*words, "fresh=true")
        assert code == 0
        outputs.append(out.splitlines()[0])
    assert outputs[0] == outputs[1] and "3 runs that differ in seed: one program" in outputs[0]


@pytest.mark.parametrize(("number", "other", "local"), [("auto", False, False), (1, False, False), (2, True, True)])
def test_whether_other_processes_train_is_known_beforehand_for_numbers_only(number, other, local):
    target = "hydra_plugins.gr_cli.launchers.batched.BatchedLauncher"
    from omegaconf import OmegaConf

    hydra = OmegaConf.create({"launcher": {"_target_": target, "processes": number, "where": "here"}})
    assert (uses_other_processes(hydra), starts_local_processes(hydra)) == (other, local)
