"""Sweeps on Ray itself: a Ray of this machine, and clusters whose nodes are simulated on it."""

import json
import os
import signal
from pathlib import Path

import pytest

from helpers.extras import needs_ray
from helpers.interruption import csvs
from helpers.processes import start, wait_for

pytestmark = needs_ray

SHORT = ("-m", "train.iterations=4", "benchmark.classes_per_task=5", "threads=1", "strategy=finetune",
         "model.hidden_sizes=[8]")  # fmt: skip
LONG = ("-m", "train.iterations=600", "threads=1", "strategy=finetune", "model.hidden_sizes=[8]")
ON_RAY = ("hydra/launcher=ray", "hydra.launcher.init.num_cpus=2")


def statuses():
    return [json.loads(path.read_text()) for path in sorted(Path("outputs").glob("*/*/*/status.json"))]


def tables():
    return [csvs(path.parent) for path in sorted(Path("outputs").glob("*/*/*/status.json"))]


def await_checkpoints(number, sweep):
    """Wait until `number` runs have a checkpoint and are in training; return their processes."""

    def processes():
        running = [status for status in statuses() if status["state"] == "running"]
        saved = list(Path("outputs").glob("*/*/*/checkpoint.pt"))
        return min(len(running), len(saved)) >= number and {status["process"] for status in running}

    return wait_for(processes, sweep)


@pytest.fixture
def cluster(monkeypatch):
    """A head without cores, and two nodes of one core and a declared GPU each."""
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "1200")  # on a machine that is busy besides
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, **small})
    try:
        cluster.nodes = [cluster.add_node(num_cpus=1, num_gpus=1, wait=False, **small) for _ in range(2)]
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def test_a_killed_process_is_replaced():
    sweep = start(*LONG, "seed=range(3)", *ON_RAY)
    os.kill(min(await_checkpoints(2, sweep)), signal.SIGKILL)
    _, err = sweep.communicate()
    assert sweep.returncode == 0, err
    assert err.count("its worker was lost") == 1
    assert [status["state"] for status in statuses()] == ["finished"] * 3


def test_a_worker_trains_several_runs():
    sweep = start(*SHORT, "seed=range(5)", *ON_RAY)
    _, err = sweep.communicate()
    assert sweep.returncode == 0, err
    assert [status["state"] for status in statuses()] == ["finished"] * 5
    assert len({status["process"] for status in statuses()} - {sweep.pid}) <= 2


def test_programs_of_the_batched_launcher_run_on_ray():
    words = (*SHORT, "seed=range(4)", "hydra/launcher=batched", "hydra.launcher.where=ray")
    sweep = start(*words, "hydra.launcher.processes=2", "hydra.launcher.width=2")
    out, err = sweep.communicate()
    assert sweep.returncode == 0, out + err
    assert {status["mode"] for status in statuses()} == {"batched"}
    assert len({status["process"] for status in statuses()}) == 2


def test_an_interruption_saves_the_runs_in_training():
    sweep = start(*LONG, "seed=range(3)", *ON_RAY)
    await_checkpoints(2, sweep)
    sweep.send_signal(signal.SIGINT)
    _, err = sweep.communicate()
    assert sweep.returncode == 130, err
    states = {status["state"] for status in statuses()}
    assert "running" not in states and "interrupted" in states


def test_a_lost_node_is_replaced_by_another_and_the_tables_are_those_of_one_process(cluster, gr_run, monkeypatch):
    words = (*LONG, "seed=range(3)")
    gpu = "hydra.launcher.num_gpus=1"
    sweep = start(*words, "hydra/launcher=ray", f"hydra.launcher.address={cluster.address}", gpu)
    await_checkpoints(2, sweep)
    cluster.remove_node(cluster.nodes.pop(), allow_graceful=False)
    _, err = sweep.communicate()
    assert sweep.returncode == 0, err
    assert "its worker was lost" in err
    trained = tables()
    Path("alone").mkdir()
    monkeypatch.chdir("alone")
    assert gr_run(*words)[0] == 0
    assert tables() == trained


def test_files_are_brought_back_without_a_shared_directory(cluster, gr_run, monkeypatch):
    words = (*SHORT, "seed=range(3)")
    address = f"hydra.launcher.address={cluster.address}"
    sweep = start(*words, "hydra/launcher=ray", address, "hydra.launcher.folders=returned")
    _, err = sweep.communicate()
    assert sweep.returncode == 0, err
    assert {status["directory"] for status in statuses()} == {str(Path.cwd())}
    trained = tables()
    Path("alone").mkdir()
    monkeypatch.chdir("alone")
    assert gr_run(*words)[0] == 0
    assert tables() == trained
