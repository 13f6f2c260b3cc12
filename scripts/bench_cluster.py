#!/usr/bin/env python
"""A sweep of many short runs on a Ray cluster whose nodes are simulated on this machine.

    python scripts/bench_cluster.py                                # 500 runs on 4 nodes of one core
    python scripts/bench_cluster.py --gpus 1                       # each node declares a GPU, which each run takes
    python scripts/bench_cluster.py --lose-node --kill-command     # and the same command again
    python scripts/bench_cluster.py --folders returned             # Ray brings the files back
    python scripts/bench_cluster.py --nodes 1 --jobs 40 --warm 40  # overhead per run; the machine must be idle

Needs `pip install 'gr-cli[ray]'`. Printed are: seconds per run and worker from the first tenth of the runs on; memory
(RSS) and processor time of the command when 10, 50 and 100 % of the runs are finished; what the loss of a node (SIGKILL
when a third is finished) and of the command (when two thirds are) did; and for `--warm` the seconds per run of the same
runs one after the other in one process. Exit code 1 if a run is missing in the end.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

RUN = [
    "strategy=finetune",
    "model.hidden_sizes=[8]",
    "train.iterations=1",
    "evaluate.generated_samples=0",
    "threads=1",
]
TICKS = os.sysconf("SC_CLK_TCK")
# All nodes share this machine, which may be busy besides: Ray waits longer before it takes one for lost.
PATIENCE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray's default is 15, so that other programs would be measured
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_health_check_timeout_ms": "60000",
}


class Command:
    """A sweep in a process of its own, and the times at which its runs finished."""

    def __init__(self, words: list[str], folder: str) -> None:
        self.words, self.start = words, time.perf_counter()
        self.finished: list[float] = []  # seconds since the start
        self.retries: list[str] = []
        command = [sys.executable, "-u", "-m", "gr_cli", "-m", *words]
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def lines(self):
        for line in self.process.stdout:
            if line.startswith("finished,"):
                self.finished.append(time.perf_counter() - self.start)
            elif "its worker was lost" in line:
                self.retries.append(line.strip())
            elif line.startswith(("gr-run:", "compare", "Traceback")):
                print(f"    {line.rstrip()}", flush=True)
            yield line
        self.process.wait()

    def memory(self) -> float:
        """MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(text.partition("VmRSS:")[2].split()[0]) / 1024

    def processor_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def seconds_per_run(self, workers: int) -> float:
        """Median over tenths of the runs, without the first one, in which the workers start."""
        tenth = max(1, len(self.finished) // 10)
        marks = self.finished[tenth::tenth]
        return median((b - a) / tenth * workers for a, b in pairwise(marks))


def make_cluster(chosen: argparse.Namespace):
    """A head without resources, on which the command runs, and the nodes."""
    os.environ.update(PATIENCE)
    from ray.cluster_utils import Cluster

    common = {"object_store_memory": 100 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, **common})
    nodes = [
        cluster.add_node(num_cpus=chosen.cpus, num_gpus=chosen.gpus, wait=False, **common) for _ in range(chosen.nodes)
    ]
    cluster.wait_for_nodes()
    return cluster, nodes


def sweep(words: list[str], folder: str, chosen: argparse.Namespace, cluster, nodes: list) -> Command:
    """Run the sweep; a node and the command are killed on the way if asked for."""
    command, lose, kill = Command(words, folder), chosen.lose_node, chosen.kill_command
    marks = {max(1, chosen.jobs * share // 100): share for share in (10, 50, 100)}
    for line in command.lines():
        count = len(command.finished)
        if line.startswith("finished,") and count in marks:
            print(
                f"    {marks[count]:>3} % finished: {command.memory():.0f} MiB, {command.processor_seconds():.1f} s of "
                f"the processor, {command.finished[-1]:.1f} s",
                flush=True,
            )
        if lose and count >= chosen.jobs // 3:
            lose = False
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            print(f"    a node of {len(nodes) + 1} was killed after {count} runs", flush=True)
        if kill and count >= chosen.jobs * 2 // 3:
            kill = False
            command.process.send_signal(signal.SIGKILL)
            print(f"    the command was killed after {count} runs", flush=True)
    return command


def count_states(folder: str) -> dict[str, int]:
    states: dict[str, int] = {}
    for path in Path(folder).glob("outputs/*/*/*/status.json"):
        state = json.loads(path.read_text(encoding="utf-8"))["state"]
        states[state] = states.get(state, 0) + 1
    return states


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--cpus", type=int, default=1, help="of each node")
    parser.add_argument("--gpus", type=int, default=0, help="of each node; each run takes one")
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--folders", choices=("shared", "returned"), default="shared")
    parser.add_argument("--lose-node", action="store_true")
    parser.add_argument("--kill-command", action="store_true")
    parser.add_argument("--warm", type=int, default=0, help="this many runs in one process, for comparison")
    parser.add_argument("words", nargs="*", help="settings of the runs; default: the shortest ones")
    chosen = parser.parse_args()
    words = [*(chosen.words or RUN), f"seed=range({chosen.jobs})"]
    workers = chosen.nodes * (min(chosen.cpus, chosen.gpus) if chosen.gpus else chosen.cpus)
    cluster, nodes = make_cluster(chosen)
    ray_words = ["hydra/launcher=ray", f"hydra.launcher.address={cluster.address}"]
    ray_words += [f"hydra.launcher.folders={chosen.folders}"]
    ray_words += ["hydra.launcher.num_gpus=1"] if chosen.gpus else []
    print(f"{os.cpu_count()} cores; {chosen.jobs} runs on {chosen.nodes} nodes: gr-run -m {shlex.join(words)}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            command = sweep([*words, *ray_words], folder, chosen, cluster, nodes)
            per_run = command.seconds_per_run(workers)
            print(f"  exit code {command.process.returncode}; {command.finished[-1]:.1f} s", flush=True)
            print(f"  {per_run * 1e3:.0f} ms per run and worker; {command.finished[0]:.1f} s until the first one ends")
            print(f"  {len(command.retries)} retries")
            for line in command.retries[:1]:
                print(f"    {line}")
            if command.process.returncode:
                before = count_states(folder)
                again = argparse.Namespace(**vars(chosen) | {"lose_node": False, "kill_command": False})
                command = sweep([*words, *ray_words], folder, again, cluster, nodes)
                print(f"  the same command again: exit code {command.process.returncode}; before it {before}")
        finally:
            cluster.shutdown()
        states = count_states(folder)
        print(f"  in the end: {states}", flush=True)
    if chosen.warm:
        with tempfile.TemporaryDirectory() as folder:
            warm = Command([*(chosen.words or RUN), f"seed=range({chosen.warm})"], folder)
            for _ in warm.lines():
                pass
            one = warm.seconds_per_run(1)
            print(f"  in one process: {one * 1e3:.0f} ms per run; the cluster adds {(per_run - one) * 1e3:.0f} ms")
    sys.exit(states != {"finished": chosen.jobs})


if __name__ == "__main__":
    main()
