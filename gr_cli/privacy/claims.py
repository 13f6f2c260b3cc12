"""What a run may claim, and the settings that would void its claim."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gr_cli.errors import ConfigError
from gr_cli.privacy.settings import PrivacySettings

NO_CLAIM = "none: privacy.epsilon is not set"
SIMULATED = "simulated: ε holds only while the seed is secret"
ADJACENCY = "add or remove one sample"


def guarantee(privacy: PrivacySettings | None) -> str:
    """What a budget is worth, for tables and status.json."""
    if privacy is None:
        return NO_CLAIM
    return f"(ε, δ)-differential privacy, {ADJACENCY}" if privacy.secure else SIMULATED


def check_settings(config: Mapping[str, Any]) -> None:
    """Refuse settings of a run that would void its claim, or that mean nothing without one.

    Raises:
        ConfigError: There is such a setting.
    """
    privacy, train = config["privacy"], config["train"]
    if privacy["epsilon"] is None:
        if privacy["secure"]:
            raise ConfigError("privacy.secure", "true", "there is no budget for it", "set privacy.epsilon")
        return
    if train["online"]:
        raise ConfigError(
            "train.online",
            "true",
            "with privacy.epsilon the iterations would follow from the number of samples, which is not public",
            "set train.online=false and train.iterations",
        )
    if train["epochs"] is not None:
        raise ConfigError(
            "train.epochs",
            train["epochs"],
            "with privacy.epsilon the iterations would follow from the number of samples, which is not public",
            "set train.epochs=null and train.iterations",
        )
    if train["task_boundaries"] == "unknown":
        raise ConfigError(
            "train.task_boundaries",
            "unknown",
            "intervals of a task-free stream hold samples of several tasks, whose budgets can't be told apart",
            "set train.task_boundaries=known",
        )
    _check_data_settings(config)


def _check_data_settings(config: Mapping[str, Any]) -> None:
    """Refuse statistics, labels and stopping that depend on raw samples."""
    if config["normalise"] == "first_task":
        raise ConfigError(
            "normalise",
            "first_task",
            "mean and deviation of raw samples would be released without budget",
            "set normalise=null, or lists of public means and deviations",
        )
    for name, public in {"noise": 0, "per_class": None, "share": None}.items():
        if config["labels"][name] != public:
            raise ConfigError(
                f"labels.{name}",
                config["labels"][name],
                "which samples have a label, and which, would depend on the other samples of the task",
                "leave it out where privacy.epsilon is set",
            )
    if config["prune_below"] is not None:
        raise ConfigError(
            "prune_below",
            config["prune_below"],
            "when the run ends would depend on accuracy on raw samples",
            "set prune_below=null",
        )
