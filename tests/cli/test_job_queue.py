"""How the jobs of a sweep are handed to workers that come and go; without Ray."""

import json
import socket
from collections import deque
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from gr_cli.cli.launchers.job_queue import Ended, JobQueue, Lost, count_workers, run_jobs
from gr_cli.cli.launchers.ray_launcher import seems_in_training
from gr_cli.results.folder import HEARTBEAT_TIMEOUT, RunFolder
from helpers.situations import TINY


class Nodes:
    """Workers of which one ends its job at each wait, the one that has it longest.

    Args:
        capacity: Workers that the nodes hold, at each wait the next of these; the last one lasts.
        losses: How often each job loses its worker.
    """

    def __init__(self, *capacity: int, losses: dict[int, int] | None = None) -> None:
        self.capacity, self.losses = deque(capacity), dict(losses or {})
        self.jobs: deque[int] = deque()
        self.idle = self.most = 0
        self.given: list[int] = []

    @property
    def busy(self) -> int:
        return len(self.jobs)

    def resize(self, wanted: int) -> None:
        self.idle = max(0, min(wanted, self.capacity[0]) - self.busy)

    def give(self, job: int) -> None:
        self.idle -= 1
        self.jobs.append(job)
        self.given.append(job)
        self.most = max(self.most, self.busy)

    def wait(self, seconds: float) -> list[tuple[int, str | Lost]]:
        if len(self.capacity) > 1:
            self.capacity.popleft()
        if not self.jobs:
            return []
        job = self.jobs.popleft()
        if self.losses.get(job):
            self.losses[job] -= 1
            return [(job, Lost("killed"))]
        self.idle += 1
        return [(job, f"result {job}")]


def queue_of(jobs, max_retries=2, is_held=lambda job: False, patience=120.0, clock=lambda: 0.0):
    return JobQueue(range(jobs), max_retries, is_held, patience, clock)


def test_each_worker_has_one_job_and_nothing_else_is_handed_out():
    nodes, queue = Nodes(3), queue_of(50)
    for ended in run_jobs(queue, nodes):
        in_flight = 50 - len(queue) - len(nodes.given) + nodes.busy
        assert in_flight <= 3
        assert ended.result == f"result {ended.job}"
    assert nodes.given == list(range(50)) and nodes.most == 3
    assert nodes.idle == 0  # the workers are given back at the end


def test_fewer_workers_are_kept_than_the_nodes_hold_if_fewer_jobs_are_left():
    nodes = Nodes(100)
    assert len(list(run_jobs(queue_of(4), nodes))) == 4
    assert nodes.most == 4


def test_jobs_wait_for_nodes_and_use_those_that_join():
    nodes = Nodes(0, 0, 1, 1, 4)
    assert [ended.job for ended in run_jobs(queue_of(12), nodes)] == list(range(12))
    assert nodes.most == 4


def test_a_job_that_lost_its_worker_is_handed_out_again_after_the_others():
    nodes = Nodes(1, losses={0: 2})
    events = list(run_jobs(queue_of(2), nodes))
    killed = Lost("killed")
    assert events == [Ended(0, killed, 1), Ended(1, "result 1"), Ended(0, killed, 2), Ended(0, "result 0")]


def test_a_job_that_lost_too_many_workers_ends_and_the_others_go_on():
    nodes = Nodes(2, losses={1: 9})
    events = [ended for ended in run_jobs(queue_of(3, max_retries=2), nodes) if ended.losses is None]
    assert {ended.job: ended.result for ended in events} == {0: "result 0", 1: Lost("killed"), 2: "result 2"}
    assert nodes.given.count(1) == 3


def test_a_job_that_is_trained_elsewhere_waits_until_it_is_free():
    held, now = {0}, [0.0]
    queue = queue_of(3, is_held=held.__contains__, clock=lambda: now[0])
    assert [queue.take(), queue.take(), queue.take()] == [1, 2, None]
    held.clear()
    assert queue.take() is None  # its folder is not looked at again at once
    now[0] = 5.0
    assert queue.take() == 0 and len(queue) == 0


def test_a_job_that_is_trained_elsewhere_is_handed_out_at_last():
    now = [0.0]
    queue = queue_of(1, is_held=lambda job: True, patience=120.0, clock=lambda: now[0])
    for now[0] in (0.0, 60.0, 110.0):
        assert queue.take() is None
    now[0] = 120.0
    assert queue.take() == 0  # the run says who trains it


@pytest.mark.parametrize(
    ("nodes", "demand", "expected"),
    [
        ([{"CPU": 4.0}], {"CPU": 1, "GPU": 0}, 4),
        ([{"CPU": 4.0}], {"CPU": 3}, 1),
        ([{"CPU": 3.0}, {"CPU": 3.0}], {"CPU": 2}, 2),  # not 3: a worker needs its cores on one node
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], {"CPU": 1, "GPU": 1}, 2),
        ([{"CPU": 8.0, "GPU": 2.0}], {"CPU": 1, "GPU": 0.5}, 4),
        ([{"CPU": 1.0}], {"CPU": 0.1}, 10),  # 1 // 0.1 is 9
        ([{"CPU": 8.0, "a100": 3.0}], {"CPU": 1, "a100": 1}, 3),
        ([{"CPU": 8.0}], {"CPU": 1, "GPU": 1}, 0),
        ([], {"CPU": 1}, 0),
    ],
)
def test_workers_that_fit(nodes, demand, expected):
    assert count_workers(nodes, demand) == expected


def test_a_lost_run_is_free_once_its_heartbeat_is_old_or_its_process_ended(made):
    folder = RunFolder(made(*TINY))
    status = json.loads((folder.path / "status.json").read_text()) | {"state": "running"}
    now = datetime.now(timezone.utc)

    def in_training(host: str, seconds_ago: float) -> bool:
        folder.write_status(status | {"host": host, "updated": (now - timedelta(seconds=seconds_ago)).isoformat()})
        return seems_in_training([folder])

    assert in_training("another.host", 0.0)
    assert in_training("another.host", HEARTBEAT_TIMEOUT / 2)  # it may live, cut off from the cluster
    assert not in_training("another.host", HEARTBEAT_TIMEOUT * 1.5)
    assert not in_training(socket.gethostname(), 0.0)  # the lock tells, without a wait
    with folder.locked():
        assert in_training(socket.gethostname(), HEARTBEAT_TIMEOUT * 1.5)
    folder.write_status(status | {"state": "interrupted", "host": "another.host"})
    assert not seems_in_training([folder])
    assert not seems_in_training([RunFolder(Path("not-begun"))])
