"""Small learners on small data, for tests of strategies. The data of a seed don't depend on the other replicas."""

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
    kind: Any = "class",
    seeds: Sequence[int] = (0,),
    network: Callable[[int], nn.Module] = mlp,
    lr: float = 0.01,
) -> Learner:
    """A learner with one replica per seed, for three tasks of two classes each, in float64."""
    scenario = Scenario(kind)
    heads, solvers = scenario.task_units([2] * TASKS), []
    for seed in seeds:
        torch.manual_seed(seed)
        solvers.append(network(heads.shape[1]).double())
    strategy.check(scenario, solvers[0])
    draws = [RandomStreams(seed) for seed in seeds]
    return Learner(Replicas(solvers), None, strategy, [Adam(lr=lr) for _ in seeds], scenario, heads, draws, "float64")


def data(learner: Learner, task: int, replica: int, n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """A task's samples: two clusters."""
    generator = torch.Generator().manual_seed(1000 * (learner.random_streams[replica].seed + 1) + task)
    y = torch.arange(n) % 2
    centres = torch.randn(2, SIZE, generator=generator, dtype=torch.float64)
    x = centres[y] + 0.7 * torch.randn(n, SIZE, generator=generator, dtype=torch.float64)
    return x, y + learner.scenario.unit_offsets([2] * TASKS)[task]


def passes(learner: Learner, task: int) -> Callable[[int], Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    """Iterator over a task's samples in batches of 16."""
    return lambda replica: zip(*(part.split(16) for part in data(learner, task, replica)), strict=True)


def batches(learner: Learner, task: int, start: int = 0, size: int = 10) -> Iterator[Batch]:
    scenario, heads = learner.scenario, learner.task_units
    whole = [data(learner, task, replica) for replica in range(len(learner.random_streams))]
    units, rivals = scenario.training_units(heads, task), scenario.competing_units(heads, task)
    for iteration in count(start):
        index = torch.randint(0, 40, (size,), generator=torch.Generator().manual_seed(iteration))
        x, y = (torch.stack([mine[column][index] for mine in whole]) for column in (0, 1))
        yield Batch(x, y, units, scenario.replay_units(heads, task), rivals)


def train(
    learner: Learner, task: int, observe: Any = lambda position, losses: None, start: int = 0, size: int = 10
) -> None:
    """Train a task from iteration `start` on."""
    learner.train_task(task, batches(learner, task, start, size), ITERATIONS, observe, start, passes(learner, task))


def begin(learner: Learner, task: int, iterations: int) -> None:
    """Train the first iterations of a task."""
    learner.begin_task(task, passes(learner, task))
    for i, batch in enumerate(islice(batches(learner, task), iterations)):
        learner.step(batch, TrainingStep(task, i, ITERATIONS))


def saved(learner: Learner) -> list[dict[str, Any]]:
    """The state of each replica after a round trip through a checkpoint."""
    file = io.BytesIO()
    torch.save([learner.state_of(replica) for replica in range(len(learner.random_streams))], file)
    file.seek(0)
    found: list[dict[str, Any]] = torch.load(file, weights_only=True)
    return found


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
    mine, others = list(tensors(ours)), list(tensors(theirs))
    assert len(mine) == len(others) > 0
    for a, b in zip(mine, others, strict=True):
        torch.testing.assert_close(a, b, **(tolerance or {"rtol": 0.0, "atol": 0.0}))


def assert_each_learns_what_it_learns_alone(make: Callable[[Any], Strategy], kind: Any, values: list[float]) -> None:
    """Assert that stacked replicas with different seeds and settings learn, in three tasks, what each learns alone."""
    together = learner_of(make(torch.tensor(values, dtype=torch.float64)), kind, range(len(values)))
    alone = [learner_of(make(value), kind, [seed]) for seed, value in enumerate(values)]
    for task in range(TASKS):
        for learner in (together, *alone):
            train(learner, task)
    for both, one in zip(saved(together), alone, strict=True):
        assert_same(both, saved(one)[0], rtol=1e-7, atol=1e-9)
    before, after = (list(tensors(state["solver"])) for state in saved(together))
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def assert_goes_on_from_its_state(make: Callable[[], Strategy], kind: Any) -> None:
    """Assert that a run stopped within its second task, or between two, and resumed equals the undisturbed run."""
    for seeds in ([0], [0, 1]):
        whole = learner_of(make(), kind, seeds)
        train(whole, 0)
        between = copy.deepcopy(saved(whole))
        begin(whole, 1, 5)
        middle = saved(whole)
        train(whole, 1, start=5)
        train(whole, 2)
        for state, start in ((between, 0), (middle, 5)):
            resumed = learner_of(make(), kind, seeds)
            resumed.load_states(state, 1, passes(resumed, 1))
            assert_same(saved(resumed), state)
            train(resumed, 1, start=start)
            train(resumed, 2)
            assert_same(saved(resumed), saved(whole))
