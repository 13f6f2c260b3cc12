"""Membership scores of a run: their values, and their files."""

import shutil

import numpy as np
import pytest
import torch

from gr_cli.cli.compose import compose_settings
from gr_cli.errors import FolderError
from gr_cli.evaluation.membership import ScoringContext, generator_score, logit_scaled_confidence, membership_scores
from gr_cli.generators import WGANGP
from gr_cli.generators.gaussian import ClassGaussian
from gr_cli.results.membership_scores import MembershipScores, membership_files
from gr_cli.training.build import training_seed
from gr_cli.training.experiment import prepare
from helpers.interruption import StopAt, csvs, only_run

TINY = ("train.iterations=4", "log.every=2", "evaluate.generated_samples=0", "threads=1", "membership.draw=3")


def test_logit_scaled_confidence_is_the_log_odds_of_the_label():
    logits = torch.tensor([[1.0, 2.0, 0.5, 7.0]], dtype=torch.float64)
    units = torch.tensor([True, True, True, False])
    p = logits[:, :3].softmax(1)[0, 1]
    expected = torch.log(p / (1 - p))
    torch.testing.assert_close(logit_scaled_confidence(logits, torch.tensor([1]), units)[0], expected)
    alone = logit_scaled_confidence(logits, torch.tensor([1]), torch.tensor([False, True, False, False]))
    assert alone.isinf().all()


def experiment(*words):
    return prepare(compose_settings([*TINY, *words]))


def trained_on_nothing(*words):
    """A run whose networks are as they were initialised, as if it had learned two tasks."""
    run = experiment(*words)
    return run, ScoringContext(run, run.learner, 0, 1)


@pytest.mark.parametrize(
    ("generator", "kind"),
    [("vae", "negative_vae_loss"), ("cvae", "negative_vae_loss"), ("flow", "negative_flow_loss"),
     ("wgan_gp", "distance_to_generated"), ("class_vae", "estimated_log_likelihood")],
)  # fmt: skip
def test_kind_of_score_is_a_property_of_the_generator(generator, kind):
    run, context = trained_on_nothing(f"generator={generator}", "membership.candidates=3")
    if generator == "class_vae":
        run.learner.generator.mark_learned(run.task_units[:2].any(0))
    before = torch.get_rng_state()
    scored = generator_score(context)
    assert scored.kind == kind and scored.values.shape == (2 * 2 * 3,) and scored.values.isfinite().all()
    assert torch.equal(before, torch.get_rng_state()) and run.learner.generator.training
    torch.testing.assert_close(generator_score(context).values, scored.values, rtol=0, atol=0)


def test_score_of_an_exact_likelihood_is_that_of_the_label():
    run, context = trained_on_nothing("strategy=generative_classifier", "generator=gaussian", "membership.candidates=3")
    generator = run.learner.generator
    assert isinstance(generator, ClassGaussian)
    candidates = run.benchmark.tasks[0].candidates.samples
    for label in run.task_units[:2].any(0).nonzero().squeeze(1).tolist():
        generator.fit_class(torch.rand(50, *run.benchmark.spec.shape), label, torch.Generator())
    generator.mark_learned(run.task_units[:2].any(0))
    scored = generator_score(context)
    x, y = candidates.batch(torch.arange(len(candidates)))
    expected = generator.learned_log_likelihoods(x).gather(1, y.unsqueeze(1)).squeeze(1)
    assert scored.kind == "log_likelihood"
    torch.testing.assert_close(scored.values[: len(expected)], expected, rtol=1e-4, atol=1e-2)


def test_distance_is_that_to_the_nearest_generated_sample(monkeypatch):
    run, context = trained_on_nothing("generator=wgan_gp", "membership.candidates=3")
    x = run.benchmark.tasks[0].candidates.samples.batch(torch.arange(6))[0]
    monkeypatch.setattr(WGANGP, "generate", lambda *_, **__: x[:2] + 0.5)
    distances = -generator_score(context).values[:6]
    expected = (x.flatten(1).unsqueeze(1) - x[:2].flatten(1) - 0.5).square().mean(2).sqrt().amin(1)
    torch.testing.assert_close(distances, expected, rtol=1e-4, atol=1e-4)


def test_strategies_without_generator_have_scores_of_the_solver_only():
    run = experiment("strategy=er", "membership.candidates=3")
    scores = membership_scores(run, run.learner, 0, 1)
    assert list(scores.parts) == ["solver"] and scores.task.tolist() == [0] * 6 + [1] * 6
    assert scores.sample.tolist() == [*range(6)] * 2


@pytest.mark.parametrize("generator", ["rtf", "bir"])
def test_generators_that_read_features_have_scores(generator):
    _, context = trained_on_nothing(f"strategy={generator}", f"generator={generator}", "membership.candidates=2")
    assert generator_score(context).values.isfinite().all()


def test_draws_have_other_random_numbers_of_training():
    seeds = {training_seed({"seed": 0, "membership": {"draw": draw}}) for draw in (None, 0, 1)}
    assert len(seeds) == 3 and training_seed({"seed": 7, "membership": {"draw": None}}) == 7


# --- files


def contents(folder):
    return {path.name: path.read_bytes() for path in membership_files(folder).values()}


def test_a_run_with_a_draw_writes_scores_after_each_task(made):
    folder = made(*TINY, "membership.candidates=5")
    paths = membership_files(folder)
    assert list(paths) == [0, 1, 2, 3, 4]
    last = MembershipScores.load(paths[4])
    assert set(last.parts) == {"solver", "generator", "generated_samples"} and last.after_task == 4
    assert np.bincount(last.task).tolist() == [10] * 5 and np.isfinite(last.parts["solver"].values).all()
    assert 0 < last.is_member.mean() < 1


def test_a_resumed_run_writes_the_same_scores(made, gr_run, monkeypatch):
    words = (*TINY, "membership.candidates=5")
    folder = made(*words)
    expected, tables = contents(folder), csvs(folder)
    shutil.move("outputs", "uninterrupted")
    with monkeypatch.context() as patch:
        patch.setattr("gr_cli.terminal.run_display.TerminalObserver", lambda **_: StopAt(2, 1))
        assert gr_run(*words)[0] == 130
    assert list(membership_files(only_run())) == [0, 1]
    assert gr_run(*words)[0] == 0
    assert contents(only_run()) == expected and csvs(only_run()) == tables


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "membership_scores_0.npz"
    path.write_bytes(b"nothing")
    with pytest.raises(FolderError, match=r"membership_scores_0.npz: holds no membership scores"):
        MembershipScores.load(path)
