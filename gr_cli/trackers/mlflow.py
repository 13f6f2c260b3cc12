"""MLflow: a run there for each run, below one for their sweep; in a file below `outputs`, or on a server."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from gr_cli.errors import ConfigError
from gr_cli.system.files import write_json
from gr_cli.system.locks import mutex
from gr_cli.trackers.base import RunInfo, RunLogger, Tracker, without_password

_DEFAULT_FOLDER = Path("outputs/mlruns")
_STATUS_BY_STATE = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
# MLflow would wait for a server that is gone for minutes, and with it the run; and print addresses of runs that end.
_ENVIRONMENT_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_MAX_METRICS_PER_REQUEST = 1000  # metrics that MLflow takes in one request


class MLflow(Tracker):
    """Keeps runs where `uri` says; null: where `MLFLOW_TRACKING_URI` says, else in `outputs/mlruns/mlflow.db`."""

    library = "mlflow"

    def __init__(self, uri: str | None = None, experiment: str = "gr") -> None:
        if uri is not None and without_password(uri) != uri:
            raise ConfigError(
                "tracker.uri",
                without_password(uri),
                "must hold no name and no password, for it is written into files of the run",
                "put them into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            )
        self._experiment = experiment
        usual = os.environ.get("MLFLOW_TRACKING_URI")
        self._uri_is_configured = uri not in (None, usual)
        given = uri or usual
        self._folder = None if given else _DEFAULT_FOLDER
        self._uri = given or f"sqlite:///{_DEFAULT_FOLDER.absolute()}/mlflow.db"
        self._address = without_password(self._uri)  # is written down, and shown

    @property
    def destination(self) -> str:
        return f"mlflow {self._address if self._folder is None else _DEFAULT_FOLDER} {self._experiment}"

    @property
    def remote_address(self) -> str | None:
        """Files count as well: a store may say in turn that pictures go to a server."""
        return self._address if self._uri_is_configured else None

    def run_logger(self, run: RunInfo, run_id: str | None, last_step: int) -> RunLogger:
        for name, value in _ENVIRONMENT_DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        with self._database_lock():
            client = MlflowClient(tracking_uri=self._uri)
            experiment = self._experiment_id(client)
            parent = None if run.sweep is None else self._parent_run_id(client, experiment, run.sweep)
            goes_on = run_id is not None and _run_exists(client, run_id)
            if run_id is None or not goes_on:
                run_id = _create_run(client, experiment, run, parent)
            else:
                client.update_run(run_id, status="RUNNING")
                if parent is not None and _PARENT_TAG not in client.get_run(run_id).data.tags:
                    client.set_tag(run_id, _PARENT_TAG, parent)  # it was begun alone
        return _MLflowRunLogger(client, run_id, goes_on, parent, run.sweep, self._database_lock)

    def _database_lock(self) -> AbstractContextManager[object]:
        """One process at a time: SQLite lets no two make tables, and makes the others wait only a little."""
        return nullcontext() if self._folder is None else mutex(self._folder / ".lock")

    def _experiment_id(self, client: Any) -> str:
        """The experiment, which is made if it is not there."""
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self._experiment)
        if found is None:
            where = None if self._folder is None else (self._folder / "artifacts").absolute().as_uri()
            try:
                return str(client.create_experiment(self._experiment, artifact_location=where))
            except MlflowException:  # another process was faster
                found = client.get_experiment_by_name(self._experiment)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _parent_run_id(self, client: Any, experiment: str, sweep: Path) -> str:
        """The run that stands for a sweep; whoever comes first makes it, and writes down which it is."""
        sweep.mkdir(parents=True, exist_ok=True)
        file = sweep / "tracker.json"
        with mutex(sweep / ".tracker.lock"):  # `.lock` is held as long as the sweep goes on
            known: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            parent = known.get(self.destination)
            if parent is None or not _run_exists(client, parent):
                made = client.create_run(experiment, tags={"sweep": sweep.name}, run_name=f"sweep {sweep.name}")
                parent = str(made.info.run_id)
                write_json(file, known | {self.destination: parent})
            else:
                client.update_run(parent, status="RUNNING")
        return parent


_PARENT_TAG = "mlflow.parentRunId"
_LockFactory = Callable[[], AbstractContextManager[object]]


def _run_exists(client: Any, run: str) -> bool:
    """Whether a run is known, and was not deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _create_run(client: Any, experiment: str, run: RunInfo, parent: str | None) -> str:
    """A new run, and what it is."""
    from mlflow.entities import Param

    tags = {**run.tags, **({} if parent is None else {_PARENT_TAG: parent})}
    made = str(client.create_run(experiment, tags=tags, run_name=run.title).info.run_id)
    params = [Param(name, value if isinstance(value, str) else json.dumps(value)) for name, value in run.config.items()]
    for some in _chunks(params, 100):
        client.log_batch(made, params=some)
    return made


class _MLflowRunLogger(RunLogger):
    def __init__(
        self, client: Any, run: str, goes_on: bool, parent: str | None, sweep: Path | None, alone: _LockFactory
    ) -> None:
        self.run_id, self._is_resumed = run, goes_on
        self._client, self._parent_run, self._sweep, self._lock = client, parent, sweep, alone
        self._logged_steps: dict[str, set[int]] = {}

    def log_metrics(self, metrics_by_step: Mapping[int, Mapping[str, float]]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        entries = [
            Metric(name, value, now, step)
            for step, values in metrics_by_step.items()
            for name, value in values.items()
            if step not in self._steps_logged_before(name)
        ]
        for some in _chunks(entries, _MAX_METRICS_PER_REQUEST):
            with self._lock():
                self._client.log_batch(self.run_id, metrics=some)

    def _steps_logged_before(self, name: str) -> set[int]:
        """The steps of which an earlier process took something down: it may have been killed before that was noted."""
        if self._is_resumed and name not in self._logged_steps:
            with self._lock():
                self._logged_steps[name] = {
                    metric.step for metric in self._client.get_metric_history(self.run_id, name)
                }
        return self._logged_steps.get(name, set())

    def log_image(self, name: str, path: Path, step: int) -> None:
        with self._lock():
            self._client.log_artifact(self.run_id, str(path), name)

    def flush(self) -> None:
        """Everything is where it belongs already."""

    def finish(self, state: str, metrics: Mapping[str, float], step: int) -> None:
        self.log_metrics({step: metrics})
        with self._lock():
            self._client.set_terminated(self.run_id, _STATUS_BY_STATE[state])
            if self._parent_run and self._sweep and (status := _sweep_status(state, self._sweep)):
                self._client.set_terminated(self._parent_run, status)

    def close(self) -> None:
        """Nothing is held."""


def _sweep_status(state: str, sweep: Path) -> str | None:
    """How a sweep stands when one of its runs ended like this; None: others are still to come."""
    from gr_cli.results.folder import RunFolder

    if state == "interrupted":
        return _STATUS_BY_STATE[state]
    jobs: Sequence[str] = []
    with suppress(OSError, ValueError, KeyError):  # only sweeps whose jobs are known beforehand list them
        jobs = list(json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))["jobs"])
    states = {RunFolder(Path(job)).state() for job in jobs} | {state}
    if states & {"running", "not started"}:
        return None
    return "FINISHED" if states == {"finished"} else "FAILED"


def _chunks(things: Sequence[Any], size: int) -> Iterator[list[Any]]:
    return (list(things[i : i + size]) for i in range(0, len(things), size))
