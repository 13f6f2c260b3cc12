"""Weights & Biases, offline: the content of the log files that `wandb sync` uploads."""

import json
import struct
from pathlib import Path

import pytest

from helpers.tracked import ENDS, SHORT, expected_values, folders, stopped_and_resumed, table

pytestmark = pytest.mark.usefixtures("pictures")


def chunks(data):
    """The records of a LevelDB log, after its header of 7 bytes; a record is split at blocks of 32 KiB."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if (left := -at % 2**15) and left < 7:  # no room for the header of a fragment
            at += left
            continue
        _, size, fragment = struct.unpack_from(
            "<IHB", data, at
        )  # checksum, length, type; 1: full, 2 to 4: first, middle, last fragment
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if fragment in (1, 4):
            yield record
            record = b""


def records(folder):
    """The records of all offline files in a run's folder, in the order of their processes."""
    from wandb.proto.wandb_internal_pb2 import Record

    paths = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    return [Record.FromString(data) for path in paths for data in chunks(path.read_bytes())]


def logged(entries):
    """Values by name and step; of an image, its format."""
    values = {}
    for record in entries:
        items = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for name, value in items.items():
            name = name.removesuffix("/format")
            if not name.startswith("_") and not name.startswith("samples/"):
                at = values.setdefault(name, {})
                assert items["_step"] not in at
                at[items["_step"]] = value
    return values


def test_wandb_continues_an_interrupted_run(gr_run, interrupted):
    pytest.importorskip("wandb")
    folder = stopped_and_resumed(gr_run, interrupted, "tracker=wandb")
    entries = records(folder)
    (first, second) = (record.run for record in entries if record.HasField("run"))
    assert first.run_id == second.run_id and first.project == "gr"
    status = json.loads((folder / "status.json").read_text())
    assert {"seed=0", f"config_hash={status['config_hash']}", "generator=vae"} <= set(first.tags)
    config = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in first.config.update}
    assert config["train.iterations"] == 4 and config["model.hidden_sizes"] == [8]
    values, expected = logged(entries), expected_values(folder)
    assert {name: values[name] for name in expected} == expected
    assert values["samples"] == dict.fromkeys(ENDS, "png")
    ends = [record.exit.exit_code for record in entries if record.HasField("exit")]
    assert ends == [1, 0]
    summary = {item.key: json.loads(item.value_json) for record in entries for item in record.summary.update}
    metrics = {row["metric"]: float(row["value"]) for row in table(folder, "metrics") if row["value"]}
    assert {name: summary[name] for name in metrics} == pytest.approx(metrics, rel=1e-5)
    assert summary["state"] == "finished"


def test_wandb_groups_the_runs_of_a_sweep(gr_run):
    pytest.importorskip("wandb")
    assert gr_run("-m", *SHORT, "tracker=wandb", "seed=0,1", "hydra/launcher=batched", "hydra.launcher.width=2")[
        ::2
    ] == (
        0,
        "",
    )
    (sweep,) = Path("outputs/sweeps").iterdir()
    for folder in folders():
        entries = records(folder)
        (run,) = (record.run for record in entries if record.HasField("run"))
        assert run.run_group == sweep.name
        values, expected = logged(entries), expected_values(folder)
        assert {name: values[name] for name in expected} == expected
