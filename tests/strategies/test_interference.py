"""Maximally interfered retrieval: candidates are replayed whose loss a step on the current batch increases."""

import copy

import pytest
import torch

from gr_cli.generators import VAE
from gr_cli.models import SimpleMLP
from gr_cli.nn.layers import train_mode
from gr_cli.nn.losses import Targets, cross_entropy
from gr_cli.nn.random_streams import RandomStreams
from gr_cli.nn.replicas import Replicas
from gr_cli.optimizers import Adam
from gr_cli.scenario import Scenario
from gr_cli.strategies import GenerativeReplay
from gr_cli.strategies.context import Batch, TrainingStep
from gr_cli.strategies.interference import loss_increases
from gr_cli.training.learner import Learner

UNITS = torch.ones(4, dtype=torch.bool)


def forward_of(solvers):
    return lambda x: solvers.call("__call__", x)


@pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=["alone", "together"])
def test_increase_is_that_of_a_step_of_gradient_descent(seeds):
    networks = []
    for seed in seeds:
        torch.manual_seed(seed)
        networks.append(SimpleMLP(6, [8], 4).double())
    solvers, originals = Replicas(networks), [copy.deepcopy(network) for network in networks]
    x, y = torch.rand(len(seeds), 5, 6).double(), torch.randint(0, 4, (len(seeds), 5))
    candidates, labels = torch.rand(len(seeds), 7, 6).double(), torch.randint(0, 4, (len(seeds), 7))
    loss = cross_entropy(solvers.call("__call__", x), y, UNITS).mean(1)
    step_sizes = [0.5, 2.0][: len(seeds)]
    step_size = step_sizes[0] if len(seeds) == 1 else torch.tensor(step_sizes)
    targets = Targets(labels.unsqueeze(-1), UNITS)
    result = loss_increases(solvers, forward_of(solvers), loss, candidates, targets, step_size)
    for i, network in enumerate(originals):
        before = cross_entropy(network(candidates[i]), labels[i], UNITS)
        torch.optim.SGD(network.parameters(), lr=step_sizes[i]).zero_grad()
        cross_entropy(network(x[i]), y[i], UNITS).mean().backward()
        torch.optim.SGD(network.parameters(), lr=step_sizes[i]).step()
        after = cross_entropy(network(candidates[i]), labels[i], UNITS)
        torch.testing.assert_close(result[i], (after - before).detach())
    assert not result.requires_grad


def test_parameters_are_the_same_afterwards():
    torch.manual_seed(0)
    solvers = Replicas([SimpleMLP(6, [8], 4)])
    before = [p.clone() for p in solvers.modules[0].parameters()]
    loss = cross_entropy(solvers.call("__call__", torch.rand(1, 5, 6)), torch.ones(1, 5).long(), UNITS).mean(1)
    targets = Targets(torch.zeros(1, 3, 1).long(), UNITS)
    loss_increases(solvers, forward_of(solvers), loss, torch.rand(1, 3, 6), targets, 0.3)
    assert all(torch.equal(a, b) for a, b in zip(before, solvers.modules[0].parameters(), strict=True))


def test_the_candidate_that_conflicts_with_the_current_batch_increases_most():
    """A linear solver without hidden layers: only candidates with the same active input are changed at all."""
    torch.manual_seed(0)
    solver = SimpleMLP(3, [], 2).double()
    with torch.no_grad():
        for parameter in solver.parameters():
            parameter.zero_()
    solvers, units = Replicas([solver]), torch.ones(2, dtype=torch.bool)
    x, y = torch.eye(3).double()[None, :1], torch.tensor([[1]])
    loss = cross_entropy(solvers.call("__call__", x), y, units).mean(1)
    candidates = torch.eye(3).double()[None, [0, 0, 1]]
    targets = Targets(torch.tensor([[[0], [1], [0]]]), units)  # conflicts, agrees, differs by its input
    increases = loss_increases(solvers, forward_of(solvers), loss, candidates, targets, 1.0)[0]
    # Logits are 0 before; the step changes those of the first input by -1/2 and 1/2, and the biases likewise.
    softplus = torch.nn.functional.softplus(torch.tensor([2.0, -2.0, 1.0]).double())
    torch.testing.assert_close(increases, softplus - torch.log(torch.tensor(2.0).double()))
    assert increases.argmax() == 0


@pytest.mark.parametrize("source", ["fresh", "pool"])
@pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=["alone", "together"])
def test_replayed_samples_are_the_candidates_with_the_largest_increase(seeds, source):
    scenario, networks, generators = Scenario("class"), [], []
    units = scenario.task_units([2, 2])
    for seed in seeds:
        torch.manual_seed(seed)
        networks.append(SimpleMLP(6, [8], 4))
        generators.append(VAE((6,), [8], 3))
    strategy = GenerativeReplay(
        generators[0], 30, batch_size=4, replay_candidates=5, virtual_step_size=1.0, replay_source=source, pool_size=50
    )
    subject = Learner(
        Replicas(networks),
        Replicas(generators),
        strategy,
        [Adam(lr=0.01) for _ in seeds],
        scenario,
        units,
        [RandomStreams(seed) for seed in seeds],
    )
    strategy.begin_task(subject._task_context(1, None))
    active, replay_units = scenario.training_units(units, 1), scenario.replay_units(units, 1)
    x, y = torch.rand(len(seeds), 10, 6), torch.randint(2, 4, (len(seeds), 10))
    batch, step = Batch(x, y, active, replay_units, scenario.competing_units(units, 1)), TrainingStep(1, 3, 10)
    forward = forward_of(subject.solvers)
    candidates = strategy._replay_of_tasks().at_step(20, step)
    loss = cross_entropy(forward(x), y, active).mean(1)
    targets = Targets(candidates.target, replay_units)
    increases = loss_increases(subject.solvers, forward, loss, candidates.x, targets, 1.0)
    selected = strategy.solver_replay(forward, batch, step)
    assert selected.x.shape == (len(seeds), 4, 6)
    for i in range(len(seeds)):
        largest = increases[i].sort(descending=True).indices[:4]
        assert {tuple(v.tolist()) for v in selected.x[i]} == {tuple(v.tolist()) for v in candidates.x[i, largest]}
    # The generator is trained on candidates as they come: selected ones alone would shift its distribution.
    torch.testing.assert_close(strategy.replay(batch, step).x, candidates.x[:, :4], rtol=0, atol=0)


def test_running_statistics_are_those_without_candidates():
    """A network with batch normalization sees the candidates, but its running statistics don't."""
    scenario, units = Scenario("class"), Scenario("class").task_units([2, 2])
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 4))
    strategy = GenerativeReplay(VAE((6,), [8], 3), 30, batch_size=4, replay_candidates=5)
    subject = Learner(
        Replicas([network]), Replicas([strategy.generator]), strategy, [Adam()], scenario, units, [RandomStreams(0)]
    )
    strategy.begin_task(subject._task_context(1, None))
    active, replay_units = scenario.training_units(units, 1), scenario.replay_units(units, 1)
    x, y = torch.rand(1, 10, 6), torch.randint(2, 4, (1, 10))
    batch = Batch(x, y, active, replay_units, scenario.competing_units(units, 1))
    before = [buffer.clone() for buffer in network.buffers()]
    with train_mode(network, training=True):
        strategy.solver_replay(forward_of(subject.solvers), batch, TrainingStep(1, 3, 10))
    assert all(map(torch.equal, before, network.buffers()))
