"""TensorBoard's event files have the values of the run's folder, also after interruptions."""

import json

import pytest

from helpers.tracked import (
    ENDS,
    SHORT,
    expected_values,
    folders,
    killed_before_storing_its_state,
    stopped_and_resumed,
    table,
)

pytestmark = pytest.mark.usefixtures("pictures")


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def scalars(accumulator):
    """Values by name and step; asserts that there is one of each."""
    values = {
        tag: {event.step: event.value for event in accumulator.Scalars(tag)} for tag in accumulator.Tags()["scalars"]
    }
    assert all(len(values[tag]) == len(accumulator.Scalars(tag)) for tag in values)
    return values


def test_tensorboard_has_the_values_of_the_folder(gr_run):
    pytest.importorskip("tensorboard")
    code, _, err = gr_run(*SHORT, "tracker=tensorboard", "benchmark.validation_share=0.1")
    assert (code, err) == (0, "")
    (folder,) = folders()
    accumulator = events(folder)
    values = scalars(accumulator)
    expected = expected_values(folder)
    assert {name: values[name] for name in expected} == expected
    matrix = [[float(row["task_0"]), float(row["task_1"])] for row in table(folder, "accuracy_matrix")]
    means = [values["accuracy/mean"][end] for end in ENDS]
    assert means == pytest.approx([matrix[0][0], sum(matrix[1]) / 2], abs=1e-6)
    assert list(values["validation_accuracy/task_0"]) == [0, 3, 4, 7, 8]
    metrics = {row["metric"]: float(row["value"]) for row in table(folder, "metrics") if row["value"]}
    shown = {name.removeprefix("metrics/"): value for name, value in values.items() if "metrics/" in name}
    assert {name: at[8] for name, at in shown.items()} == pytest.approx(metrics, rel=1e-5)
    images = [(event.step, event.encoded_image_string) for event in accumulator.Images("samples")]
    assert images == [(end, (folder / f"figures/samples_task_{i}.png").read_bytes()) for i, end in enumerate(ENDS)]
    (config,), (tags,), (state,) = (
        [event.tensor_proto.string_val[0].decode() for event in accumulator.Tensors(name)]
        for name in ("config", "tags", "state")
    )
    status = json.loads((folder / "status.json").read_text())
    assert "train.iterations: 4\n" in config and "model.hidden_sizes: [8]\n" in config
    told_tags = dict(line.split(": ") for line in tags.replace("    ", "").splitlines())
    chosen = {"strategy": "generative_replay", "generator": "vae", "benchmark": "split_digits"}
    assert told_tags == {"seed": "0", "config_hash": status["config_hash"], **chosen}
    assert state == "finished"


def test_tensorboard_continues_an_interrupted_run(gr_run, interrupted):
    pytest.importorskip("tensorboard")
    folder = stopped_and_resumed(gr_run, interrupted, "tracker=tensorboard")
    assert len(list((folder / "tensorboard").iterdir())) == 2
    accumulator = events(folder)
    values, expected = scalars(accumulator), expected_values(folder)
    assert {name: values[name] for name in expected} == expected
    assert [event.step for event in accumulator.Images("samples")] == ENDS
    assert [event.tensor_proto.string_val[0] for event in accumulator.Tensors("state")] == [b"interrupted", b"finished"]


def test_tensorboard_ignores_repeated_steps_of_a_killed_process(gr_run, interrupted):
    pytest.importorskip("tensorboard")
    folder = killed_before_storing_its_state(gr_run, interrupted, "tracker=tensorboard")
    accumulator = events(folder)
    values, expected = scalars(accumulator), expected_values(folder)
    assert {name: values[name] for name in expected} == expected
    assert [event.step for event in accumulator.Images("samples")] == ENDS


@pytest.mark.parametrize("launcher", [(), ("hydra/launcher=batched", "hydra.launcher.width=2")])
def test_each_run_of_a_sweep_has_its_own_events(gr_run, launcher):
    pytest.importorskip("tensorboard")
    code, _, err = gr_run("-m", *SHORT, "tracker=tensorboard", "seed=0,1", *launcher)
    assert (code, err) == (0, "")
    assert len(folders()) == 2
    for folder in folders():
        values, expected = scalars(events(folder)), expected_values(folder)
        assert {name: values[name] for name in expected} == expected


def test_a_failed_run_is_recorded_as_failed(gr_run):
    pytest.importorskip("tensorboard")
    assert gr_run(*SHORT, "tracker=tensorboard", "optimizer.lr=1e30")[0] == 1
    (folder,) = folders()
    assert [event.tensor_proto.string_val[0] for event in events(folder).Tensors("state")] == [b"failed"]


def test_a_finished_run_can_be_tracked_later(gr_run):
    pytest.importorskip("tensorboard")
    assert gr_run(*SHORT)[0] == 0
    (folder,) = folders()
    for _ in range(2):  # once is enough
        assert gr_run(*SHORT, "tracker=tensorboard")[0] == 0
        values, expected = scalars(events(folder)), expected_values(folder)
        assert {name: values[name] for name in expected} == expected
