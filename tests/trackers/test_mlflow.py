"""MLflow has each run once, below a parent run for its sweep."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from helpers.tracked import SHORT, expected_values, folders, killed_before_storing_its_state, stopped_and_resumed, table

pytestmark = pytest.mark.usefixtures("pictures")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """An empty database of MLflow, to be copied, because creating one takes seconds."""
    mlflow = pytest.importorskip("mlflow")
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def entries(tables):
    """A client of the database below `outputs`, and a function that reads its runs by name."""
    import mlflow

    home = Path("outputs/mlruns").absolute()
    home.mkdir(parents=True)
    shutil.copy(tables, home)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")

    def look():
        experiment = client.get_experiment_by_name("gr")
        return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}

    return client, look


def assert_recorded(client, run, folder):
    """Assert that MLflow has the values and figures of a finished run, each once."""
    for name, expected in expected_values(folder).items():
        history = client.get_metric_history(run.info.run_id, name)
        values = {metric.step: metric.value for metric in history}
        assert values == expected and len(history) == len(values), name
    metrics = {row["metric"]: float(row["value"]) for row in table(folder, "metrics") if row["value"]}
    assert {name: run.data.metrics[name] for name in metrics} == pytest.approx(metrics, rel=1e-5)
    images = [Path(file.path).name for file in client.list_artifacts(run.info.run_id, "samples")]
    assert images == ["samples_task_0.png", "samples_task_1.png"]
    assert run.info.status == "FINISHED"


ignore_mlflow_warnings = pytest.mark.filterwarnings("ignore")  # warnings of MLflow about its own libraries


@ignore_mlflow_warnings
def test_mlflow_continues_an_interrupted_run(gr_run, interrupted, entries):
    client, look = entries
    folder = stopped_and_resumed(gr_run, interrupted, "tracker=mlflow")
    ((_, run),) = look().items()
    assert_recorded(client, run, folder)
    assert run.data.params["train.iterations"] == "4" and run.data.params["model.hidden_sizes"] == "[8]"
    assert run.data.tags.items() >= {"seed": "0", "strategy": "generative_replay", "benchmark": "split_digits"}.items()
    assert run.data.tags["config_hash"] == json.loads((folder / "status.json").read_text())["config_hash"]


@ignore_mlflow_warnings
def test_mlflow_has_no_duplicates_after_a_process_was_killed(gr_run, interrupted, entries):
    client, look = entries
    folder = killed_before_storing_its_state(gr_run, interrupted, "tracker=mlflow")
    ((_, run),) = look().items()
    assert_recorded(client, run, folder)


@ignore_mlflow_warnings
def test_mlflow_has_the_end_once_after_a_process_was_killed(gr_run, entries):
    client, look = entries
    assert gr_run(*SHORT, "tracker=mlflow")[0] == 0
    (folder,) = folders()
    ((destination, state),) = json.loads((folder / "tracker.json").read_text()).items()
    (folder / "tracker.json").write_text(json.dumps({destination: state | {"state": "running"}}))
    assert gr_run(*SHORT, "tracker=mlflow")[0] == 0
    ((_, run),) = look().items()
    assert_recorded(client, run, folder)
    assert len(client.get_metric_history(run.info.run_id, "average_accuracy")) == 1


@ignore_mlflow_warnings
def test_mlflow_has_the_status_of_interrupted_and_failed_runs(gr_run, interrupted, entries):
    interrupted(*SHORT, "tracker=mlflow")
    assert gr_run(*SHORT, "tracker=mlflow", "optimizer.lr=1e30", "seed=1")[0] == 1
    states = {name[-1]: run.info.status for name, run in entries[1]().items()}
    assert states == {"0": "KILLED", "1": "FAILED"}


@ignore_mlflow_warnings
@pytest.mark.parametrize("launcher", ["basic", "batched", "joblib"])
def test_mlflow_has_the_runs_of_a_sweep_below_a_parent_run(gr_run, entries, launcher):
    client, look = entries
    argv = ["-m", *SHORT, "tracker=mlflow", "seed=0,1", f"hydra/launcher={launcher}"]
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
        done = subprocess.run([sys.executable, "-m", "gr_cli", *argv, "hydra.launcher.n_jobs=2"], capture_output=True)
        assert done.returncode == 0 and done.stderr.count(b"\n") == 2 and b"gr-report --watch" in done.stderr
    else:
        assert gr_run(*argv)[::2] == (0, "")
    (sweep,) = Path("outputs/sweeps").iterdir()
    runs = look()
    parent = runs.pop(f"sweep {sweep.name}")
    assert parent.info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert sorted(runs) == [f"generative_replay · vae · split_digits · class-incremental · seed {i}" for i in (0, 1)]
    for folder, name in zip(folders(), sorted(runs), strict=True):
        assert_recorded(client, runs[name], folder)
    if launcher == "basic":  # the same command finds the parent run of its sweep
        assert gr_run(*argv, "seed=0,1,2")[0] == 0
        assert gr_run(*argv)[0] == 0
        assert len(look()) == 5  # three runs and two sweeps


@ignore_mlflow_warnings
def test_a_folder_alone_does_not_decide_where_data_is_sent(gr_run, interrupted, monkeypatch, entries):
    client, look = entries
    uri = client.tracking_uri
    err = interrupted(*SHORT, "tracker=mlflow", f"tracker.uri={uri}")
    (folder,) = folders()
    again = err.rpartition("gr-run ")[2].split()
    assert again == [f"resume={folder}", f"trust={uri}"]
    code, _, err = gr_run(again[0])
    assert code == 2 and err.count("\n") == 1 and err.endswith(f"add trust={uri}\n")
    assert [run.info.status for run in look().values()] == ["KILLED"]
    assert gr_run(again[0], f"trust={uri[:-1]}")[0] == 2
    assert gr_run(f"verify={folder}")[2].endswith(f"finish it with resume={folder}\n")
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)  # the user's own
        assert gr_run(again[0])[::2] == (0, "")
    assert gr_run(*again)[::2] == (0, "")
    ((_, run),) = look().items()
    assert_recorded(client, run, folder)
