"""Single-pass streams (online continual learning): what can't be trained on them is refused."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from gr_cli.config.settings import Settings
from gr_cli.errors import ConfigError
from gr_cli.training.learner import Learner

_REMEDY = "try strategy=er_plus, er, generative_replay, slda, si or finetune, or train.online=false"


def check_single_pass(settings: Settings, learner: Learner, sizes: Sequence[int]) -> None:
    """Check that a run with `train.online` needs each training sample once.

    Args:
        settings: Settings of the run.
        learner: The learner of the run.
        sizes: Number of training samples of each stage.

    Raises:
        ConfigError: The strategy or the normalisation needs a second pass, or the last batch has a single sample.
    """
    config, strategy, train = settings.config, learner.strategy, settings.config["train"]
    option = settings.option("strategy", strategy)
    if strategy.training_data == "cumulative":
        _refuse("strategy", option, "trains on the samples of earlier tasks again", _REMEDY)
    for group, component in {"strategy": strategy, "strategy/regularizer": strategy.regularizer}.items():
        if component is not None and component.needs_second_pass and not component.second_pass_is_streamable:
            field, chosen = group.replace("/", "."), settings.option(group, component)
            _refuse(field, chosen, "passes over the samples of a task a second time", _REMEDY)
    if strategy.num_steps(many := 10**9) > many:
        own_steps = "trains the generator in steps of its own, which need a second pass"
        _refuse("strategy", option, own_steps, "try strategy.generator_training=alongside")
    if config["normalise"] == "first_task":
        first_pass = "reads all samples of the first task before training, and train.online=true is a single pass"
        raise ConfigError("normalise", "first_task", first_pass, "try normalise=null, or [means, deviations]")
    updates, every = train["updates_per_batch"], strategy.consolidate_every
    if every is not None and every % updates:
        within = f"would consolidate between the {updates} updates on one batch (train.updates_per_batch)"
        raise ConfigError("strategy.consolidate_every", every, within, f"try a multiple of {updates}")
    has_batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in learner.solver.modules())
    if has_batch_norm and any(size % train["batch_size"] == 1 for size in sizes):
        single = "leaves a last batch of one sample, and batch statistics need more than one"
        raise ConfigError("train.batch_size", train["batch_size"], single, "try another size, or model.norm=group")


def _refuse(field: str, option: str, problem: str, remedy: str) -> None:
    single_pass = "and train.online=true is a single pass"
    raise ConfigError(field, option, f"{problem}, {single_pass}", remedy)
