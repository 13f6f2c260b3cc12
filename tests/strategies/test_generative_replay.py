"""Generative replay: targets, weights, memory, update schedule, states."""

import copy
import itertools

import pytest
import torch

from gr_cli.errors import ConfigError
from gr_cli.generators import VAE
from gr_cli.models import SimpleMLP
from gr_cli.nn.random_streams import RandomStreams
from gr_cli.nn.replicas import Replicas
from gr_cli.optimizers import Adam
from gr_cli.scenario import Scenario
from gr_cli.strategies import GenerativeReplay
from gr_cli.strategies.context import Batch, TrainingStep
from gr_cli.strategies.replay import loss_weights
from gr_cli.training.learner import Learner
from helpers.small_runs import saved as saved_state
from helpers.small_runs import tensors

one_and_two_replicas = pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=["alone", "together"])


def learner(scenario_name="class", seeds=(0,), tasks=3, dtype=torch.float32, **settings) -> Learner:
    """A learner with one replica per seed; networks and batches depend on the seed only."""
    scenario = Scenario(scenario_name)
    heads = scenario.task_units([2] * tasks)
    small = {"memory_size": 30, "batch_size": 8} | settings
    generators, solvers = [], []
    for seed in seeds:
        torch.manual_seed(seed)
        generators.append(VAE((6,), [8], 3).to(dtype))
        solvers.append(SimpleMLP(6, [8], heads.shape[1]).to(dtype))
    strategy = GenerativeReplay(generators[0], **small)
    optimizers, draws = [Adam(lr=0.01) for _ in seeds], [RandomStreams(seed) for seed in seeds]
    precision = str(dtype).removeprefix("torch.")
    return Learner(Replicas(solvers), Replicas(generators), strategy, optimizers, scenario, heads, draws, precision)


def batches(learner: Learner, task: int, size: int = 10):
    """Real samples, recognizable because all their values are odd multiples of 1/1024."""
    generators = [torch.Generator().manual_seed(1000 * (draws.seed + 1) + task) for draws in learner.random_streams]
    offset = learner.scenario.unit_offsets([2, 2, 2])[task]
    units = learner.scenario.training_units(learner.task_units, task)
    replay_units = learner.scenario.replay_units(learner.task_units, task)
    competing_units = learner.scenario.competing_units(learner.task_units, task)
    dtype = next(learner.solver.parameters()).dtype
    while True:
        x = torch.stack([(2 * torch.randint(0, 511, (size, 6), generator=g) + 1) / 1024 for g in generators])
        y = torch.stack([torch.randint(0, 2, (size,), generator=g) + offset for g in generators])
        yield Batch(x.to(dtype), y, units, replay_units, competing_units)


def train(learner: Learner, task: int, iterations: int = 12, observe=lambda step, losses: None) -> None:
    learner.train_task(task, batches(learner, task), iterations, observe)


def states(learner: Learner):
    return [learner.state_of(replica) for replica in range(len(learner.random_streams))]


def test_loss_weights_are_a_number_or_follow_the_number_of_tasks():
    assert loss_weights(0.5, 3) == (1.0, 0.5)
    assert [loss_weights("by_tasks", t) for t in (0, 1, 3)] == [(1, 0), (0.5, 0.5), (0.25, 0.75)]
    assert [loss_weights("by_old_tasks", t) for t in (0, 1, 3)] == [(1, 0), (1, 1), (1, 3)]
    assert all(sum(loss_weights("by_tasks", t)) == pytest.approx(1) for t in range(20))


def test_first_task_trains_the_generator_without_replay():
    subject, seen = learner(), []
    before = [p.clone() for p in subject.generator.parameters()]
    train(subject, 0, observe=lambda step, losses: seen.append(set(losses)))
    assert all("replay" not in names for names in seen)
    assert any(not torch.equal(a, b) for a, b in zip(before, subject.generator.parameters(), strict=True))


@pytest.mark.parametrize(("freq", "expected"), [(1, 12), (5, 2), (7, 1), (13, 0)])
def test_generator_is_updated_every_generator_update_freq_iterations(freq, expected):
    subject, due = learner(generator_update_freq=freq), []
    train(subject, 0, observe=lambda p, losses: due.append(p.iteration + 1) if "kl" in losses else None)
    assert due == [freq * (i + 1) for i in range(expected)]


def test_training_after_the_solver_has_as_many_updates_and_does_not_change_the_solver():
    subject, solver_steps, generator_steps, states = learner(generator_training="after"), [], [], []

    def observe(step, losses):
        solver_steps.append("total" in losses)
        generator_steps.append("kl" in losses)
        states.append([p.clone() for p in subject.solver.parameters()])

    train(subject, 0, observe=observe)
    assert solver_steps == [True] * 12 + [False] * 2
    assert generator_steps == [False] * 12 + [True] * 2
    assert all(torch.equal(a, b) for a, b in zip(states[11], states[13], strict=True))


def test_total_loss_is_the_weighted_sum_of_its_terms():
    per_replica_weight = torch.tensor([0.25, 2.0])
    for replay_weight, (current, replay), seeds in (
        (0.25, (1, 0.25), (0,)),
        ("by_tasks", (1 / 2, 1 / 2), (0,)),
        ("by_tasks", (1 / 2, 1 / 2), (0, 1)),
        (per_replica_weight, (1, per_replica_weight), (0, 1)),
    ):
        subject, rows = learner(replay_weight=replay_weight, seeds=seeds), []
        train(subject, 0)
        train(subject, 1, observe=lambda p, losses, rows=rows: rows.append(losses))
        for row in rows:
            assert row["total"].shape == (len(seeds),)
            expected = current * row["current"] + replay * row["replay"]
            assert row["total"].tolist() == pytest.approx(expected.tolist(), rel=1e-5)


@one_and_two_replicas
def test_generated_samples_come_from_frozen_networks_without_gradient(seeds):
    subject = learner(seeds=seeds)
    train(subject, 0)
    solver = {name: value.clone() for name, value in subject.solvers.state_dict().items()}
    generator = {name: value.clone() for name, value in subject.generators.state_dict().items()}
    teachers = copy.deepcopy(subject.solvers.modules)
    strategy = subject.strategy

    def observe(step, losses):
        frozen = [
            p
            for replicas in (strategy.teacher, strategy.frozen_generators[0])
            for p in replicas.modules[0].parameters()
        ]
        assert all(p.grad is None and not p.requires_grad for p in frozen)
        for state, frozen_state in (
            (solver, strategy.teacher.state_dict()),
            (generator, strategy.frozen_generators[0].state_dict()),
        ):
            assert all(torch.equal(state[name], frozen_state[name]) for name in state)
        replay = strategy.replay(None, step)
        assert not replay.x.requires_grad
        for i, teacher in enumerate(teachers):
            expected = teacher(replay.x[i])[:, :2].argmax(1)  # the first task has two classes
            assert replay.target[i, :, 0].tolist() == expected.tolist()

    train(subject, 1, observe=observe)
    assert any(not torch.equal(solver[name], value) for name, value in subject.solvers.state_dict().items())


@one_and_two_replicas
def test_fresh_replay_differs_between_iterations_and_is_reproducible(seeds):
    subject, generated = learner(seeds=seeds), []
    train(subject, 0)

    def observe(step, losses):
        x = subject.strategy.replay(None, step).x
        assert x.shape == (len(seeds), 8, 6)
        generated.extend(x.clone())
        subject.strategy._generated_replay.clear()
        torch.testing.assert_close(subject.strategy.replay(None, step).x, x, rtol=0, atol=0)

    train(subject, 1, iterations=140, observe=observe)
    assert len({tuple(x.flatten().tolist()) for x in generated}) == 140 * len(seeds)


@one_and_two_replicas
def test_a_pool_is_generated_once_per_task(seeds):
    subject, pools = learner(replay_source="pool", pool_size=5, seeds=seeds), [set() for _ in seeds]
    train(subject, 0)

    def observe(step, losses):
        for rows, x in zip(pools, subject.strategy.replay(None, step).x, strict=True):
            rows.update(tuple(row) for row in x.tolist())

    train(subject, 1, observe=observe)
    assert [len(rows) for rows in pools] == [5] * len(seeds)
    assert len(set.union(*pools)) == 5 * len(seeds)


@pytest.mark.parametrize(
    ("setting", "temperatures"), [(2.0, [2.0]), (torch.tensor([2.0, 0.5]), [2.0, 0.5])], ids=["alone", "together"]
)
def test_soft_targets_are_probabilities_over_earlier_classes(setting, temperatures):
    subject = learner(targets="soft", temperature=setting, seeds=range(len(temperatures)))
    train(subject, 0)
    teachers = copy.deepcopy(subject.solvers.modules)

    def observe(step, losses):
        replay = subject.strategy.replay(None, step)
        assert replay.target.shape == (len(temperatures), 8, 1, 6)
        torch.testing.assert_close(replay.target.sum(-1), torch.ones(len(temperatures), 8, 1))
        assert (replay.target[..., 2:] == 0).all()
        assert losses["replay"].isfinite().all()
        for i, (teacher, temperature) in enumerate(zip(teachers, temperatures, strict=True)):
            expected = (teacher(replay.x[i])[:, :2] / temperature).softmax(1)
            torch.testing.assert_close(replay.target[i, :, 0, :2], expected.detach())

    train(subject, 1, observe=observe)


@one_and_two_replicas
def test_task_incremental_replay_has_a_target_for_each_earlier_head(seeds):
    subject = learner("task", seeds=seeds)
    train(subject, 0)
    train(subject, 1)
    teachers = copy.deepcopy(subject.solvers.modules)

    def observe(step, losses):
        replay = subject.strategy.replay(None, step)
        assert replay.target.shape == (len(seeds), 8, 2)
        for x, target, teacher in zip(replay.x, replay.target, teachers, strict=True):
            logits = teacher(x)
            assert target[:, 0].tolist() == logits[:, :2].argmax(1).tolist()
            assert target[:, 1].tolist() == (logits[:, 2:4].argmax(1) + 2).tolist()

    train(subject, 2, observe=observe)


@one_and_two_replicas
def test_replay_loss_matches_hand_computation(seeds):
    """Two heads, hard targets: the mean over samples and heads of -log p(target) within the head."""
    subject = learner("task", seeds=seeds)
    train(subject, 0)
    train(subject, 1)
    subject.strategy.begin_task(subject._task_context(2, None))
    batch, step = next(batches(subject, 2)), TrainingStep(2, 0, 10)
    replay = subject.strategy.replay(None, step)
    with torch.no_grad():
        terms = subject.strategy.loss(lambda x: subject.solvers.call("forward", x), batch, step)
        assert terms["replay"].value.shape == (len(seeds),)
        for solver, x, target, value in zip(
            subject.solvers.modules, replay.x, replay.target, terms["replay"].value, strict=True
        ):
            logits = solver(x)
            total = 0.0
            for i in range(8):
                for head in range(2):
                    row = logits[i, 2 * head : 2 * head + 2].double()
                    total -= (row - row.logsumexp(0))[target[i, head] - 2 * head].item()
            assert value.item() == pytest.approx(total / 16, rel=1e-5)


@one_and_two_replicas
def test_task_balanced_memory_is_divided_evenly_between_tasks(seeds):
    subject = learner(memory_size=30, seeds=seeds)
    train(subject, 0)
    train(subject, 1)
    subject.strategy.begin_task(subject._task_context(2, None))
    memory = subject.strategy.memory
    assert memory.num_reserved == 20
    for teacher, x, num_valid in zip(
        subject.solvers.modules, memory.x, memory.num_valid_reserved.tolist(), strict=True
    ):
        labels = teacher(x[:num_valid])[:, :4].argmax(1)
        per_task = torch.bincount(labels // 2, minlength=2)
        assert (per_task <= 10).all()
    for step, batch in zip(range(5), batches(subject, 2), strict=False):
        subject.strategy.after_step(batch, TrainingStep(2, step, 10))
    assert memory.num_filled == 10
    # After the reserved slots there are real samples of this task only.
    odd = (memory.x[:, 20:30] * 1024).round() % 2
    assert (odd == 1).all()
    torch.testing.assert_close((memory.x[:, 20:30] * 1024).round() / 1024, memory.x[:, 20:30], rtol=0, atol=0)
    seen = torch.cat([batch.x for _, batch in zip(range(5), batches(subject, 2), strict=False)], 1)
    for stored, candidates in zip(memory.x[:, 20:30].tolist(), seen.tolist(), strict=True):
        assert all(row in candidates for row in stored)


def test_reserved_slots_of_rarely_generated_classes_stay_empty():
    # With an odd number of slots the tasks have different quotas.
    for size, num_reserved, num_valid in ((40, 26, [13]), (41, 27, [14, 13])):
        subject = learner(memory_size=size, seeds=range(len(num_valid)))
        train(subject, 0)
        train(subject, 1)
        with torch.no_grad():
            for task, solver in enumerate(subject.solvers.modules):
                solver.output.bias[2 * task : 2 * task + 2] = 50.0  # predicts a class of this task for every sample
        subject.strategy.begin_task(subject._task_context(2, None))
        memory = subject.strategy.memory
        assert memory.num_reserved == num_reserved
        assert memory.num_valid_reserved.tolist() == num_valid


@one_and_two_replicas
def test_unbalanced_memory_is_one_reservoir_of_all_samples(seeds):
    subject = learner(task_balanced=False, memory_size=30, seeds=seeds)
    train(subject, 0)
    subject.strategy.begin_task(subject._task_context(1, None))
    memory = subject.strategy.memory
    assert (memory.num_reserved, memory.num_seen) == (0, 30)
    for i, batch in zip(range(20), batches(subject, 1), strict=False):
        subject.strategy.after_step(batch, TrainingStep(1, i, 20))
    assert memory.num_seen == 30 + 20 * (10 + 8)
    real = ((memory.x[:, :30] * 1024).round() / 1024 == memory.x[:, :30]).all(2).sum(1)
    assert all(5 <= count <= 25 for count in real.tolist())


@one_and_two_replicas
def test_no_raw_sample_outlives_its_task(seeds):
    for settings in (
        {},
        {"task_balanced": False},
        {"generator_data": "current_and_replay"},
        {"generator_training": "after"},
    ):
        subject = learner(**settings, seeds=seeds)
        for task in range(3):
            raw = []
            stream = batches(subject, task)
            recorded = (raw.append(batch.x) or batch for batch in stream)
            counts = []

            def observe(step, losses, raw=raw, counts=counts, subject=subject):
                counts.append(count_raw(states(subject), torch.cat(raw)))

            subject.train_task(task, recorded, 12, observe)
            if "generator_data" not in settings:
                assert max(counts) > 0  # count_raw finds samples during the task
            assert count_raw(states(subject), torch.cat(raw)) == 0
            assert subject.strategy.memory is None


def count_raw(state, raw: torch.Tensor) -> int:
    raw_rows = {tuple(row) for row in raw.reshape(-1, 6).tolist()}
    count = 0
    for tensor in tensors(state):
        if tensor.is_floating_point() and tensor.shape[-1:] == (6,):
            count += sum(tuple(row) in raw_rows for row in tensor.reshape(-1, 6).tolist())
    return count


def test_generator_batch_has_the_weights_of_the_solver_losses():
    settings = {"generator_data": "current_and_replay", "generator_update_freq": 1}
    for replay_weight, current in (("by_tasks", [1 / 3]), (torch.tensor([0.25, 2.0]), [1 / 1.25, 1 / 3])):
        subject = learner(replay_weight=replay_weight, seeds=range(len(current)), **settings)
        train(subject, 0)
        train(subject, 1)
        subject.strategy.begin_task(subject._task_context(2, None))
        generator_batch = subject.strategy.generator_batch(next(batches(subject, 2)), TrainingStep(2, 0, 10))
        assert generator_batch.x.shape == (len(current), 18, 6)
        assert generator_batch.weights.sum(1).tolist() == pytest.approx([1] * len(current))
        assert generator_batch.weights[:, :10].sum(1).tolist() == pytest.approx(current)


@one_and_two_replicas
def test_training_resumes_exactly_from_a_state(seeds):
    for settings in ({}, {"task_balanced": False}, {"replay_source": "pool"}, {"targets": "soft"}):
        uninterrupted, first = learner(**settings, seeds=seeds), learner(**settings, seeds=seeds)
        for task in range(2):
            train(uninterrupted, task)
        train(first, 0)
        saved = []

        def save(step, losses, saved=saved, first=first):
            if step.iteration == 6:
                saved.extend(saved_state(first))

        train(first, 1, observe=save)
        second = learner(**settings, seeds=seeds)
        second.load_states(saved, task=1)
        rest = itertools.islice(batches(second, 1), 7, None)
        second.train_task(1, rest, 12, lambda step, losses: None, first_iteration=7)
        for a, b in zip(tensors(states(uninterrupted)), tensors(states(second)), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"task_balanced": False},
        {"replay_source": "pool"},
        {"targets": "soft"},
        {"generator_data": "current_and_replay"},
        {"generator_training": "after"},
    ],
    ids=str,
)
def test_two_replicas_match_single_runs(settings):
    def history(*seeds):
        subject, saved_states = learner(seeds=seeds, dtype=torch.float64, **settings), []

        def observe(step, losses):
            # Within a task the state includes a memory and frozen copies.
            if step.iteration in (4, 11):
                saved_states.append(copy.deepcopy(states(subject)))

        for task in range(3):
            train(subject, task, observe=observe)
        return saved_states

    grouped = history(0, 1)
    for replica in range(2):
        for group_state, (single_state,) in zip(grouped, history(replica), strict=True):
            for a, b in zip(tensors(group_state[replica]), tensors(single_state), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_a_memory_without_capacity_is_refused():
    with pytest.raises(ConfigError, match=r"strategy\.memory_size=0"):
        GenerativeReplay(VAE((6,)), memory_size=0)
    GenerativeReplay(VAE((6,)), memory_size=0, generator_data="current_and_replay")
