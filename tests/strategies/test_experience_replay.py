"""Strategies that keep samples: what they keep, and what they make of it."""

from itertools import islice

import pytest
import torch

from gr_cli.nn.losses import cross_entropy
from gr_cli.strategies import DarkExperienceReplay, ExperienceReplay
from gr_cli.strategies.context import TrainingStep
from gr_cli.strategies.exemplar_buffer import ExemplarBuffer
from helpers.small_runs import (
    ITERATIONS,
    TASKS,
    assert_each_learns_what_it_learns_alone,
    assert_goes_on_from_its_state,
    batches,
    begin,
    data,
    learner_of,
    passes,
    train,
)

every_scenario = pytest.mark.parametrize("kind", ["class", "domain", "task"])
alone_and_together = pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=["alone", "together"])


def samples_of(learner, replica, tasks):
    """What was seen of a replica's tasks: label by sample."""
    whole = [data(learner, task, replica) for task in range(tasks)]
    return {tuple(x.tolist()): int(y) for xs, ys in whole for x, y in zip(xs, ys, strict=True)}


@every_scenario
@alone_and_together
def test_of_each_class_of_each_task_as_many_are_kept(kind, seeds):
    learner = learner_of(ExperienceReplay(per_class=5), kind, seeds)
    for task in range(TASKS):
        train(learner, task)
    kept = learner.strategy.exemplars
    assert kept.x.shape == (len(seeds), 2 * TASKS, 5, 6) and (kept.size == 5).all()
    offsets = learner.scenario.unit_offsets([2] * TASKS)
    assert kept.label.tolist() == [[offset + i for offset in offsets for i in range(2)]] * len(seeds)
    for replica in range(len(seeds)):
        seen = samples_of(learner, replica, TASKS)
        rows = [(unit, tuple(row.tolist())) for unit, x in kept.classes_of(replica) for row in x]
        assert len(set(rows)) == 5 * 2 * TASKS
        assert all(seen[row] == unit for unit, row in rows)


def test_a_class_with_too_few_falls_short_and_is_drawn_as_often_as_it_has_samples():
    learner = learner_of(ExperienceReplay())
    x = torch.arange(7, dtype=torch.float64).unsqueeze(1)
    situation = learner._task_context(0, lambda replica: [(x, torch.tensor([0, 0, 0, 0, 0, 1, 1]))])
    kept = ExemplarBuffer.from_task(situation, 4, lambda replica: lambda x, most: torch.arange(len(x))[:most])
    assert kept.size.tolist() == [[4, 2]]
    drawn, labels = kept.sample(torch.linspace(0, 1 - 1e-9, 6000, dtype=torch.float64).unsqueeze(0))
    values, counts = drawn[0, :, 0].unique(return_counts=True)
    assert values.tolist() == [0, 1, 2, 3, 5, 6]
    assert counts.tolist() == pytest.approx([1000] * 6, abs=2)
    assert torch.equal(labels, (drawn[..., 0] > 4).long())


@every_scenario
@alone_and_together
def test_what_is_replayed_has_its_label_and_the_units_of_its_task(kind, seeds):
    learner = learner_of(ExperienceReplay(per_class=5, batch_size=9), kind, seeds)
    train(learner, 0)
    train(learner, 1)
    learner.begin_task(2, passes(learner, 2))
    batch, seen = next(batches(learner, 2)), []
    for iteration in range(4):
        replay = learner.strategy.replay(batch, TrainingStep(2, iteration, ITERATIONS))
        again = learner.strategy.replay(batch, TrainingStep(2, iteration, ITERATIONS))
        assert torch.equal(replay.x, again.x) and replay.x.shape == (len(seeds), 9, 6)
        for replica, (xs, targets, units) in enumerate(zip(replay.x, replay.target, replay.active_units, strict=True)):
            known = samples_of(learner, replica, 2)
            for x, target, competing in zip(xs, targets, units, strict=True):
                assert known[tuple(x.tolist())] == target.item()
                unit, among = target.item(), competing[0].nonzero().squeeze(1).tolist()
                own = [unit // 2 * 2, unit // 2 * 2 + 1]
                assert among == {"class": list(range(6)), "domain": [0, 1], "task": own}[kind]
        seen.append(replay.x)
    assert not torch.equal(seen[0], seen[1])


@every_scenario
@alone_and_together
def test_the_loss_of_replay_by_hand(kind, seeds):
    learner = learner_of(ExperienceReplay(per_class=5), kind, seeds)
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
        for x, target, units in zip(replay.x[r], replay.target[r, :, 0], replay.active_units[r, :, 0], strict=True):
            logits = solver(x.unsqueeze(0))[0]
            losses.append(-(logits[target].exp() / logits[units].exp().sum()).log())
        torch.testing.assert_close(terms["replay"].value[r], torch.stack(losses).mean())
        expected = cross_entropy(solver(batch.x[r]), batch.y[r], batch.active_units).mean()
        torch.testing.assert_close(terms["current"].value[r], expected)


@alone_and_together
def test_as_a_constraint_no_step_lets_the_kept_samples_loss_rise(seeds, monkeypatch):
    learner = learner_of(ExperienceReplay(per_class=5, use="constraint"), "class", seeds)
    train(learner, 0)
    learner.begin_task(1, passes(learner, 1))
    descent, taken = learner.functional_optimizers["solver"], []
    step = descent.step
    monkeypatch.setattr(descent, "step", lambda gradients, rate: (taken.append(gradients), step(gradients, rate)))
    turned = 0
    for i, batch in enumerate(islice(batches(learner, 1), ITERATIONS)):
        position = TrainingStep(1, i, ITERATIONS)
        terms = learner.strategy.loss(lambda x: learner.solvers.call("__call__", x), batch, position)
        assert terms["replay"].is_constraint and terms["current"].weight == 1

        def flat(gradients):
            return torch.cat([g.reshape(len(learner.random_streams), -1) for g in gradients], 1)

        own, kept = (
            flat(torch.autograd.grad(terms[name].value.sum(), descent.parameters, retain_graph=True))
            for name in ("current", "replay")
        )
        losses = learner.step(batch, position)
        torch.testing.assert_close(losses["total"], losses["current"])
        for g, reference, found in zip(own, kept, flat(taken[-1]), strict=True):
            if g @ reference >= 0:
                torch.testing.assert_close(found, g)
            else:
                turned += 1
                torch.testing.assert_close(found, g - (g @ reference) / (reference @ reference) * reference)
            assert found @ reference >= -1e-9 * found.norm() * reference.norm()
    assert turned > 0


def test_the_first_task_replays_nothing():
    for strategy in (ExperienceReplay(), ExperienceReplay(use="constraint")):
        learner, seen = learner_of(strategy), []
        train(learner, 0, lambda position, losses, seen=seen: seen.append(set(losses)))
        assert all(names == {"current", "total"} for names in seen)


@alone_and_together
def test_the_terms_of_dark_experience_by_hand(seeds):
    learner = learner_of(DarkExperienceReplay(memory_size=20, batch_size=4, alpha=0.3, beta=0.7), "task", seeds)
    train(learner, 0)
    begin(learner, 1, 5)
    strategy, position = learner.strategy, TrainingStep(1, 5, ITERATIONS)
    memory, batch = strategy.buffer, next(batches(learner, 1, 5))
    wanted = learner.streams.draw("uniform", "any", shape=(8,))  # only its shape counts
    terms = strategy.loss(lambda x: learner.solvers.call("__call__", x), batch, position)
    assert (terms["current"].weight, terms["logits"].weight, terms["replay"].weight) == (1.0, 0.3, 0.7)
    from gr_cli.nn.random_streams import NoiseSpec

    uniform = learner.streams.values_at(NoiseSpec("uniform", wanted.shape[1:]), "replay.choice", 1, 5)
    rows = memory.sample_rows(uniform)
    assert not torch.equal(rows[:, :4], rows[:, 4:])
    x, y, logits = memory.get(rows), memory.get_extra("y", rows), memory.get_extra("logits", rows)
    for r, solver in enumerate(learner.solvers.modules):
        distance = (solver(x[r, :4]) - logits[r, :4]).square().mean()
        torch.testing.assert_close(terms["logits"].value[r], distance)
        again = cross_entropy(solver(x[r, 4:]), y[r, 4:], batch.competing_units[y[r, 4:]]).mean()
        torch.testing.assert_close(terms["replay"].value[r], again)
        current = cross_entropy(solver(batch.x[r]), batch.y[r], batch.active_units).mean()
        torch.testing.assert_close(terms["current"].value[r], current)


@alone_and_together
def test_logits_are_kept_as_they_were_when_the_sample_passed(seeds):
    learner = learner_of(DarkExperienceReplay(memory_size=1000), "class", seeds)
    said, passed = [], []
    for task in range(2):
        learner.begin_task(task, passes(learner, task))
        for i, batch in enumerate(islice(batches(learner, task), 7)):
            said.append(learner.solvers.call("__call__", batch.x).detach())
            passed.append(batch)
            learner.step(batch, TrainingStep(task, i, ITERATIONS))
        learner.end_task(task, passes(learner, task))
    memory = learner.strategy.buffer
    assert memory.num_seen == memory.num_filled == 140
    torch.testing.assert_close(memory.extras["logits"][:, :140], torch.cat(said, 1))
    assert torch.equal(memory.extras["y"][:, :140], torch.cat([batch.y for batch in passed], 1))
    assert torch.equal(memory.x[:, :140], torch.cat([batch.x for batch in passed], 1))


def test_dark_experience_is_replayed_within_the_first_task_too():
    learner, seen = learner_of(DarkExperienceReplay(memory_size=20)), []
    train(learner, 0, lambda position, losses: seen.append(set(losses)))
    assert seen[0] == {"current", "total"}
    assert all(names == {"current", "logits", "replay", "total"} for names in seen[1:])
    train(learner, 1)
    assert learner.strategy.buffer.num_seen == 2 * 10 * ITERATIONS
    labels = learner.strategy.buffer.extras["y"][0, :20]
    assert (labels < 2).any() and (labels >= 2).any()


@every_scenario
@pytest.mark.parametrize("use", ["loss", "constraint"])
def test_each_replica_learns_what_it_learns_alone(kind, use):
    assert_each_learns_what_it_learns_alone(
        lambda weight: ExperienceReplay(per_class=5, replay_weight=weight, use=use), kind, [0.5, 2.0]
    )


@every_scenario
def test_each_replica_learns_from_dark_experience_what_it_learns_alone(kind):
    assert_each_learns_what_it_learns_alone(
        lambda alpha: DarkExperienceReplay(memory_size=30, alpha=alpha), kind, [0.5, 2.0]
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
def test_a_run_goes_on_from_its_state(make):
    assert_goes_on_from_its_state(make, "task")


@pytest.mark.parametrize("strategy", ["er", "a_gem", "er_plus"])
def test_it_is_told_that_samples_are_kept(gr_run, strategy):
    import json
    from pathlib import Path

    assert gr_run(f"strategy={strategy}", "train.iterations=3")[0] == 0
    (path,) = Path("outputs").glob("*/*/*/status.json")
    assert json.loads(path.read_text())["stores_raw_samples"] is True
