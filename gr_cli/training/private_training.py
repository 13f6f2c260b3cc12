"""Private training: which components read raw samples, their accesses, and combinations that would void the claim."""

from __future__ import annotations

from gr_cli.benchmarks.base import Benchmark
from gr_cli.benchmarks.distinct import shared_samples
from gr_cli.config.settings import Settings
from gr_cli.errors import ConfigError, DataError
from gr_cli.nn.shared_fit import SharedFit
from gr_cli.privacy.access import Access, PrivateMechanism
from gr_cli.privacy.settings import PrivacySettings
from gr_cli.strategies.base import Strategy
from gr_cli.training.learner import Learner

_FROM_GENERATED = "strategy.current_data=generated strategy.generator_training=before"


def check_private_benchmark(benchmark: Benchmark, privacy: PrivacySettings) -> None:
    """Refuse streams of which the composition of budgets does not hold.

    Raises:
        ConfigError: The benchmark was fitted on its samples, or tasks may have samples in common.
        DataError: Classes of one task have samples in common.
    """
    epsilon = f"{privacy.epsilon:g}"
    if benchmark.classes_follow_labels:
        raise ConfigError(
            "privacy.epsilon",
            epsilon,
            "the list of classes follows from the labels in the data, and a class would reveal its samples",
            "use a source with a list of classes, such as folders of images or a data set of torchvision",
        )
    if chosen := benchmark.format_follows_samples:
        names = ", ".join(f"benchmark.source.{name}" for name in chosen)
        raise ConfigError(
            "privacy.epsilon", epsilon, "one sample could change the format of all, which is released", f"set {names}"
        )
    stored = (SharedFit("the frozen features contain training samples"),) if benchmark.stores_raw_samples else ()
    for fit in (*stored, *benchmark.shared_fits):
        remedy = fit.remedy or "use features or scales that no sample of the stream decides"
        raise ConfigError("privacy.epsilon", epsilon, f"no budget pays for this: {fit.reason}", remedy)
    if benchmark.has_task_overlap:
        raise ConfigError(
            "privacy.epsilon",
            epsilon,
            "tasks exchange samples, and which ones depends on the other samples of the task",
            "set benchmark.task_overlap=0",
        )
    _check_distinct(benchmark, privacy)


def _check_distinct(benchmark: Benchmark, privacy: PrivacySettings) -> None:
    """Check that samples of classes, and with `across=tasks` those of tasks, are distinct."""
    if privacy.across == "tasks" and any(task is not None for task in benchmark.repeated_tasks):
        raise ConfigError(
            "privacy.across", "tasks", "tasks repeat the classes of earlier ones", "use privacy.across=stream"
        )
    shared = shared_samples(benchmark)
    if shared.task is not None:
        raise DataError(
            f"benchmark: {shared.in_task} training samples, the first in task {shared.task}, are twice in a task, in "
            "two classes or as the same row, so that budgets of its classes would add up; leave them out"
        )
    if privacy.across == "tasks" and shared.later_task is not None:
        raise ConfigError(
            "privacy.across",
            "tasks",
            f"{shared.in_tasks} training samples, the first in task {shared.later_task}, are in earlier tasks, too",
            "use privacy.across=stream",
        )


def check_private_components(settings: Settings, learner: Learner) -> None:
    """Refuse components that read raw samples by other than private mechanisms.

    Args:
        settings: Settings of the run, for messages.
        learner: The learner of the run.

    Raises:
        ConfigError: There is such a component.
    """
    strategy, name = learner.strategy, settings.option("strategy", learner.strategy)
    if strategy.other_sample_uses is not None:
        remedy = "try strategy=generative_classifier or strategy=generative_replay with a private generator"
        raise ConfigError("strategy", name, f"no budget pays for what it does: {strategy.other_sample_uses}", remedy)
    regularizer = strategy.regularizer
    if regularizer is not None and regularizer.needs_second_pass:
        raise ConfigError(
            "strategy.regularizer",
            settings.option("strategy/regularizer", regularizer),
            "the importance of parameters is estimated on raw samples, without budget",
            "set strategy.regularizer=null",
        )
    for part, reader in _readers(learner).items():
        if not _accesses(learner, 0, part, reader):
            raise _not_private(settings, learner, part)
    generator = learner.generator
    if strategy.solver_reads_samples and generator is not None and generator.closed_form:
        raise ConfigError(
            "strategy",
            name,
            "the generator spends the budget, and the solver learns raw samples, too",
            f"set {_FROM_GENERATED}",
        )


def _not_private(settings: Settings, learner: Learner, part: str) -> ConfigError:
    """The error about a component that reads raw samples as they are."""
    generator = settings.option("generator", learner.generator)
    if part == "solver":
        return ConfigError(
            "strategy",
            settings.option("strategy", learner.strategy),
            "the solver learns raw samples, without budget",
            f"set {_FROM_GENERATED} with a private generator, or gradient_rule=dp_sgd",
        )
    if part == "generator":
        return ConfigError(
            "generator", generator, "is fitted to raw samples, without budget", "try generator=private_gaussian"
        )
    return ConfigError(
        "generator",
        generator,
        "learns raw samples by gradients, without budget",
        "set gradient_rule=dp_sgd, or generator=private_gaussian",
    )


def private_accesses(learner: Learner, task: int) -> list[Access]:
    """The accesses to raw samples in a task, for the ledger."""
    return [a for part, reader in _readers(learner).items() for a in _accesses(learner, task, part, reader)]


def _readers(learner: Learner) -> dict[str, object]:
    """The components that read raw samples, by the name of what they train."""
    strategy, generator, rules = learner.strategy, learner.generator, learner.gradient_rules
    readers: dict[str, object] = {"solver": rules["solver"]} if strategy.solver_reads_samples else {}
    if generator is None or strategy.shares_loss_with_generator:
        return readers
    if generator.closed_form:
        return readers | {"generator": generator}
    return readers | {name: rule for name, rule in rules.items() if name.startswith("generator.")}


def _accesses(learner: Learner, task: int, part: str, reader: object) -> list[Access]:
    if not isinstance(reader, PrivateMechanism):
        return []
    return reader.private_accesses(task, learner.task_units[task].nonzero().squeeze(1).tolist(), part)


def num_private_parts(strategy: Strategy) -> int:
    """Number of losses whose steps read raw samples, which share the budget; at least 1."""
    generator = strategy.generator
    has_own_steps = generator is not None and not strategy.shares_loss_with_generator
    objectives = len(generator.objectives()) if has_own_steps and generator is not None else 0
    return max(1, int(strategy.solver_reads_samples) + objectives)
