"""MLflow tracker: one MLflow run per run, with one parent run per sweep; in a local database or on a server."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from gr_cli.config.output_root import default_output_root
from gr_cli.errors import ConfigError
from gr_cli.system.files import write_json
from gr_cli.system.locks import mutex
from gr_cli.trackers.base import RunInfo, RunLogger, Tracker, without_password

_STATUS_BY_STATE = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "pruned": "KILLED"}
# MLflow's defaults retry for minutes when a server is down, and print the URL of each run that ends.
_ENVIRONMENT_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_MAX_METRICS_PER_REQUEST = 1000  # limit of MLflow's log_batch
_MAX_PARAMS_PER_REQUEST = 100  # limit of MLflow's log_batch


class MLflow(Tracker):
    """MLflow: one run for each run, below a parent run for each sweep; a local database unless a server is given.

    Metrics, settings (as parameters), seed and options (as tags) and figures of generated samples (as artifacts) are
    logged. Settings and tags are logged once, when the run is created.

    Args:
        uri: Tracking URI: a server, or a database such as `sqlite:///mlflow.db`. `null`: the environment variable
            `MLFLOW_TRACKING_URI`, or else `mlruns/mlflow.db` in $GR_OUTPUT_ROOT or `outputs`. It may hold no user name
            or password.
        experiment: Name of the MLflow experiment; it is created if it does not exist.
    """

    library = "mlflow"

    def __init__(self, uri: str | None = None, experiment: str = "gr") -> None:
        if uri is not None and without_password(uri) != uri:
            raise ConfigError(
                "tracker.uri",
                without_password(uri),
                "must hold no user name and no password, because it is written into the run's files",
                "set them in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            )
        self._experiment = experiment
        environment_uri = os.environ.get("MLFLOW_TRACKING_URI")
        self._uri_is_configured = uri not in (None, environment_uri)
        chosen_uri = uri or environment_uri
        self._folder = None if chosen_uri else default_output_root() / "mlruns"
        self._uri = chosen_uri or f"sqlite:///{(default_output_root() / 'mlruns').absolute()}/mlflow.db"
        self._address = without_password(self._uri)  # it is written into tracker.json and printed

    @property
    def destination(self) -> str:
        return f"mlflow {self._address if self._folder is None else self._folder} {self._experiment}"

    @property
    def remote_address(self) -> str | None:
        """The URI of the settings. Local files count, too: a database may name a server for artifacts."""
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
            is_resumed = run_id is not None and _run_exists(client, run_id)
            if run_id is None or not is_resumed:
                run_id = _create_run(client, experiment, run, parent)
            else:
                client.update_run(run_id, status="RUNNING")
                if parent is not None and _PARENT_TAG not in client.get_run(run_id).data.tags:
                    client.set_tag(run_id, _PARENT_TAG, parent)  # the run was created outside of the sweep
        return _MLflowRunLogger(client, run_id, is_resumed, parent, run.sweep, self._database_lock)

    def _database_lock(self) -> AbstractContextManager[object]:
        """A lock around each access to the local database: SQLite fails when two processes create its tables."""
        return nullcontext() if self._folder is None else mutex(self._folder / ".lock")

    def _experiment_id(self, client: Any) -> str:
        """The id of the experiment; it is created if it does not exist."""
        from mlflow.exceptions import MlflowException

        experiment = client.get_experiment_by_name(self._experiment)
        if experiment is None:
            artifacts = None if self._folder is None else (self._folder / "artifacts").absolute().as_uri()
            try:
                return str(client.create_experiment(self._experiment, artifact_location=artifacts))
            except MlflowException:  # another process has created it meanwhile
                experiment = client.get_experiment_by_name(self._experiment)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def _parent_run_id(self, client: Any, experiment: str, sweep: Path) -> str:
        """The MLflow run of a sweep. The first process creates it and writes its id into the sweep's tracker.json."""
        sweep.mkdir(parents=True, exist_ok=True)
        file = sweep / "tracker.json"
        with mutex(sweep / ".tracker.lock"):  # `.lock` is held for the whole sweep
            parents: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            parent = parents.get(self.destination)
            if parent is None or not _run_exists(client, parent):
                created = client.create_run(experiment, tags={"sweep": sweep.name}, run_name=f"sweep {sweep.name}")
                parent = str(created.info.run_id)
                write_json(file, parents | {self.destination: parent})
            else:
                client.update_run(parent, status="RUNNING")
        return parent


_PARENT_TAG = "mlflow.parentRunId"
_LockFactory = Callable[[], AbstractContextManager[object]]


def _run_exists(client: Any, run_id: str) -> bool:
    """Whether the run exists and is not deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _create_run(client: Any, experiment: str, run: RunInfo, parent: str | None) -> str:
    """Create a run with its tags and parameters; its id."""
    from mlflow.entities import Param

    tags = {**run.tags, **({} if parent is None else {_PARENT_TAG: parent})}
    run_id = str(client.create_run(experiment, tags=tags, run_name=run.title).info.run_id)
    params = [Param(name, value if isinstance(value, str) else json.dumps(value)) for name, value in run.config.items()]
    for chunk in _chunks(params, _MAX_PARAMS_PER_REQUEST):
        client.log_batch(run_id, params=chunk)
    return run_id


class _MLflowRunLogger(RunLogger):
    """Logs to an MLflow run, and ends the parent run of the sweep with the last of its runs."""

    def __init__(
        self, client: Any, run_id: str, is_resumed: bool, parent: str | None, sweep: Path | None, lock: _LockFactory
    ) -> None:
        self.run_id, self._is_resumed = run_id, is_resumed
        self._client, self._parent_run, self._sweep, self._lock = client, parent, sweep, lock
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
        for chunk in _chunks(entries, _MAX_METRICS_PER_REQUEST):
            with self._lock():
                self._client.log_batch(self.run_id, metrics=chunk)

    def _steps_logged_before(self, name: str) -> set[int]:
        """Steps that an earlier process logged; it may have been killed before it wrote tracker.json."""
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
        """Each request is stored when it returns."""

    def finish(self, state: str, metrics: Mapping[str, float], step: int) -> None:
        self.log_metrics({step: metrics})
        with self._lock():
            self._client.set_terminated(self.run_id, _STATUS_BY_STATE[state])
            if self._parent_run and self._sweep and (status := _sweep_status(state, self._sweep)):
                self._client.set_terminated(self._parent_run, status)

    def close(self) -> None:
        """There is nothing to release."""


def _sweep_status(state: str, sweep: Path) -> str | None:
    """MLflow status of a sweep after one of its runs ended in `state`; None while runs are pending."""
    from gr_cli.results.folder import RunFolder
    from gr_cli.results.manifest import SweepJob, read_manifest

    if state == "interrupted":
        return _STATUS_BY_STATE[state]
    jobs: Sequence[SweepJob] = []
    with suppress(OSError, ValueError):  # a sweeper of another package lists no jobs
        jobs = read_manifest(sweep)
    states = {RunFolder(job.path).state() for job in jobs} | {state}
    if states & {"running", "not started"}:
        return None
    return "FINISHED" if states <= {"finished", "pruned"} else "FAILED"


def _chunks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    return (list(items[i : i + size]) for i in range(0, len(items), size))
