"""Experience replay, A-GEM and dark experience replay: stored samples, losses, states."""

from itertools import islice

import pytest
import torch

from gr_cli.nn.losses import cross_entropy
from gr_cli.nn.random_streams import NoiseSpec
from gr_cli.strategies import DarkExperienceReplay, ExperienceReplay, exemplar_buffer
from gr_cli.strategies.context import TrainingStep
from gr_cli.strategies.exemplar_buffer import ClassSamples, ExemplarBuffer, ExemplarDraws
from helpers.small_runs import (
    ITERATIONS,
    TASKS,
    assert_replicas_match_single_runs,
    assert_resumes_from_state,
    batches,
    begin,
    data,
    learner_of,
    passes,
    train,
)

every_scenario = pytest.mark.parametrize("scenario_name", ["class", "domain", "task"])
one_and_two_replicas = pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=["alone", "together"])


def samples_of(learner, replica, tasks):
    """The label of each sample of a replica's first tasks."""
    task_data = [data(learner, task, replica) for task in range(tasks)]
    return {tuple(x.tolist()): int(y) for xs, ys in task_data for x, y in zip(xs, ys, strict=True)}


def units_of(replay, batch):
    """The units that compete on each replayed sample, (R, N, 1, U)."""
    units = batch.replay_units if replay.active_units is None else replay.active_units
    return units.expand(*replay.target.shape, -1)


@every_scenario
@one_and_two_replicas
def test_per_class_samples_of_each_class_of_each_task_are_stored(scenario_name, seeds):
    learner = learner_of(ExperienceReplay(per_class=5), scenario_name, seeds)
    for task in range(TASKS):
        train(learner, task)
    buffer = learner.strategy.exemplars
    assert buffer.x.shape == (len(seeds), 2 * TASKS, 5, 6) and (buffer.size == 5).all()
    offsets = learner.scenario.unit_offsets([2] * TASKS)
    assert buffer.label.tolist() == [[offset + i for offset in offsets for i in range(2)]] * len(seeds)
    for replica in range(len(seeds)):
        label_of = samples_of(learner, replica, TASKS)
        stored = [(unit, tuple(row.tolist())) for unit, x in buffer.classes_of(replica) for row in x]
        assert len(set(stored)) == 5 * 2 * TASKS
        assert all(label_of[row] == unit for unit, row in stored)


def test_small_classes_store_fewer_samples_and_sampling_is_uniform_over_samples():
    learner = learner_of(ExperienceReplay())
    x = torch.arange(7, dtype=torch.float64).unsqueeze(1)
    context = learner._task_context(0, lambda replica: [(x, torch.tensor([0, 0, 0, 0, 0, 1, 1]))])
    buffer = ExemplarBuffer.from_task(
        context, 4, lambda replica: lambda samples, max_samples: samples.read()[:max_samples]
    )
    assert buffer.size.tolist() == [[4, 2]]
    drawn, labels = buffer.sample(torch.linspace(0, 1 - 1e-9, 6000, dtype=torch.float64).unsqueeze(0))
    values, counts = drawn[0, :, 0].unique(return_counts=True)
    assert values.tolist() == [0, 1, 2, 3, 5, 6]
    assert counts.tolist() == pytest.approx([1000] * 6, abs=2)
    assert torch.equal(labels, (drawn[..., 0] > 4).long())


@one_and_two_replicas
def test_samples_gathered_for_many_iterations_are_those_of_each(seeds, monkeypatch):
    monkeypatch.setattr(exemplar_buffer, "_MAX_GATHERED_VALUES", 3 * 4 * 6 * len(seeds))  # three iterations
    learner = learner_of(ExperienceReplay(per_class=5), "class", seeds)
    train(learner, 0)
    buffer, noise = learner.strategy.exemplars, NoiseSpec("uniform", (4,))
    draws = ExemplarDraws(learner.streams, "replay.choice")
    for iteration in (0, 1, 2, 5, 4, 62, 63, 64, 200, 3):
        uniform = learner.streams.values_at(noise, "replay.choice", 1, iteration)
        for drawn, expected in zip(
            draws.at_step(buffer, 4, TrainingStep(1, iteration, 300)), buffer.sample(uniform), strict=True
        ):
            assert torch.equal(drawn, expected)


def test_samples_of_a_class_are_read_in_batches_of_which_only_those_asked_for_are_kept():
    learner = learner_of(ExperienceReplay())
    x, y = torch.arange(20, dtype=torch.float64).unsqueeze(1), torch.arange(20) % 3
    held: list[int] = []

    def batches_of_seven(replica):
        for part in torch.arange(20).split(7):
            held.append(len(part))
            yield x[part], y[part]

    samples = ClassSamples(learner._task_context(0, batches_of_seven), 0, 1, 7)
    assert samples.read().flatten().tolist() == [1, 4, 7, 10, 13, 16, 19]
    assert samples.at(torch.tensor([6, 0, 3, 2])).flatten().tolist() == [19, 1, 10, 7]
    assert samples.at(torch.tensor([9, 5])).flatten().tolist() == [16]  # this pass has no tenth sample
    assert held == 3 * [7, 7, 6]


@every_scenario
@one_and_two_replicas
def test_replayed_samples_have_their_labels_and_competing_units(scenario_name, seeds):
    learner = learner_of(ExperienceReplay(per_class=5, batch_size=9), scenario_name, seeds)
    train(learner, 0)
    train(learner, 1)
    learner.begin_task(2, passes(learner, 2))
    batch, batches_of_iterations = next(batches(learner, 2)), []
    for iteration in range(4):
        replay = learner.strategy.replay(batch, TrainingStep(2, iteration, ITERATIONS))
        repeated = learner.strategy.replay(batch, TrainingStep(2, iteration, ITERATIONS))
        assert torch.equal(replay.x, repeated.x) and replay.x.shape == (len(seeds), 9, 6)
        all_units = units_of(replay, batch)
        for replica, (xs, targets, units) in enumerate(zip(replay.x, replay.target, all_units, strict=True)):
            label_of = samples_of(learner, replica, 2)
            for x, target, competing in zip(xs, targets, units, strict=True):
                assert label_of[tuple(x.tolist())] == target.item()
                unit, active = target.item(), competing[0].nonzero().squeeze(1).tolist()
                own_units = [unit // 2 * 2, unit // 2 * 2 + 1]
                assert active == {"class": list(range(6)), "domain": [0, 1], "task": own_units}[scenario_name]
        batches_of_iterations.append(replay.x)
    assert not torch.equal(batches_of_iterations[0], batches_of_iterations[1])


@every_scenario
@one_and_two_replicas
def test_replay_loss_matches_hand_computation(scenario_name, seeds):
    learner = learner_of(ExperienceReplay(per_class=5), scenario_name, seeds)
    train(learner, 0)
    train(learner, 1)
    learner.begin_task(2, passes(learner, 2))
    batch, position = next(batches(learner, 2)), TrainingStep(2, 3, ITERATIONS)
    replay = learner.strategy.replay(batch, position)
    assert replay.x.shape == batch.x.shape  # as many as current ones
    terms = learner.strategy.loss(lambda x: learner.solvers.call("__call__", x), batch, position)
    assert (terms["current"].weight, terms["replay"].weight) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    for r, solver in enumerate(learner.solvers.modules):
        losses = []
        all_units = units_of(replay, batch)[r, :, 0]
        for x, target, units in zip(replay.x[r], replay.target[r, :, 0], all_units, strict=True):
            logits = solver(x.unsqueeze(0))[0]
            losses.append(-(logits[target].exp() / logits[units].exp().sum()).log())
        torch.testing.assert_close(terms["replay"].value[r], torch.stack(losses).mean())
        expected = cross_entropy(solver(batch.x[r]), batch.y[r], batch.active_units).mean()
        torch.testing.assert_close(terms["current"].value[r], expected)


@one_and_two_replicas
def test_a_gem_projects_conflicting_gradients(seeds, monkeypatch):
    learner = learner_of(ExperienceReplay(per_class=5, use="constraint"), "class", seeds)
    train(learner, 0)
    learner.begin_task(1, passes(learner, 1))
    descent, applied = learner.functional_optimizers["solver"], []
    step = descent.step
    monkeypatch.setattr(descent, "step", lambda gradients, rate: (applied.append(gradients), step(gradients, rate)))
    num_projected = 0
    for i, batch in enumerate(islice(batches(learner, 1), ITERATIONS)):
        position = TrainingStep(1, i, ITERATIONS)
        terms = learner.strategy.loss(lambda x: learner.solvers.call("__call__", x), batch, position)
        assert terms["replay"].is_constraint and terms["current"].weight == 1

        def flat(gradients):
            return torch.cat([g.reshape(len(learner.random_streams), -1) for g in gradients], 1)

        current, reference_gradients = (
            flat(torch.autograd.grad(terms[name].value.sum(), descent.parameters, retain_graph=True))
            for name in ("current", "replay")
        )
        losses = learner.step(batch, position)
        torch.testing.assert_close(losses["total"], losses["current"])
        for g, reference, projected in zip(current, reference_gradients, flat(applied[-1]), strict=True):
            if g @ reference >= 0:
                torch.testing.assert_close(projected, g)
            else:
                num_projected += 1
                torch.testing.assert_close(projected, g - (g @ reference) / (reference @ reference) * reference)
            assert projected @ reference >= -1e-9 * projected.norm() * reference.norm()
    assert num_projected > 0


def test_no_replay_in_the_first_task():
    for strategy in (ExperienceReplay(), ExperienceReplay(use="constraint")):
        learner, names_of_terms = learner_of(strategy), []
        train(learner, 0, lambda position, losses, names_of_terms=names_of_terms: names_of_terms.append(set(losses)))
        assert all(names == {"current", "total"} for names in names_of_terms)


@one_and_two_replicas
def test_dark_experience_loss_terms_match_hand_computation(seeds):
    learner = learner_of(DarkExperienceReplay(memory_size=20, batch_size=4, alpha=0.3, beta=0.7), "task", seeds)
    train(learner, 0)
    begin(learner, 1, 5)
    strategy, position = learner.strategy, TrainingStep(1, 5, ITERATIONS)
    buffer, batch = strategy.buffer, next(batches(learner, 1, 5))
    shape_source = learner.streams.draw("uniform", "any", shape=(8,))  # only its shape counts
    terms = strategy.loss(lambda x: learner.solvers.call("__call__", x), batch, position)
    assert (terms["current"].weight, terms["logits"].weight, terms["replay"].weight) == (1.0, 0.3, 0.7)
    from gr_cli.nn.random_streams import NoiseSpec

    uniform = learner.streams.values_at(NoiseSpec("uniform", shape_source.shape[1:]), "replay.choice", 1, 5)
    rows = buffer.sample_rows(uniform)
    assert not torch.equal(rows[:, :4], rows[:, 4:])
    x, y, logits = buffer.get(rows), buffer.get_extra("y", rows), buffer.get_extra("logits", rows)
    for r, solver in enumerate(learner.solvers.modules):
        distance = (solver(x[r, :4]) - logits[r, :4]).square().mean()
        torch.testing.assert_close(terms["logits"].value[r], distance)
        label_loss = cross_entropy(solver(x[r, 4:]), y[r, 4:], batch.competing_units[y[r, 4:]]).mean()
        torch.testing.assert_close(terms["replay"].value[r], label_loss)
        current = cross_entropy(solver(batch.x[r]), batch.y[r], batch.active_units).mean()
        torch.testing.assert_close(terms["current"].value[r], current)


@one_and_two_replicas
def test_samples_are_stored_with_the_logits_of_their_step(seeds):
    learner = learner_of(DarkExperienceReplay(memory_size=1000), "class", seeds)
    logits, seen = [], []
    for task in range(2):
        learner.begin_task(task, passes(learner, task))
        for i, batch in enumerate(islice(batches(learner, task), 7)):
            logits.append(learner.solvers.call("__call__", batch.x).detach())
            seen.append(batch)
            learner.step(batch, TrainingStep(task, i, ITERATIONS))
        learner.end_task(task, passes(learner, task))
    buffer = learner.strategy.buffer
    assert buffer.num_seen == buffer.num_filled == 140
    torch.testing.assert_close(buffer.extras["logits"][:, :140], torch.cat(logits, 1))
    assert torch.equal(buffer.extras["y"][:, :140], torch.cat([batch.y for batch in seen], 1))
    assert torch.equal(buffer.x[:, :140], torch.cat([batch.x for batch in seen], 1))


def test_dark_experience_replays_within_the_first_task():
    learner, names_of_terms = learner_of(DarkExperienceReplay(memory_size=20)), []
    train(learner, 0, lambda position, losses: names_of_terms.append(set(losses)))
    assert names_of_terms[0] == {"current", "total"}
    assert all(names == {"current", "logits", "replay", "total"} for names in names_of_terms[1:])
    train(learner, 1)
    assert learner.strategy.buffer.num_seen == 2 * 10 * ITERATIONS
    labels = learner.strategy.buffer.extras["y"][0, :20]
    assert (labels < 2).any() and (labels >= 2).any()


@every_scenario
@pytest.mark.parametrize("use", ["loss", "constraint"])
def test_replicas_match_single_runs(scenario_name, use):
    assert_replicas_match_single_runs(
        lambda weight: ExperienceReplay(per_class=5, replay_weight=weight, use=use), scenario_name, [0.5, 2.0]
    )


@every_scenario
def test_dark_experience_replicas_match_single_runs(scenario_name):
    assert_replicas_match_single_runs(
        lambda alpha: DarkExperienceReplay(memory_size=30, alpha=alpha), scenario_name, [0.5, 2.0]
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: ExperienceReplay(per_class=5),
        lambda: ExperienceReplay(per_class=5, use="constraint", batch_size=3),
        lambda: DarkExperienceReplay(memory_size=30),
    ],
    ids=["er", "a_gem", "er_plus"],
)
def test_training_resumes_from_a_state(make):
    assert_resumes_from_state(make, "task")


@pytest.mark.parametrize("strategy", ["er", "a_gem", "er_plus"])
def test_status_says_that_raw_samples_are_stored(gr_run, strategy):
    import json
    from pathlib import Path

    assert gr_run(f"strategy={strategy}", "train.iterations=3")[0] == 0
    (path,) = Path("outputs").glob("*/*/*/status.json")
    assert json.loads(path.read_text())["stores_raw_samples"] is True
