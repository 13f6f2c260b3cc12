"""Trackers are told what the run's folder tells, each thing once; and no run is worse for it."""

import csv
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from interruption import StopAt
from situations import failing

from gr_cli.results.files import one_at_a_time
from gr_cli.results.folder import RESULTS
from gr_cli.trackers import Log, Tracker
from gr_cli.tracking import sends_to
from gr_cli.view import View

SHORT = ("train.iterations=4", "log.every=2", "evaluate.every=3", "model.hidden_sizes=[8]", "threads=1")
SHORT += ("benchmark.classes_per_task=5", "generator.hidden_dims=[8]", "evaluate.dreams=0")
ENDS = [4, 8]  # of its two tasks, in iterations over all tasks


def folders():
    return sorted(path.parent for path in Path("outputs").glob("*/*/*/status.json"))


def table(folder, name):
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def told(folder):
    """What a tracker must have been told of a finished run: values by name and step."""
    found = {}
    for row in table(folder, "history"):
        step = 4 * int(row.pop("task")) + int(row.pop("iteration"))
        for name, value in row.items():
            if value:  # no replay in the first task
                found.setdefault(f"loss/{name}", {})[step] = float(value)
    for row in table(folder, "evaluations"):
        step = 4 * max(0, int(row["after_task"])) + int(row["iteration"])
        if row["split"] == "test":
            found.setdefault(f"accuracy/task_{row['task']}", {})[step] = float(row["accuracy"])
    return {name: pytest.approx(values, rel=1e-5) for name, values in found.items()}


def stopped_and_resumed(gr_run, interrupted, *words):
    """The folder of a run that was interrupted within its second task, and went on."""
    interrupted(*SHORT, *words)
    (folder,) = folders()
    code, _, err = gr_run(f"resume={folder}")
    assert (code, err) == (0, "")
    return folder


# --- any tracker


class Fails(Tracker):
    """One whose server, or disk, is gone at a certain moment."""

    place = "nowhere"

    def __init__(self, at: str) -> None:
        self.at = at

    def log(self, run, known, step):
        self.fail("log")
        return FailingLog(self)

    def fail(self, at):
        if at == self.at:
            raise OSError("no space\nleft")


class FailingLog(Log):
    id = "1"

    def __init__(self, tracker):
        self.tracker = tracker

    def rows(self, rows):
        self.tracker.fail("rows")

    def picture(self, name, path, step):
        self.tracker.fail("picture")

    def flush(self):
        self.tracker.fail("flush")

    def end(self, state, metrics, step):
        self.tracker.fail("end")

    def close(self):
        raise OSError("and again")


@pytest.mark.parametrize("at", ["log", "rows", "picture", "flush", "end"])
def test_a_tracker_that_fails_is_told_of_once_and_the_run_goes_on(gr_run, at):
    Path("mine/tracker").mkdir(parents=True)
    Path("mine/tracker/fails.yaml").write_text(f"_target_: test_trackers.Fails\nat: {at}\n")
    code, _, err = gr_run("--config-dir", "mine", *SHORT, "tracker=fails")
    assert code == 0
    assert err == "gr-run: the tracker failed (OSError: no space left); what runs goes on untracked\n"
    (folder,) = folders()
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"


class Hangs(Fails):
    """One whose server does not answer any more; Ctrl-C comes while `rows` wait for it."""

    def fail(self, at):
        if at == self.at == "rows":
            os.kill(os.getpid(), signal.SIGINT)
        if at == self.at:
            time.sleep(60)


@pytest.mark.parametrize("at", ["rows", "end"])
def test_ctrl_c_does_not_wait_long_for_a_tracker(gr_run, monkeypatch, at):
    monkeypatch.setattr("gr_cli.tracking._PATIENCE", 0.1)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    Path("mine/tracker").mkdir(parents=True)
    Path("mine/tracker/hangs.yaml").write_text(f"_target_: test_trackers.Hangs\nat: {at}\n")
    words = ("--config-dir", "mine", *SHORT, "tracker=hangs")
    with monkeypatch.context() as patch:
        patch.setattr("gr_cli.console.Terminal", lambda **_: StopAt(1, 2) if at == "end" else View())
        code, _, err = gr_run(*words)
    assert code == 130
    lines = err.splitlines()
    assert lines[0] == (
        "gr-run: the tracker failed (Overdue: no answer within 0.1 seconds); what runs goes on untracked"
    )
    assert lines[1].startswith("gr-run: interrupted; go on with: gr-run resume=")
    (folder,) = folders()
    assert json.loads((folder / "status.json").read_text())["state"] == "interrupted"
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    monkeypatch.setattr(Hangs, "fail", lambda self, at: None)
    assert gr_run(*words)[0] == 0


def test_no_password_is_shown(gr_run, monkeypatch):
    monkeypatch.setattr(Fails, "fail", failing(OSError("POST http://me:secret@host/api: refused, https://host/x@y")))
    Path("mine/tracker").mkdir(parents=True)
    Path("mine/tracker/fails.yaml").write_text("_target_: test_trackers.Fails\nat: log\n")
    err = gr_run("--config-dir", "mine", *SHORT, "tracker=fails")[2]
    assert "(OSError: POST http://host/api: refused, https://host/x@y)" in err


def test_a_tracker_is_no_part_of_what_a_run_is(gr_run):
    pytest.importorskip("tensorboard")
    assert gr_run(*SHORT)[0] == 0
    (folder,) = folders()
    tables = {name: (folder / name).read_bytes() for name in RESULTS if (folder / name).exists()}
    code, out, _ = gr_run(*SHORT, "tracker=tensorboard")
    assert code == 0 and "finished before" in out
    assert folders() == [folder]
    assert gr_run(*SHORT, "tracker=tensorboard", "fresh=true")[0] == 0
    (_, other) = folders()
    assert {name: (other / name).read_bytes() for name in tables} == tables


def test_without_a_tracker_no_library_is_imported_and_nothing_is_written(tmp_path):
    script = (
        "import sys; from gr_cli import cli\n"
        f"assert cli.main({list(SHORT)}) == 0\n"
        "assert not {'tensorboard', 'mlflow', 'wandb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
    (folder,) = folders()
    assert not {"tracker.json", "tensorboard", "wandb"} & {path.name for path in folder.iterdir()}
    assert not Path("outputs/mlruns").exists()


@pytest.mark.parametrize("words", [(), ("-m", "seed=0,1"), ("-m", "seed=0,1", "hydra/launcher=batched")])
def test_a_library_that_is_not_there_is_told_before_anything_is_written(gr_run, monkeypatch, words):
    monkeypatch.setattr("gr_cli.tracking.find_spec", lambda name: None)
    code, out, err = gr_run(*words, *SHORT, "tracker=tensorboard")
    assert (code, out) == (2, "")
    assert err == (
        "gr-run: tracker=tensorboard: its package is not installed; "
        "install it with: pip install 'gr-cli[tensorboard]'\n"
    )
    assert list(Path().iterdir()) == []


def test_a_run_goes_on_untracked_where_the_library_is_not_there(gr_run, interrupted, monkeypatch):
    interrupted(*SHORT, "tracker=tensorboard")
    (folder,) = folders()
    monkeypatch.setattr("gr_cli.tracking.find_spec", lambda name: None)
    code, _, err = gr_run(f"resume={folder}")
    assert code == 0
    assert "pip install 'gr-cli[tensorboard]'); what runs goes on untracked" in err


def test_who_holds_what_others_wait_for_is_not_waited_for_for_ever(tmp_path):
    with (
        one_at_a_time(tmp_path / "lock"),
        pytest.raises(OSError, match="another process has held it"),
        one_at_a_time(tmp_path / "lock", patience=0.05),
    ):
        pass
    with one_at_a_time(tmp_path / "lock", patience=0.0):
        pass


# --- TensorBoard


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    found.Reload()
    return found


def scalars(found):
    """Values by name and step, of which there must be one each."""
    values = {tag: {event.step: event.value for event in found.Scalars(tag)} for tag in found.Tags()["scalars"]}
    assert all(len(values[tag]) == len(found.Scalars(tag)) for tag in values)
    return values


def test_tensorboard_shows_what_the_folder_holds(gr_run):
    pytest.importorskip("tensorboard")
    code, _, err = gr_run(*SHORT, "tracker=tensorboard", "benchmark.validation_share=0.1")
    assert (code, err) == (0, "")
    (folder,) = folders()
    found = events(folder)
    values = scalars(found)
    wanted = told(folder)
    assert {name: values[name] for name in wanted} == wanted
    matrix = [[float(row["task_0"]), float(row["task_1"])] for row in table(folder, "accuracy_matrix")]
    means = [values["accuracy/mean"][end] for end in ENDS]
    assert means == pytest.approx([matrix[0][0], sum(matrix[1]) / 2], abs=1e-6)
    assert list(values["validation_accuracy/task_0"]) == [0, 3, 4, 7, 8]
    metrics = {row["metric"]: float(row["value"]) for row in table(folder, "metrics") if row["value"]}
    shown = {name.removeprefix("metrics/"): value for name, value in values.items() if "metrics/" in name}
    assert {name: at[8] for name, at in shown.items()} == pytest.approx(metrics, rel=1e-5)
    pictures = [(event.step, event.encoded_image_string) for event in found.Images("samples")]
    assert pictures == [(end, (folder / f"figures/samples_task_{i}.png").read_bytes()) for i, end in enumerate(ENDS)]
    (config,), (tags,), (state,) = (
        [event.tensor_proto.string_val[0].decode() for event in found.Tensors(name)]
        for name in ("config", "tags", "state")
    )
    status = json.loads((folder / "status.json").read_text())
    assert "train.iterations: 4\n" in config and "model.hidden_sizes: [8]\n" in config
    told_tags = dict(line.split(": ") for line in tags.replace("    ", "").splitlines())
    chosen = {"strategy": "generative_replay", "generator": "vae", "benchmark": "split_digits"}
    assert told_tags == {"seed": "0", "config_hash": status["config_hash"], **chosen}
    assert state == "finished"


def test_tensorboard_goes_on_where_an_interrupted_run_was(gr_run, interrupted):
    pytest.importorskip("tensorboard")
    folder = stopped_and_resumed(gr_run, interrupted, "tracker=tensorboard")
    assert len(list((folder / "tensorboard").iterdir())) == 2
    found = events(folder)
    values, wanted = scalars(found), told(folder)
    assert {name: values[name] for name in wanted} == wanted
    assert [event.step for event in found.Images("samples")] == ENDS
    assert [event.tensor_proto.string_val[0] for event in found.Tensors("state")] == [b"interrupted", b"finished"]


def killed_before_it_noted(gr_run, interrupted, *words):
    """The folder of a run that was told of further than it was noted, and went on."""
    interrupted(*SHORT, *words)
    (folder,) = folders()
    ((place, notes),) = json.loads((folder / "tracker.json").read_text()).items()
    notes |= {"step": 3, "history": 1, "evaluations": 4, "pictures": 0}  # as it was after three steps
    (folder / "tracker.json").write_text(json.dumps({place: notes}))
    assert gr_run(f"resume={folder}")[::2] == (0, "")
    return folder


def test_tensorboard_forgets_what_a_killed_process_told_and_did_not_note(gr_run, interrupted):
    pytest.importorskip("tensorboard")
    folder = killed_before_it_noted(gr_run, interrupted, "tracker=tensorboard")
    found = events(folder)
    values, wanted = scalars(found), told(folder)
    assert {name: values[name] for name in wanted} == wanted
    assert [event.step for event in found.Images("samples")] == ENDS


@pytest.mark.parametrize("launcher", [(), ("hydra/launcher=batched", "hydra.launcher.width=2")])
def test_each_run_of_a_sweep_has_its_own(gr_run, launcher):
    pytest.importorskip("tensorboard")
    code, _, err = gr_run("-m", *SHORT, "tracker=tensorboard", "seed=0,1", *launcher)
    assert (code, err) == (0, "")
    assert len(folders()) == 2
    for folder in folders():
        values, wanted = scalars(events(folder)), told(folder)
        assert {name: values[name] for name in wanted} == wanted


def test_a_run_that_fails_is_told_as_failed(gr_run):
    pytest.importorskip("tensorboard")
    assert gr_run(*SHORT, "tracker=tensorboard", "optimizer.lr=1e30")[0] == 1
    (folder,) = folders()
    assert [event.tensor_proto.string_val[0] for event in events(folder).Tensors("state")] == [b"failed"]


def test_a_finished_run_that_was_not_tracked_may_be_tracked_later(gr_run):
    pytest.importorskip("tensorboard")
    assert gr_run(*SHORT)[0] == 0
    (folder,) = folders()
    for _ in range(2):  # once is enough
        assert gr_run(*SHORT, "tracker=tensorboard")[0] == 0
        values, wanted = scalars(events(folder)), told(folder)
        assert {name: values[name] for name in wanted} == wanted


# --- MLflow


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A store of MLflow with nothing in it, to be copied: to make one takes seconds."""
    mlflow = pytest.importorskip("mlflow")
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def entries(tables):
    """What the store below `outputs` holds: its client, and its runs by their names."""
    import mlflow

    home = Path("outputs/mlruns").absolute()
    home.mkdir(parents=True)
    shutil.copy(tables, home)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")

    def look():
        experiment = client.get_experiment_by_name("gr")
        return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}

    return client, look


def assert_entered(client, run, folder):
    """MLflow has all that was to be told of a finished run, each thing once."""
    for name, wanted in told(folder).items():
        found = client.get_metric_history(run.info.run_id, name)
        values = {metric.step: metric.value for metric in found}
        assert values == wanted and len(found) == len(values), name
    metrics = {row["metric"]: float(row["value"]) for row in table(folder, "metrics") if row["value"]}
    assert {name: run.data.metrics[name] for name in metrics} == pytest.approx(metrics, rel=1e-5)
    pictures = [Path(file.path).name for file in client.list_artifacts(run.info.run_id, "samples")]
    assert pictures == ["samples_task_0.png", "samples_task_1.png"]
    assert run.info.status == "FINISHED"


ofmlflow = pytest.mark.filterwarnings("ignore")  # of its own use of its libraries


@ofmlflow
def test_mlflow_goes_on_with_the_run_that_was_interrupted(gr_run, interrupted, entries):
    client, look = entries
    folder = stopped_and_resumed(gr_run, interrupted, "tracker=mlflow")
    ((_, run),) = look().items()
    assert_entered(client, run, folder)
    assert run.data.params["train.iterations"] == "4" and run.data.params["model.hidden_sizes"] == "[8]"
    assert run.data.tags.items() >= {"seed": "0", "strategy": "generative_replay", "benchmark": "split_digits"}.items()
    assert run.data.tags["config_hash"] == json.loads((folder / "status.json").read_text())["config_hash"]


@ofmlflow
def test_mlflow_has_once_what_a_killed_process_told_and_did_not_note(gr_run, interrupted, entries):
    client, look = entries
    folder = killed_before_it_noted(gr_run, interrupted, "tracker=mlflow")
    ((_, run),) = look().items()
    assert_entered(client, run, folder)


@ofmlflow
def test_mlflow_has_once_how_a_run_ended_that_was_killed_before_it_noted_that(gr_run, entries):
    client, look = entries
    assert gr_run(*SHORT, "tracker=mlflow")[0] == 0
    (folder,) = folders()
    ((place, notes),) = json.loads((folder / "tracker.json").read_text()).items()
    (folder / "tracker.json").write_text(json.dumps({place: notes | {"state": "running"}}))
    assert gr_run(*SHORT, "tracker=mlflow")[0] == 0
    ((_, run),) = look().items()
    assert_entered(client, run, folder)
    assert len(client.get_metric_history(run.info.run_id, "average_accuracy")) == 1


@ofmlflow
def test_mlflow_tells_how_a_run_ended(gr_run, interrupted, entries):
    interrupted(*SHORT, "tracker=mlflow")
    assert gr_run(*SHORT, "tracker=mlflow", "optimizer.lr=1e30", "seed=1")[0] == 1
    states = {name[-1]: run.info.status for name, run in entries[1]().items()}
    assert states == {"0": "KILLED", "1": "FAILED"}


@ofmlflow
@pytest.mark.parametrize("launcher", ["basic", "batched", "joblib"])
def test_mlflow_has_the_runs_of_a_sweep_below_one(gr_run, entries, launcher):
    client, look = entries
    words = ["-m", *SHORT, "tracker=mlflow", "seed=0,1", f"hydra/launcher={launcher}"]
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
        done = subprocess.run([sys.executable, "-m", "gr_cli", *words, "hydra.launcher.n_jobs=2"], capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
    else:
        assert gr_run(*words)[::2] == (0, "")
    (sweep,) = Path("outputs/sweeps").iterdir()
    runs = look()
    parent = runs.pop(f"sweep {sweep.name}")
    assert parent.info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert sorted(runs) == [f"generative_replay · vae · split_digits · class-incremental · seed {i}" for i in (0, 1)]
    for folder, name in zip(folders(), sorted(runs), strict=True):
        assert_entered(client, runs[name], folder)
    if launcher == "basic":  # the same command knows its sweep
        assert gr_run(*words, "seed=0,1,2")[0] == 0
        assert gr_run(*words)[0] == 0
        assert len(look()) == 5  # three runs, and the two sweeps that they were begun in


@ofmlflow
def test_a_folder_does_not_say_where_it_is_told(gr_run, interrupted, monkeypatch, entries):
    client, look = entries
    uri = client.tracking_uri
    err = interrupted(*SHORT, "tracker=mlflow", f"tracker.uri={uri}")
    (folder,) = folders()
    again = err.rpartition("gr-run ")[2].split()
    assert again == [f"resume={folder}", f"trust={uri}"]
    code, _, err = gr_run(again[0])
    assert code == 2 and err.count("\n") == 1 and err.endswith(f"say trust={uri}\n")
    assert [run.info.status for run in look().values()] == ["KILLED"]
    assert gr_run(again[0], f"trust={uri[:-1]}")[0] == 2
    assert gr_run(f"verify={folder}")[2].endswith(f"finish it with resume={folder}\n")
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)  # the user's own
        assert gr_run(again[0])[::2] == (0, "")
    assert gr_run(*again)[::2] == (0, "")
    ((_, run),) = look().items()
    assert_entered(client, run, folder)


@pytest.mark.parametrize(
    ("tracker", "address"),
    [
        ({"_target_": "gr_cli.trackers.MLflow", "uri": "https://host/x"}, ["https://host/x"]),
        ({"_target_": "gr_cli.trackers.MLflow", "uri": "elsewhere"}, ["elsewhere"]),
        ({"_target_": "gr_cli.trackers.MLflow"}, []),
        ({"_target_": "gr_cli.trackers.WandB"}, []),
        ({"_target_": "gr_cli.trackers.WandB", "mode": "online"}, ["wandb:gr"]),
        ({"_target_": "gr_cli.trackers.WandB", "mode": "online", "entity": "them"}, ["wandb:them/gr"]),
        ({"_target_": "gr_cli.trackers.TensorBoard"}, []),
        ({"_target_": "test_trackers.Fails", "at": "log"}, []),
        (None, []),
    ],
)
def test_what_a_tracker_of_the_configuration_sends_to(monkeypatch, tracker, address):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert sends_to({"tracker": tracker}) == address


# --- Weights & Biases


def chunks(data):
    """The records of a log as LevelDB writes it, after a header of 7 bytes: in parts that cross no block of 32 KiB."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if (left := -at % 2**15) and left < 7:  # no room for the head of a part
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)  # a check sum; 1: all, 2 to 4: first, middle, last part
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield whole
            whole = b""


def records(folder):
    """What the offline files in a run's folder hold, those of each process in their order."""
    from wandb.proto.wandb_internal_pb2 import Record

    paths = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    return [Record.FromString(data) for path in paths for data in chunks(path.read_bytes())]


def logged(found):
    """Values by name and step; of a picture, its format."""
    values = {}
    for record in found:
        items = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for name, value in items.items():
            name = name.removesuffix("/format")
            if not name.startswith("_") and not name.startswith("samples/"):
                at = values.setdefault(name, {})
                assert items["_step"] not in at
                at[items["_step"]] = value
    return values


def test_wandb_goes_on_with_the_run_that_was_interrupted(gr_run, interrupted):
    pytest.importorskip("wandb")
    folder = stopped_and_resumed(gr_run, interrupted, "tracker=wandb")
    found = records(folder)
    (one, other) = (record.run for record in found if record.HasField("run"))
    assert one.run_id == other.run_id and one.project == "gr"
    status = json.loads((folder / "status.json").read_text())
    assert {"seed=0", f"config_hash={status['config_hash']}", "generator=vae"} <= set(one.tags)
    config = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in one.config.update}
    assert config["train.iterations"] == 4 and config["model.hidden_sizes"] == [8]
    values, wanted = logged(found), told(folder)
    assert {name: values[name] for name in wanted} == wanted
    assert values["samples"] == dict.fromkeys(ENDS, "png")
    ends = [record.exit.exit_code for record in found if record.HasField("exit")]
    assert ends == [1, 0]
    summary = {item.key: json.loads(item.value_json) for record in found for item in record.summary.update}
    metrics = {row["metric"]: float(row["value"]) for row in table(folder, "metrics") if row["value"]}
    assert {name: summary[name] for name in metrics} == pytest.approx(metrics, rel=1e-5)
    assert summary["state"] == "finished"


def test_wandb_has_once_what_a_killed_process_told_and_did_not_note(gr_run, interrupted):
    pytest.importorskip("wandb")
    folder = killed_before_it_noted(gr_run, interrupted, "tracker=wandb")
    values, wanted = logged(records(folder)), told(folder)
    assert {name: values[name] for name in wanted} == wanted
    assert values["samples"] == dict.fromkeys(ENDS, "png")


def test_wandb_has_each_run_of_a_program_and_their_sweep_as_a_group(gr_run):
    pytest.importorskip("wandb")
    assert gr_run("-m", *SHORT, "tracker=wandb", "seed=0,1", "hydra/launcher=batched", "hydra.launcher.width=2")[
        ::2
    ] == (
        0,
        "",
    )
    (sweep,) = Path("outputs/sweeps").iterdir()
    for folder in folders():
        found = records(folder)
        (run,) = (record.run for record in found if record.HasField("run"))
        assert run.run_group == sweep.name
        values, wanted = logged(found), told(folder)
        assert {name: values[name] for name in wanted} == wanted
