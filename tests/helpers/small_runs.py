"""Small learners on small data, for tests of strategies. Networks and data depend on the seed only."""

import copy
import io
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from typing import Any

import torch
from torch import nn

from gr_cli.models import SimpleMLP
from gr_cli.nn.random_streams import RandomStreams
from gr_cli.nn.replicas import Replicas
from gr_cli.optimizers import Adam
from gr_cli.scenario import Scenario
from gr_cli.strategies import Strategy
from gr_cli.strategies.context import Batch, TrainingStep
from gr_cli.training.learner import Learner

TASKS, SIZE, ITERATIONS = 3, 6, 12


def mlp(units: int) -> nn.Module:
    return SimpleMLP(SIZE, [8], units)


def learner_of(
    strategy: Strategy,
    scenario_name: Any = "class",
    seeds: Sequence[int] = (0,),
    network: Callable[[int], nn.Module] = mlp,
    lr: float = 0.01,
) -> Learner:
    """A learner with one replica per seed, for three tasks of two classes, in double precision."""
    scenario = Scenario(scenario_name)
    task_units, solvers = scenario.task_units([2] * TASKS), []
    for seed in seeds:
        torch.manual_seed(seed)
        solvers.append(network(task_units.shape[1]).double())
    strategy.check(scenario, solvers[0])
    random_streams = [RandomStreams(seed) for seed in seeds]
    return Learner(
        Replicas(solvers), None, strategy, [Adam(lr=lr) for _ in seeds], scenario, task_units, random_streams, "float64"
    )


def data(learner: Learner, task: int, replica: int, n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of a task: two Gaussian clusters."""
    generator = torch.Generator().manual_seed(1000 * (learner.random_streams[replica].seed + 1) + task)
    y = torch.arange(n) % 2
    centres = torch.randn(2, SIZE, generator=generator, dtype=torch.float64)
    x = centres[y] + 0.7 * torch.randn(n, SIZE, generator=generator, dtype=torch.float64)
    return x, y + learner.scenario.unit_offsets([2] * TASKS)[task]


def passes(learner: Learner, task: int) -> Callable[[int], Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    """Passes over a task's samples, in batches of 16."""
    return lambda replica: zip(*(values.split(16) for values in data(learner, task, replica)), strict=True)


def batches(learner: Learner, task: int, start: int = 0, size: int = 10) -> Iterator[Batch]:
    scenario, task_units = learner.scenario, learner.task_units
    task_data = [data(learner, task, replica) for replica in range(len(learner.random_streams))]
    active_units, competing_units = (
        scenario.training_units(task_units, task),
        scenario.competing_units(task_units, task),
    )
    for iteration in count(start):
        index = torch.randint(0, 40, (size,), generator=torch.Generator().manual_seed(iteration))
        x, y = (torch.stack([replica_data[column][index] for replica_data in task_data]) for column in (0, 1))
        yield Batch(x, y, active_units, scenario.replay_units(task_units, task), competing_units)


def train(
    learner: Learner, task: int, observe: Any = lambda step, losses: None, start: int = 0, size: int = 10
) -> None:
    """Train a task, or the rest of it from iteration `start` on."""
    learner.train_task(task, batches(learner, task, start, size), ITERATIONS, observe, start, passes(learner, task))


def begin(learner: Learner, task: int, iterations: int) -> None:
    """Train the first iterations of a task."""
    learner.begin_task(task, passes(learner, task))
    for i, batch in enumerate(islice(batches(learner, task), iterations)):
        learner.step(batch, TrainingStep(task, i, ITERATIONS))


def saved(learner: Learner) -> list[dict[str, Any]]:
    """The state of each replica, saved and loaded."""
    file = io.BytesIO()
    torch.save([learner.state_of(replica) for replica in range(len(learner.random_streams))], file)
    file.seek(0)
    states: list[dict[str, Any]] = torch.load(file, weights_only=True)
    return states


def tensors(state: Any) -> Iterator[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict):
        for name in sorted(state):
            yield from tensors(state[name])
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from tensors(value)


def assert_same(ours: Any, theirs: Any, **tolerance: float) -> None:
    own, expected = list(tensors(ours)), list(tensors(theirs))
    assert len(own) == len(expected) > 0
    for a, b in zip(own, expected, strict=True):
        torch.testing.assert_close(a, b, **(tolerance or {"rtol": 0.0, "atol": 0.0}))


def assert_replicas_match_single_runs(make: Callable[[Any], Strategy], scenario_name: Any, values: list[float]) -> None:
    """Replicas with different seeds and settings end as single runs do, over three tasks."""
    group = learner_of(make(torch.tensor(values, dtype=torch.float64)), scenario_name, range(len(values)))
    single = [learner_of(make(value), scenario_name, [seed]) for seed, value in enumerate(values)]
    for task in range(TASKS):
        for learner in (group, *single):
            train(learner, task)
    for state, learner_of_seed in zip(saved(group), single, strict=True):
        assert_same(state, saved(learner_of_seed)[0], rtol=1e-7, atol=1e-9)
    before, after = (list(tensors(state["solver"])) for state in saved(group))
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def assert_resumes_from_state(make: Callable[[], Strategy], scenario_name: Any) -> None:
    """A run resumed within its second task, or before it, ends in the same state."""
    for seeds in ([0], [0, 1]):
        uninterrupted = learner_of(make(), scenario_name, seeds)
        train(uninterrupted, 0)
        before_task = copy.deepcopy(saved(uninterrupted))
        begin(uninterrupted, 1, 5)
        within_task = saved(uninterrupted)
        train(uninterrupted, 1, start=5)
        train(uninterrupted, 2)
        for state, start in ((before_task, 0), (within_task, 5)):
            resumed = learner_of(make(), scenario_name, seeds)
            resumed.load_states(state, 1, passes(resumed, 1))
            assert_same(saved(resumed), state)
            train(resumed, 1, start=start)
            train(resumed, 2)
            assert_same(saved(resumed), saved(uninterrupted))
