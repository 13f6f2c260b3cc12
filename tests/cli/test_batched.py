"""Runs trained as one program have the results that each has alone."""

import csv
import json
from pathlib import Path

import pytest
import torch

from gr_cli.cli.compose import compose_settings
from gr_cli.cli.launchers.grouping import differing_settings, even_chunks, group_compatible
from gr_cli.results.folder import RunFolder
from gr_cli.runner import run as runner
from gr_cli.runner.run import run_together
from gr_cli.training.batches import batches, sample_passes
from gr_cli.training.experiment import prepare
from gr_cli.training.observer import RunObserver
from gr_cli.training.stacking import stack_learners
from helpers.interruption import csvs

# Settings in which replicas may differ, all at once.
APART = [
    ["seed=0", "optimizer.lr=0.001"],
    ["seed=1", "optimizer.lr=0.001"],
    ["seed=0", "optimizer.lr=0.002", "optimizer.weight_decay=0.01", "optimizer.schedule=cosine"],
]
SINGLE = "precision=float32"
# Networks in which whatever is done for each replica is done as in large ones.
SMALL_SOLVER, SMALL_GENERATOR = "model.hidden_sizes=[16]", "generator.hidden_dims=[16]"
SMALL_NETWORKS = {
    "mlp": [SMALL_SOLVER],
    "cnn": ["model.channels=[4,8]", "model.hidden_size=16"],
    "vae": [SMALL_GENERATOR],
    "conv_vae": ["generator.hidden_dims=[4,8]", "generator.latent_dim=4"],
}
REPLAY = [["strategy.replay_weight=1"], ["strategy.replay_weight=0.5"], ["strategy.replay_weight=2"]]


def first_losses(jobs, steps):
    """The losses of the first steps of the first two tasks, one dict of (R,) tensors a step."""
    experiments = [prepare(job) for job in jobs]
    learner, recorded = stack_learners(experiments), []
    for number, stage in enumerate(experiments[0].stages[:2]):
        stream = (batch for batch, _ in zip(batches(experiments, number, 0), range(steps), strict=False))
        samples = sample_passes(experiments, number)
        learner.train_task(stage.task, stream, steps, lambda position, losses: recorded.append(losses), 0, samples)
    return recorded


def assert_same_losses(words, steps=12, apart=APART, relative=1e-9):
    """Replicas together and alone, in double precision unless `words` ask for another: rounding grows with the steps,
    in single precision to any size, and each processor rounds in its own way."""
    words = words if any(word.startswith("precision=") for word in words) else [*words, "precision=float64"]
    jobs = [compose_settings([*words, *own]) for own in apart]
    together = first_losses(jobs, steps)
    for replica, job in enumerate(jobs):
        for step, (alone, both) in enumerate(zip(first_losses([job], steps), together, strict=True)):
            assert alone.keys() == both.keys()
            for name, value in alone.items():
                assert float(both[name][replica]) == pytest.approx(float(value[0]), rel=relative, abs=relative / 10), (
                    f"{name} of replica {replica} at step {step}"
                )


@pytest.mark.parametrize(  # test_methods has all generators, for fewer steps
    ("model", "generator", "strategy"),
    [
        ("mlp", "vae", "finetune"),
        ("mlp", "conv_vae", "generative_replay"),
        ("cnn", "vae", "generative_replay"),
        ("cnn", "vae", "joint"),
    ],
)
def test_losses_are_those_of_the_run_alone(model, generator, strategy):
    words = [f"model={model}", f"generator={generator}", f"strategy={strategy}", "model.dropout=0.2"]
    words += [*SMALL_NETWORKS[model], *SMALL_NETWORKS[generator]]
    words += ["benchmark.class_order=shuffled", "train.batch_size=16"]
    replays = strategy == "generative_replay"
    apart = [a + b for a, b in zip(APART, REPLAY, strict=True)] if replays else APART
    assert_same_losses(words, apart=apart)
    assert_same_losses([*words, SINGLE], 2, apart, 1e-4)


@pytest.mark.parametrize(
    ("words", "steps", "relative"),
    [([], 2, 1e-9), ([SINGLE, "optimizer=sgd", "optimizer.lr=0.001"], 2, 1e-4)],
)
def test_losses_of_a_deep_network_are_those_of_the_run_alone(words, steps, relative):
    words = ["model=resnet18", "train.batch_size=4", "strategy=finetune", *words]
    assert_same_losses(words, steps, [["seed=0"], ["seed=1"]], relative)


@pytest.mark.parametrize(
    "words",
    [
        ["scenario=task", "strategy.targets=soft"],
        ["scenario=domain", "strategy.replay_source=pool"],
        ["strategy.generator_data=current_and_replay", "strategy.generator_update_freq=1"],
        ["strategy.task_balanced=false", "strategy.memory_size=50"],
        ["strategy.generator_training=after"],
        ["optimizer=sgd", "optimizer.momentum=0.9", "optimizer.reset_per_task=true"],
        ["model.hidden_sizes=[]"],
    ],
    ids=" ".join,
)
def test_every_kind_of_replay_is_that_of_the_run_alone(words):
    apart = [
        [f"seed={i}", f"strategy.temperature={1 + i}", f"generator.dropout={0.1 * i}", *REPLAY[i]] for i in range(3)
    ]
    assert_same_losses([SMALL_SOLVER, SMALL_GENERATOR, "train.batch_size=16", *words], apart=apart)


def test_the_strength_of_a_regulariser_may_differ():
    words = ["strategy=si", "train.batch_size=16", SMALL_SOLVER]
    apart = [[f"seed={i}", f"strategy.regularizer.strength={10.0**i}"] for i in range(3)]
    assert group_compatible([compose_settings([*words, *own]) for own in apart]) == [[0, 1, 2]]
    assert_same_losses(words, apart=apart)


def test_losses_in_low_precision_are_close_to_those_of_the_run_alone():
    assert_same_losses(["precision=bf16", "model.dropout=0.2"], 2, [["seed=0"], ["seed=1"]], 2e-2)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_a_run_in_double_precision_equals_that_alone_to_nine_digits():
    words = ["precision=float64", "train.iterations=40", "log.every=10", "benchmark.class_order=shuffled"]
    words += ["benchmark.classes_per_task=[4,3,3]", "model.dropout=0.1", "strategy.generator_update_freq=2"]
    words += ["evaluate.generated_samples=0"]
    words += [SMALL_SOLVER, SMALL_GENERATOR]
    jobs = [
        compose_settings([*words, f"seed={i}", f"strategy.replay_weight={1 + i}", f"generator.dropout=0.{1 + i}"])
        for i in range(2)
    ]
    together = run_together(jobs, [RunFolder(Path(f"both/{i}")) for i in range(2)], RunObserver())
    for i, job in enumerate(jobs):
        alone = runner.run(job, RunFolder(Path(f"alone/{i}")), RunObserver())
        for ours, theirs in zip(together[i].record.history, alone.record.history, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)
        assert together[i].record.matrix() == alone.record.matrix()
        assert rows(Path(f"both/{i}/history.csv")) == rows(Path(f"alone/{i}/history.csv"))


SHORT = (
    "train.iterations=12", "benchmark.classes_per_task=[4,3,3]", "evaluate.generated_samples=0", "threads=1",
    SMALL_SOLVER, SMALL_GENERATOR,
)  # fmt: skip
SWEEP = ("-m", "hydra/launcher=batched", *SHORT, "strategy.replay_weight=0.5,1", "seed=0,1")


def folders():
    paths = sorted(path.parent for path in Path("outputs").glob("*/*/*/status.json"))
    return {path.name: path for path in paths}


@pytest.mark.usefixtures("pictures")
def test_every_job_writes_the_folder_that_it_writes_alone(gr_run, monkeypatch, tmp_path):
    words = (*SWEEP, "precision=float64", "evaluate.generated_samples=20")
    code, out, err = gr_run(*words)
    assert (code, err) == (0, "")
    assert "4 runs that differ in strategy.replay_weight, seed: one program" in out
    batched = {name: path.absolute() for name, path in folders().items()}
    (tmp_path / "alone").mkdir()
    monkeypatch.chdir(tmp_path / "alone")
    assert gr_run(*(word for word in words if "launcher" not in word))[0] == 0
    alone = folders()
    assert batched.keys() == alone.keys() and len(alone) == 4
    for name, path in batched.items():
        assert sorted(p.name for p in path.rglob("*")) == sorted(p.name for p in alone[name].rglob("*"))
        assert (path / "config.yaml").read_text() == (alone[name] / "config.yaml").read_text()
        for table in ("accuracy_matrix", "evaluations", "history", "metrics", "sample_quality"):
            ours, theirs = rows(path / f"{table}.csv"), rows(alone[name] / f"{table}.csv")
            assert ours[0] == theirs[0] and len(ours) == len(theirs)
        ours, theirs = (json.loads((p / "status.json").read_text()) for p in (path, alone[name]))
        assert (ours["mode"], theirs["mode"]) == ("batched", "alone")
        assert ours["state"] == theirs["state"] == "finished" and ours["config_hash"] == theirs["config_hash"]
        saved, other = (RunFolder(p).load_checkpoint()["learner"] for p in (path, alone[name]))
        assert saved["solver"].keys() == other["solver"].keys()
        for key, value in other["solver"].items():
            torch.testing.assert_close(saved["solver"][key], value, rtol=1e-7, atol=1e-9)
        # No more than its own part of what was trained together.
        assert (path / "checkpoint.pt").stat().st_size < 1.1 * (alone[name] / "checkpoint.pt").stat().st_size


def test_a_repeated_sweep_trains_nothing(gr_run):
    assert gr_run(*SWEEP)[0] == 0
    before = {path: (path / "checkpoint.pt").stat().st_mtime_ns for path in folders().values()}
    code, out, _ = gr_run(*SWEEP)
    assert code == 0 and out.count("finished before") == 4
    assert before == {path: (path / "checkpoint.pt").stat().st_mtime_ns for path in folders().values()}


@pytest.mark.parametrize("at", [(0, 3), (1, 7), (2, 11)])
def test_an_interrupted_sweep_is_completed_by_the_same_command(gr_run, made, interrupted, monkeypatch, tmp_path, at):
    words = ("-m", "hydra/launcher=batched", *SHORT, "strategy.replay_weight=0.5,1", "log.every=5")
    made(*words)
    uninterrupted = {name: path.absolute() for name, path in folders().items()}
    (tmp_path / "again").mkdir()
    monkeypatch.chdir(tmp_path / "again")
    assert interrupted(*words, at=at) == "gr-run: interrupted; repeat the command\n"
    assert {json.loads((p / "status.json").read_text())["state"] for p in folders().values()} == {"interrupted"}
    assert gr_run(*words)[0] == 0
    for name, path in folders().items():
        assert csvs(path) == csvs(uninterrupted[name])


def widths():
    """The number of runs in each run's program, by the end of its folder's name."""
    status = {name: json.loads((path / "status.json").read_text()) for name, path in folders().items()}
    return {name: (each["mode"], each["width"]) for name, each in status.items()}


def test_grouping_does_not_depend_on_the_order_or_the_progress_of_jobs(gr_run, interrupted):
    words = ("-m", "hydra/launcher=batched", "hydra.launcher.width=3", "strategy=finetune")
    words = (*words, *SHORT, "seed=0,1,2,3,4")
    code, out, err = gr_run(*words)
    assert code == 0 and "5 runs that differ in seed: 2 programs of up to 3" in out, err
    at_once = widths()
    assert sorted(at_once.values()) == [("batched", 2)] * 2 + [("batched", 3)] * 3
    tables = {name: csvs(path) for name, path in folders().items()}
    Path("outputs").rename("once")
    interrupted(*words, at=(2, 3))
    # Some saved nothing yet, as if they had been killed before.
    for path in list(folders().values())[:2]:
        for file in path.glob("checkpoint*.pt"):
            file.unlink()
    code, _, err = gr_run(*(word.replace("0,1,2,3,4", "shuffle(4,3,2,1,0)") for word in words))
    assert code == 0, err
    assert widths() == at_once
    assert {name: csvs(path) for name, path in folders().items()} == tables


def test_a_run_with_a_loss_of_nan_fails_alone(gr_run):
    words = (*SHORT, "optimizer=sgd", "log.every=5", "precision=float64")
    code, _, err = gr_run("-m", "hydra/launcher=batched", "optimizer.lr=0.01,1e30,0.02", *words)
    assert code == 1
    assert "loss `" in err and "1 of 3 runs did not finish" in err
    states = {name: json.loads((path / "status.json").read_text()) for name, path in folders().items()}
    assert sorted(status["state"] for status in states.values()) == ["failed", "finished", "finished"]
    (failed,) = (name for name, status in states.items() if status["state"] == "failed")
    assert "1e+30" in failed or "1e30" in failed
    alone = runner.run(compose_settings([*words, "optimizer.lr=0.02"]), RunFolder(Path("alone")), RunObserver())
    (beside,) = (path for name, path in folders().items() if "0.02" in name)
    assert rows(beside / "accuracy_matrix.csv") == rows(Path("alone/accuracy_matrix.csv"))
    assert len(alone.record.matrix()) == 3


def test_jobs_that_differ_in_stackable_settings_are_grouped():
    words = [
        ["seed=0"],
        ["strategy=finetune"],
        ["seed=1", "strategy.replay_weight=2", "optimizer.lr=0.1"],
        ["model.hidden_sizes=[8]"],
        ["strategy.replay_weight=by_tasks"],
        ["optimizer=sgd"],
        ["optimizer=sgd", "optimizer.lr=0.3", "seed=4"],
        ["optimizer=sgd", "optimizer.momentum=0.9"],
        ["generator.dropout=0.3", "strategy.temperature=3"],
        ["strategy=finetune", "seed=7"],
        ["train.batch_size=8"],
    ]
    jobs = [compose_settings(overrides) for overrides in words]
    assert group_compatible(jobs) == [[0, 2, 8], [1, 9], [3], [4], [5, 6], [7], [10]]
    assert differing_settings([jobs[0], jobs[2]]) == ["strategy.replay_weight", "optimizer.lr", "seed"]


def test_generators_with_own_optimizers_are_grouped_by_optimizer_state():
    own = [f"generator.optimizer.lr={0.001 * (1 + i)}" for i in range(3)]
    words = ["generator/optimizer=adam", "train.batch_size=16", "strategy.generator_update_freq=1"]
    words += [SMALL_SOLVER, SMALL_GENERATOR]
    assert group_compatible([compose_settings([*words, optimizer]) for optimizer in own]) == [[0, 1, 2]]
    kinds = [["generator/optimizer=adam"], ["generator/optimizer=sgd"], []]
    momentum = [["generator/optimizer=sgd", f"generator.optimizer.momentum={m}"] for m in (0.5, 0.9)]
    assert group_compatible([compose_settings(overrides) for overrides in [*kinds, *momentum]]) == [
        [0],
        [1],
        [2],
        [3, 4],
    ]
    assert_same_losses(words, apart=[[f"seed={i}", optimizer] for i, optimizer in enumerate(own)])


def test_a_number_and_null_are_not_grouped():
    values = ["null", "0.5", "2", "null", "by_tasks"]
    jobs = [compose_settings(["strategy=rtf", f"strategy.replay_reconstruction_weight={value}"]) for value in values]
    assert group_compatible(jobs) == [[0, 3], [1, 2], [4]]


def test_the_weight_of_replayed_reconstructions_may_differ():
    apart = [[f"seed={i}", f"strategy.replay_reconstruction_weight={0.5 + i}"] for i in range(3)]
    assert_same_losses(["strategy=rtf", SMALL_SOLVER, "train.batch_size=16"], apart=apart)


def test_chunks_are_even():
    assert even_chunks(range(10), 4) == [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9]]
    assert even_chunks(range(8), 8) == [list(range(8))]
    assert even_chunks(range(3), 1) == [[0], [1], [2]]


def test_programs_can_run_in_separate_processes(gr_run):
    code, out, err = gr_run(*SWEEP, "hydra.launcher.processes=2", "hydra.launcher.width=2")
    assert code == 0, err
    assert "2 programs of up to 2" in out
    processes = {json.loads((path / "status.json").read_text())["process"] for path in folders().values()}
    assert len(processes) == 2
    assert {json.loads((path / "status.json").read_text())["mode"] for path in folders().values()} == {"batched"}


def test_a_run_started_alone_resumes_alone(gr_run, interrupted):
    interrupted(*SHORT, "strategy.replay_weight=0.5", "seed=1", at=(1, 5))
    code, out, _ = gr_run(*SWEEP)
    assert code == 0
    assert "3 runs that differ in strategy.replay_weight, seed: one program" in out
    assert "1 of 4 runs are trained alone: they began alone" in out
    modes = {name: json.loads((path / "status.json").read_text())["mode"] for name, path in folders().items()}
    assert sorted(modes.values()) == ["alone", "batched", "batched", "batched"]


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_tasks_can_be_one_iteration_long(gr_run, iterations):
    code, _, err = gr_run("-m", "hydra/launcher=batched", *SHORT, f"train.iterations={iterations}", "seed=0,1")
    assert (code, err) == (0, "")


def test_a_repeated_job_runs_once(gr_run):
    code, _, err = gr_run("-m", "hydra/launcher=batched", *SHORT, "seed=0,1,0")
    assert (code, err) == (0, "")
    assert len(folders()) == 2


def test_runs_at_different_stages_resume_in_groups_of_the_same_stage(gr_run, interrupted):
    words = ("-m", "hydra/launcher=batched", *SHORT, "log.every=5")
    interrupted(*words, "seed=0,1", at=(2, 5))
    code, out, err = gr_run(*words, "seed=range(4)")
    assert code == 0, err
    assert "batched: 4 runs that differ in seed: one program" in out
    assert out.count("2 runs as one program") == 2
    assert {json.loads((path / "status.json").read_text())["state"] for path in folders().values()} == {"finished"}


def test_mistakes_are_reported_before_training(gr_run):
    code, _, err = gr_run("-m", "hydra/launcher=batched", "optimizer.lr=0.1,-1")
    assert code == 2 and err.startswith("gr-run: optimizer.lr=-1") and err.count("\n") == 1
    assert not list(Path("outputs").glob("*/*/*/status.json"))


def test_invalid_settings_of_the_launcher_get_one_line(gr_run):
    code, _, err = gr_run("-m", "hydra/launcher=batched", "hydra.launcher.width=0", "seed=0,1")
    assert code == 2 and err.count("\n") == 1 and "hydra.launcher.width" in err
    code, _, err = gr_run("-m", "hydra/launcher=batched", "+hydra.launcher.depth=1", "seed=0,1")
    assert code == 2 and err.count("\n") == 1 and "depth" in err
