"""Generative distillation: the frozen generator teaches the new one its outputs on noised samples of its own."""

import copy

import pytest
import torch

from gr_cli.errors import ConfigError
from gr_cli.generators import ConvFlowMatching, FlowMatching
from gr_cli.models import SimpleMLP
from gr_cli.nn.gradient_rules import GradientRule
from gr_cli.nn.random_streams import RandomStreams, ReplicaStreams
from gr_cli.nn.replicas import Replicas
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.optimizers import SGD
from gr_cli.scenario import Scenario
from gr_cli.strategies import GenerativeReplay
from gr_cli.strategies.context import Batch, GeneratorBatch, GeneratorDistillation
from gr_cli.training.generator_update import GeneratorUpdate
from gr_cli.training.learner import Learner

SHAPE = (1, 8, 8)
MAKE = {
    "flow": lambda: FlowMatching(SHAPE, 4, [8], 2),
    "conv_flow": lambda: ConvFlowMatching(SHAPE, 4, [4, 8], 2, 2),
}


def generators(kind, seeds=(0,)):
    made = []
    for seed in seeds:
        torch.manual_seed(seed)
        made.append(MAKE[kind]().double())
    return Replicas(made)


def update_of(replicas):
    streams = ReplicaStreams([RandomStreams(seed) for seed in range(replicas)], torch.float64)
    return lambda trained: GeneratorUpdate(trained, [SGD(lr=0.5)] * replicas, streams, GradientRule()), streams


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("weight", [3.0, torch.tensor([3.0, 0.5])], ids=["alone", "together"])
def test_loss_is_the_squared_distance_to_the_teacher_at_the_same_noised_samples(kind, weight):
    seeds = range(1 if isinstance(weight, float) else 2)
    student, teacher = generators(kind, seeds), generators(kind, [seed + 10 for seed in seeds]).frozen_copy()
    make, streams = update_of(len(seeds))
    x, y = torch.rand(len(seeds), 5, *SHAPE).double(), torch.randint(0, 4, (len(seeds), 5))
    replayed, labels = torch.rand(len(seeds), 6, *SHAPE).double(), torch.randint(0, 4, (len(seeds), 6))
    specs = student.modules[0].training_noise(6)
    noise = streams.noise_at(specs, "generator.flow.distillation", 1, 7)
    own_noise = streams.noise_at(student.modules[0].training_noise(5), "generator.flow", 1, 7)
    before = [copy.deepcopy(network) for network in student.modules]
    batch = GeneratorBatch(x, 7, labels=y, distillation=GeneratorDistillation(teacher, replayed, labels, weight))
    losses = make(student).step(batch, 1, lambda optimizer: optimizer.lr)
    for i, network in enumerate(before):
        time, z = noise["time"][i], noise["z"][i]
        points = (1 - time) * z + time * (2 * replayed[i].flatten(1) - 1)
        with torch.no_grad():
            target = teacher.module_of(i).predict(points, time, labels[i])
        distance = (network.predict(points, time, labels[i]) - target).square().mean()
        torch.testing.assert_close(losses["distillation"][i], distance.detach())
        current = network.losses("flow", x[i], {name: v[i] for name, v in own_noise.items()}, y[i])["flow"].mean()
        torch.testing.assert_close(losses["flow"][i], current.detach())
        (current + (weight if isinstance(weight, float) else weight[i]) * distance).backward()
        for parameter, trained in zip(network.parameters(), student.modules[i].parameters(), strict=True):
            torch.testing.assert_close(trained, parameter - 0.5 * parameter.grad)


@pytest.mark.parametrize("kind", MAKE)
def test_a_student_equal_to_its_teacher_learns_nothing(kind):
    (student,) = generators(kind).modules
    teacher = copy.deepcopy(student).requires_grad_(False)
    x, labels = torch.rand(6, *SHAPE).double(), torch.arange(6) % 4
    noise = {"z": torch.randn(6, 64).double(), "time": torch.rand(6, 1).double()}
    target = teacher.distillation_targets(x, noise, labels)
    loss = student.distillation_losses(target, x, noise, labels)["distillation"]
    assert torch.equal(loss, torch.zeros_like(loss))
    gradients = torch.autograd.grad(loss.sum(), list(student.parameters()))
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)
    plain = torch.autograd.grad(student.losses("flow", x, noise, labels)["flow"].sum(), list(student.parameters()))
    assert any(gradient.abs().max() > 0 for gradient in plain)


def learner(**settings):
    torch.manual_seed(0)
    scenario = Scenario("class")
    units = scenario.task_units([2, 2])
    generator = FlowMatching(SampleSpec((6,)), 4, [8], 2)
    settings = {"generator_data": "current_and_replay", "generator_update_freq": 1, "batch_size": 8} | settings
    strategy = GenerativeReplay(generator, **settings)
    optimizers, streams = [SGD(lr=0.01)], [RandomStreams(0)]
    return Learner(
        Replicas([SimpleMLP(6, [8], 4)]), Replicas([generator]), strategy, optimizers, scenario, units, streams
    )


def train(subject, task, iterations=3, observe=lambda step, losses: None):
    units = subject.scenario.training_units(subject.task_units, task)
    replay_units = subject.scenario.replay_units(subject.task_units, task)
    competing = subject.scenario.competing_units(subject.task_units, task)
    generator = torch.Generator().manual_seed(task)
    stream = (
        Batch(
            torch.rand(1, 10, 6, generator=generator),
            torch.randint(0, 2, (1, 10), generator=generator) + 2 * task,
            units,
            replay_units,
            competing,
        )
        for _ in range(iterations)
    )
    subject.train_task(task, stream, iterations, observe)


def test_the_teacher_is_the_generator_before_the_task_on_its_own_samples():
    subject = learner(generator_distillation=3.0)
    terms, batches = [], []
    train(subject, 0, observe=lambda step, losses: terms.append(set(losses)))
    assert all("distillation" not in names for names in terms)
    before = {name: value.clone() for name, value in subject.generators.state_dict().items()}
    original = subject.strategy.generator_batch
    subject.strategy.generator_batch = lambda *arguments: batches.append(original(*arguments)) or batches[-1]
    distances = []
    train(subject, 1, observe=lambda step, losses: distances.append(losses["distillation"].item()))
    for batch in batches:
        assert batch.x.shape == (1, 10, 6) and batch.distillation.x.shape == (1, 8, 6)
        assert batch.distillation.weight == 3.0 and batch.distillation.labels.max() < 2 <= batch.labels.min()
        state = batch.distillation.teacher.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in before.items())
    assert distances[0] == 0.0 and distances[-1] > 0.0  # the generator starts as its teacher
    assert any(not torch.equal(value, before[name]) for name, value in subject.generators.state_dict().items())


@pytest.mark.parametrize("settings", [{"generator_data": "memory"}, {"generator_scope": "per_task"}])
def test_distillation_needs_one_generator_that_sees_replay(settings):
    with pytest.raises(ConfigError, match="needs one generator, trained on current"):
        learner(generator_distillation=1.0, **settings)
