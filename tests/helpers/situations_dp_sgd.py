"""Messages about differentially private gradients."""

import sys

import torch
from torch import nn

from gr_cli.nn.gradient_rules.base import Loss
from gr_cli.nn.gradient_rules.clipped_sum import ClippedGradients
from gr_cli.nn.gradient_rules.dp_sgd import DPSGD
from gr_cli.nn.layer_calls import record_layer_calls
from gr_cli.nn.replicas import Replicas
from gr_cli.privacy.accounting import subsampled_gaussian_epsilon
from gr_cli.privacy.settings import PrivacySettings
from helpers.situations import TINY, Hands, Table, typed

_BUDGET = " ".join(
    (*TINY, "privacy.epsilon=8 privacy.sampling_rate=0.05 train.batch_size=96 generator.hidden_dims=[8]")
)
_SOLVER = f"{_BUDGET} gradient_rule=dp_sgd gradient_rule.noise_multiplier=2"
_GENERATOR = "generator/gradient_rule=dp_sgd generator.gradient_rule.noise_multiplier=2"
_REPLAY = "strategy=generative_replay strategy.generator_data=current_and_replay strategy.generator_update_freq=1"
_GENERATED = "generator=cvae strategy.current_data=generated strategy.generator_training=before"


def _loss_of_no_samples(hands: Hands) -> object:
    rule = DPSGD(1.0, 2.0, PrivacySettings(8.0, sampling_rate=0.1), steps=1, batch_size=8)
    return rule.gradients(Loss(torch.zeros(1)), [], _Step())


class _Step:
    name = "solver"


class _UsesWeightTwice(nn.Module):
    """A network that uses the parameters of a layer without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) @ self.layer.weight


def _gradients_that_miss_a_use(hands: Hands) -> object:
    network = _UsesWeightTwice()
    replicas = Replicas([network])
    with record_layer_calls(replicas) as calls:
        losses = replicas.call("__call__", torch.rand(1, 4, 3)).square().sum(-1)
    return ClippedGradients(losses, calls, list(network.parameters())).check_sum()


def _without_library(hands: Hands) -> object:
    hands.monkeypatch.setitem(sys.modules, "dp_accounting", None)
    return subsampled_gaussian_epsilon.__wrapped__(1.0, 0.1, 1, 1e-5)


DP_SGD: Table = {
    "privacy/accounting.py": [("needs the library dp-accounting", _without_library)],
    "nn/gradient_rules/dp_sgd.py": [
        ("needs a privacy budget", typed(f"{_SOLVER} privacy.epsilon=null")),
        ("dp_sgd reads Poisson samples", typed(f"{_SOLVER} privacy.sampling_rate=null")),
        (
            "dp_sgd needs a number of steps",
            lambda hands: DPSGD(1.0, 2.0, PrivacySettings(8.0, sampling_rate=0.1)),
        ),
        ("steps would spend an epsilon of", typed(f"{_SOLVER} gradient_rule.noise_multiplier=0.1")),
        ("can't be split into those of single samples", _loss_of_no_samples),
    ],
    "nn/gradient_rules/clipped_sum.py": [
        (
            "gradient_rule=dp_sgd: {}; use layers that treat samples separately, such as Linear",
            _gradients_that_miss_a_use,
            "don't add up to that of their batch",
        ),
    ],
    "training/private_steps.py": [
        ("is for gradient_rule=dp_sgd", typed(f"{_BUDGET} privacy.epsilon=null")),
        ("would add noise to a solver", typed(f"{_SOLVER} {_REPLAY} {_GENERATED} {_GENERATOR}")),
        ("trains solver and generator by one loss", typed(f"{_SOLVER} strategy=bir")),
        ("would read the same Poisson samples", typed(f"{_SOLVER} {_REPLAY} {_GENERATOR}")),
        (
            "has a loss on gradients",
            typed(f"{_SOLVER} {_REPLAY} strategy.generator_training=before {_GENERATOR} generator=wgan_gp"),
        ),
        (
            "has batch statistics, which mix samples",
            typed(f"{_SOLVER.replace('model.hidden_sizes=[8]', '')} model=resnet18 model.norm=batch"),
        ),
        ("more samples would be drawn too often", typed(f"{_SOLVER} train.batch_size=40")),
    ],
}
