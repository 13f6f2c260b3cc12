"""Weights & Biases, offline: what the log holds that is sent later."""

import json
import struct
from pathlib import Path

import pytest

from helpers.tracked import ENDS, SHORT, folders, stopped_and_resumed, table, told

pytestmark = pytest.mark.usefixtures("pictures")


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
    (one, other) = (record.run_id for record in found if record.HasField("run"))
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
        (run,) = (record.run_id for record in found if record.HasField("run"))
        assert run.run_group == sweep.name
        values, wanted = logged(found), told(folder)
        assert {name: values[name] for name in wanted} == wanted
