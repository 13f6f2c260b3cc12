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
from gr_cli.system.locks import one_at_a_time
from gr_cli.trackers.base import Log, Tracked, Tracker, without_password

_HOME = Path("outputs/mlruns")
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
# MLflow would wait for a server that is gone for minutes, and with it the run; and print addresses of runs that end.
_MANNERS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_AT_ONCE = 1000  # metrics that MLflow takes in one request


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
        self._of_its_own = uri not in (None, usual)
        given = uri or usual
        self._home = None if given else _HOME
        self._uri = given or f"sqlite:///{_HOME.absolute()}/mlflow.db"
        self._address = without_password(self._uri)  # is written down, and shown

    @property
    def place(self) -> str:
        return f"mlflow {self._address if self._home is None else _HOME} {self._experiment}"

    @property
    def sends_to(self) -> str | None:
        """Files count as well: a store may say in turn that pictures go to a server."""
        return self._address if self._of_its_own else None

    def log(self, run: Tracked, known: str | None, step: int) -> Log:
        for name, value in _MANNERS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        if self._home is not None:
            self._home.mkdir(parents=True, exist_ok=True)
        with self._alone():
            client = MlflowClient(tracking_uri=self._uri)
            experiment = self._found(client)
            parent = None if run.sweep is None else self._parent(client, experiment, run.sweep)
            goes_on = known is not None and _is_there(client, known)
            if known is None or not goes_on:
                known = _begun(client, experiment, run, parent)
            else:
                client.update_run(known, status="RUNNING")
                if parent is not None and _PARENT not in client.get_run(known).data.tags:
                    client.set_tag(known, _PARENT, parent)  # it was begun alone
        return _Entries(client, known, goes_on, parent, run.sweep, self._alone)

    def _alone(self) -> AbstractContextManager[object]:
        """One process at a time: SQLite lets no two make tables, and makes the others wait only a little."""
        return nullcontext() if self._home is None else one_at_a_time(self._home / ".lock")

    def _found(self, client: Any) -> str:
        """The experiment, which is made if it is not there."""
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self._experiment)
        if found is None:
            where = None if self._home is None else (self._home / "artifacts").absolute().as_uri()
            try:
                return str(client.create_experiment(self._experiment, artifact_location=where))
            except MlflowException:  # another process was faster
                found = client.get_experiment_by_name(self._experiment)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _parent(self, client: Any, experiment: str, sweep: Path) -> str:
        """The run that stands for a sweep; whoever comes first makes it, and writes down which it is."""
        sweep.mkdir(parents=True, exist_ok=True)
        file = sweep / "tracker.json"
        with one_at_a_time(sweep / ".tracker.lock"):  # `.lock` is held as long as the sweep goes on
            known: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            parent = known.get(self.place)
            if parent is None or not _is_there(client, parent):
                made = client.create_run(experiment, tags={"sweep": sweep.name}, run_name=f"sweep {sweep.name}")
                parent = str(made.info.run_id)
                write_json(file, known | {self.place: parent})
            else:
                client.update_run(parent, status="RUNNING")
        return parent


_PARENT = "mlflow.parentRunId"
_Alone = Callable[[], AbstractContextManager[object]]


def _is_there(client: Any, run: str) -> bool:
    """Whether a run is known, and was not deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _begun(client: Any, experiment: str, run: Tracked, parent: str | None) -> str:
    """A new run, and what it is."""
    from mlflow.entities import Param

    tags = {**run.tags, **({} if parent is None else {_PARENT: parent})}
    made = str(client.create_run(experiment, tags=tags, run_name=run.title).info.run_id)
    params = [Param(name, value if isinstance(value, str) else json.dumps(value)) for name, value in run.config.items()]
    for some in _parts(params, 100):
        client.log_batch(made, params=some)
    return made


class _Entries(Log):
    def __init__(
        self, client: Any, run: str, goes_on: bool, parent: str | None, sweep: Path | None, alone: _Alone
    ) -> None:
        self.id, self._goes_on = run, goes_on
        self._client, self._parent, self._sweep, self._alone = client, parent, sweep, alone
        self._known: dict[str, set[int]] = {}

    def rows(self, rows: Mapping[int, Mapping[str, float]]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        entries = [
            Metric(name, value, now, step)
            for step, values in rows.items()
            for name, value in values.items()
            if step not in self._steps(name)
        ]
        for some in _parts(entries, _AT_ONCE):
            with self._alone():
                self._client.log_batch(self.id, metrics=some)

    def _steps(self, name: str) -> set[int]:
        """The steps of which an earlier process took something down: it may have been killed before that was noted."""
        if self._goes_on and name not in self._known:
            with self._alone():
                self._known[name] = {metric.step for metric in self._client.get_metric_history(self.id, name)}
        return self._known.get(name, set())

    def picture(self, name: str, path: Path, step: int) -> None:
        with self._alone():
            self._client.log_artifact(self.id, str(path), name)

    def flush(self) -> None:
        """Everything is where it belongs already."""

    def end(self, state: str, metrics: Mapping[str, float], step: int) -> None:
        self.rows({step: metrics})
        with self._alone():
            self._client.set_terminated(self.id, _STATUS[state])
            if self._parent and self._sweep and (status := _of_sweep(state, self._sweep)):
                self._client.set_terminated(self._parent, status)

    def close(self) -> None:
        """Nothing is held."""


def _of_sweep(state: str, sweep: Path) -> str | None:
    """How a sweep stands when one of its runs ended like this; None: others are still to come."""
    from gr_cli.results.folder import RunFolder

    if state == "interrupted":
        return _STATUS[state]
    jobs: Sequence[str] = []
    with suppress(OSError, ValueError, KeyError):  # only sweeps whose jobs are known beforehand list them
        jobs = list(json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))["jobs"])
    states = {RunFolder(Path(job)).state() for job in jobs} | {state}
    if states & {"running", "never begun"}:
        return None
    return "FINISHED" if states == {"finished"} else "FAILED"


def _parts(things: Sequence[Any], size: int) -> Iterator[list[Any]]:
    return (list(things[i : i + size]) for i in range(0, len(things), size))
