"""Private gradient rules: what they can be combined with, so that their accounting holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from gr_cli.config.settings import Settings
from gr_cli.errors import ConfigError
from gr_cli.nn.gradient_rules import GradientRule
from gr_cli.training.learner import Learner

_WITHOUT_BATCH_STATISTICS = {"model": "model.norm=group", "generator": "generator.norm=none"}


def check_private_steps(settings: Settings, learner: Learner, sizes: Sequence[int]) -> None:
    """Check that private gradient rules can account for the steps of a run.

    Args:
        settings: Settings of the run.
        learner: The learner of the run.
        sizes: Number of training samples of each stage.

    Raises:
        ConfigError: The accounting of a private rule would be wrong, or a Poisson sampling rate is set without one.
    """
    config, strategy, rules = settings.config, learner.strategy, private_rules(learner)
    if not rules:
        if (rate := config["privacy"]["sampling_rate"]) is not None:
            unused = "is for gradient_rule=dp_sgd, and neither solver nor generator has it"
            raise ConfigError("privacy.sampling_rate", rate, unused, "leave it out")
        return
    if "solver" in rules and not strategy.solver_reads_samples and _trains_solver(learner):
        needless = "would add noise to a solver that is trained on generated samples, which need none"
        raise ConfigError("gradient_rule", "dp_sgd", needless, "set gradient_rule=none generator/gradient_rule=dp_sgd")
    if strategy.shares_loss_with_generator:
        shared = "trains solver and generator by one loss, and dp_sgd clips the gradients of one network"
        raise ConfigError("strategy", settings.option("strategy", strategy), shared, "try strategy=generative_replay")
    if len(rules) > 1 and strategy.solver_reads_samples and not _has_separate_steps(learner):
        common = "solver and generator would read the same Poisson samples, which is accounted for as separate ones"
        raise ConfigError("strategy.generator_training", "alongside", common, "try strategy.generator_training=before")
    if "generator" in rules and learner.generator is not None and not learner.generator.has_sample_gradients:
        option = settings.option("generator", learner.generator)
        second_order = f"generator={option} has a loss on gradients, and dp_sgd needs gradients of single samples"
        raise ConfigError("generator.gradient_rule", "dp_sgd", second_order, "try generator=cvae, or another one")
    networks = {"model": learner.solver} if "solver" in rules else {}
    networks |= {"generator": learner.generator} if "generator" in rules and learner.generator is not None else {}
    for field, network in networks.items():
        if any(isinstance(module, _BatchNorm) for module in network.modules()):
            mixing = "has batch statistics, which mix samples, and dp_sgd clips the gradient of each"
            remedy = f"try {_WITHOUT_BATCH_STATISTICS[field]}"
            raise ConfigError(field, settings.option(field, network), mixing, remedy)
    _check_sizes(config, rules, sizes)


def private_rules(learner: Learner) -> dict[str, GradientRule]:
    """The private gradient rules of what is trained on samples of the stream, by `solver` and `generator`."""
    rules = {"solver": learner.gradient_rule} if _trains_solver(learner) else {}
    if learner.generator is not None and learner.generator.objectives():
        rules["generator"] = learner.generator_gradient_rule or learner.gradient_rule
    return {name: rule for name, rule in rules.items() if rule.is_private}


def _trains_solver(learner: Learner) -> bool:
    many = 10**6
    return learner.strategy.num_steps(many) > learner.strategy.num_generator_updates(many) or (
        learner.strategy.solver_reads_samples
    )


def _has_separate_steps(learner: Learner) -> bool:
    return learner.strategy.num_steps(many := 10**6) > many


def _check_sizes(config: Mapping[str, Any], rules: Mapping[str, GradientRule], sizes: Sequence[int]) -> None:
    """Refuse tasks from which more samples would be drawn too often than a batch has positions."""
    for rule in rules.values():
        for size in sizes:
            positions = rule.needed_batch_size(size)
            if positions is not None:
                rate = config["privacy"]["sampling_rate"]
                problem = f"more samples would be drawn too often at privacy.sampling_rate={rate:g}"
                remedy = f"try {positions}, which {size:,} samples of a task need"
                raise ConfigError("train.batch_size", config["train"]["batch_size"], problem, remedy)
