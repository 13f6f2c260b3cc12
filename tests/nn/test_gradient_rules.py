"""Gradient rules: per-sample gradients, noise, metrics and state."""

import pytest
import torch

from gr_cli.cli.compose import compose_settings
from gr_cli.errors import ConfigError
from gr_cli.nn.gradient_rules import GradientRule
from gr_cli.nn.random_streams import NoiseSpec
from gr_cli.strategies.context import TrainingStep
from gr_cli.training.batches import batches, sample_passes
from gr_cli.training.experiment import prepare
from gr_cli.training.stacking import stack_learners

SMALL = ["train.batch_size=8", "model.hidden_sizes=[16]", "generator.hidden_dims=[16]", "threads=1"]
SMALL += ["precision=float64"]
EVERY_STEP = "strategy.generator_update_freq=1"


class PerSample(GradientRule):
    """Sums per-sample gradients, with noise of strength 0: the parts of differentially private SGD."""

    def __init__(self):
        self.steps = torch.zeros(3, dtype=torch.long)

    def gradients(self, loss, parameters, step):
        values = loss.per_sample()  # (R, B)
        assert len(values) == 3 and values.dim() == 2
        rest = loss.total - values.sum(1)
        parts = [*values.unbind(1), rest]
        gradients = [
            torch.autograd.grad(part.sum(), parameters, retain_graph=True, allow_unused=True) for part in parts
        ]
        noise = step.noise({str(i): NoiseSpec("normal", p.shape[1:]) for i, p in enumerate(parameters)})
        assert not torch.equal(*noise["0"][:2])  # each replica draws its own
        self.steps = self.steps + 1
        return [
            sum((g for g in parts if g is not None), 0.0 * noise[str(i)])
            for i, parts in enumerate(zip(*gradients, strict=True))
        ]

    def metrics(self):
        return {"steps": self.steps.double()}

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def run_steps(learner, experiments, task=0, steps=3):
    learner.begin_task(task, sample_passes(experiments, task))
    stream = batches(experiments, task, 0)
    return [learner.step(next(stream), TrainingStep(task, i, 6)) for i in range(steps)]


def three_replicas(*overrides):
    experiments = [prepare(compose_settings([*SMALL, *overrides, f"seed={seed}"])) for seed in range(3)]
    return stack_learners(experiments), experiments


class GradientPenalty(GradientRule):
    """Adds the squared norm of the gradient to the loss."""

    differentiates_twice = True

    def gradients(self, loss, parameters, step):
        plain = torch.autograd.grad(loss.total.sum(), parameters, create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in plain), parameters))


class UnannouncedPenalty(GradientPenalty):
    differentiates_twice = False


@pytest.mark.parametrize("overrides", [["strategy=finetune"], ["strategy=lwf"], [EVERY_STEP]])
def test_a_rule_can_differentiate_twice_if_it_says_so(overrides):
    learner, experiments = three_replicas(*overrides)
    for rules in (learner.gradient_rules, getattr(learner._generator_update, "gradient_rules", {})):
        rules.update({name: GradientPenalty() for name in rules})
    first, *_, last = [losses for task in range(2) for losses in run_steps(learner, experiments, task)]
    assert first["total"].isfinite().all() and last["total"].isfinite().all()
    learner.gradient_rules["solver"] = UnannouncedPenalty()
    with pytest.raises(RuntimeError, match="differentiates_twice = True"):
        run_steps(learner, experiments, 1)


@pytest.mark.parametrize("overrides", [["strategy=finetune"], [EVERY_STEP], ["generator=wgan_gp", EVERY_STEP]])
def test_a_rule_can_use_per_sample_gradients_and_noise(overrides):
    """Per-sample gradients add up to the plain gradient, so all losses stay the same."""
    plain = [losses for task in range(2) for losses in run_steps(*three_replicas(*overrides), task)]
    learner, experiments = three_replicas(*overrides)
    for name in list(learner.gradient_rules):
        learner.gradient_rules[name] = PerSample()
    if learner.generator is not None:
        learner._generator_update.gradient_rules = learner.gradient_rules
    losses_of_steps = run_steps(learner, experiments) + run_steps(*three_replicas(*overrides), 1)
    for before, after in zip(plain, losses_of_steps, strict=True):
        for name, values in before.items():
            torch.testing.assert_close(after[name], values, rtol=1e-9, atol=1e-11)
    assert losses_of_steps[2]["solver.steps"].tolist() == [3, 3, 3]
    state = learner.state_of(1)
    assert state["gradient_rules"]["solver"]["steps"].item() == 3
    learner.load_states([learner.state_of(i) | {"optimizers": {}} for i in (0, 1, 2)], 0)
    assert learner.gradient_rules["solver"].steps.tolist() == [3, 3, 3]


def test_solver_and_objectives_have_their_own_rules():
    learner = prepare(compose_settings([*SMALL, "generator=wgan_gp"])).learner
    assert set(learner.gradient_rules) == {"solver", "generator.critic", "generator.generator"}
    assert len({id(rule) for rule in learner.gradient_rules.values()}) == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["generator=mixture", "+generator/gradient_rule=none"], "generator.gradient_rule=.*closed form"),
        (["strategy=bir", "generator/gradient_rule=none"], "generator.gradient_rule=.*shares the solver's loss"),
        (["+generator.gradient_rule=3"], "must name an option of this group"),
        (["gradient_rule._target_=gr_cli.optimizers.Adam"], "a GradientRule is needed"),
    ],
)
def test_invalid_gradient_rules_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        prepare(compose_settings(overrides))
