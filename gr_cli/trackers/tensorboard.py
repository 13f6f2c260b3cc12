"""TensorBoard tracker: event files in the run's folder."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gr_cli.trackers.base import RunInfo, RunLogger, Tracker

_FOLDER = "tensorboard"


class TensorBoard(Tracker):
    """TensorBoard: event files in the folder `tensorboard` of each run; `tensorboard --logdir outputs` shows them.

    Losses, accuracies and evaluations become scalars, figures of generated samples images, settings and metrics a row
    of the HParams tab. The files are written with TensorBoard's own writer; importing torch's takes ten times as long.
    """

    library = "tensorboard"

    @property
    def destination(self) -> str:
        return _FOLDER

    def run_logger(self, run: RunInfo, run_id: str | None, last_step: int) -> RunLogger:
        events = _EventFileLogger(run.folder / _FOLDER)
        if run_id is None:
            events.log_run_info(run)
        else:
            events.discard_from(last_step + 1)
        return events


class _EventFileLogger(RunLogger):
    """Appends events to a new event file."""

    run_id = _FOLDER

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(folder))

    def log_run_info(self, run: RunInfo) -> None:
        """Write the settings and tags for the text tab and the HParams tab."""
        from tensorboard.plugins.hparams.plugin_data_pb2 import SessionStartInfo

        for name, values in (("config", run.config), ("tags", run.tags)):
            self._log_text(name, "\n".join(f"    {key}: {_as_text(value)}" for key, value in values.items()))
        start = SessionStartInfo(group_name=run.title, start_time_secs=time.time())
        for name, value in {**run.config, **{f"tag.{tag}": value for tag, value in run.tags.items()}}.items():
            if isinstance(value, bool):
                start.hparams[name].bool_value = value
            elif isinstance(value, (int, float)):
                start.hparams[name].number_value = value
            elif value is not None:
                start.hparams[name].string_value = _as_text(value)
        self._log_session("_hparams_/session_start_info", session_start_info=start)

    def discard_from(self, step: int) -> None:
        """Make TensorBoard ignore events from `step` on that a killed process wrote before."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        log = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(wall_time=time.time(), step=step, session_log=log))

    def log_metrics(self, metrics_by_step: Mapping[int, Mapping[str, float]]) -> None:
        for step, values in metrics_by_step.items():
            self._add(step, *({"tag": name, "simple_value": value} for name, value in values.items()))

    def log_image(self, name: str, path: Path, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        data = path.read_bytes()
        width, height = struct.unpack(">II", data[16:24])  # IHDR chunk of the PNG file
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=data)
        self._add(step, {"tag": name, "image": image})

    def flush(self) -> None:
        self._writer.flush()

    def finish(self, state: str, metrics: Mapping[str, float], step: int) -> None:
        from tensorboard.plugins.hparams.api_pb2 import Status
        from tensorboard.plugins.hparams.plugin_data_pb2 import SessionEndInfo

        self.log_metrics({step: {f"metrics/{name}": value for name, value in metrics.items()}})
        self._log_text("state", state, step)
        status = Status.Value("STATUS_SUCCESS" if state in ("finished", "pruned") else "STATUS_FAILURE")
        end = SessionEndInfo(status=status, end_time_secs=time.time())
        self._log_session("_hparams_/session_end_info", session_end_info=end)
        self.close()

    def close(self) -> None:
        self._writer.close()

    def _log_text(self, name: str, text: str, step: int = 0) -> None:
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING
        from tensorboard.plugins.text.metadata import create_summary_metadata

        tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
        self._add(step, {"tag": name, "tensor": tensor, "metadata": create_summary_metadata(name, "")})

    def _log_session(self, tag: str, **info: Any) -> None:
        from tensorboard.plugins.hparams.metadata import NULL_TENSOR, create_summary_metadata
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

        metadata = create_summary_metadata(HParamsPluginData(**info))
        self._add(0, {"tag": tag, "tensor": NULL_TENSOR, "metadata": metadata})

    def _add(self, step: int, *values: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(**value) for value in values])
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
