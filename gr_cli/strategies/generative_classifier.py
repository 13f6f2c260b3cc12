"""The generative classifier (van de Ven et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Literal

from torch import Tensor, nn

from gr_cli.errors import ConfigError
from gr_cli.generators.base import UNLEARNED_LOG_LIKELIHOOD, Generator
from gr_cli.nn.random_streams import StreamNames
from gr_cli.nn.shared_fit import SharedFit
from gr_cli.scenario import Scenario
from gr_cli.strategies.base import Strategy
from gr_cli.strategies.context import Batch, GeneratorBatch, State, TaskContext, TrainingStep
from gr_cli.strategies.generated_samples import fit_classes
from gr_cli.strategies.score_cache import ScoreCache
from gr_cli.types import PositiveInt


class GenerativeClassifier(Strategy):
    """Generative classifier: a generative model per class, argmax_y p(x | y) (van de Ven et al. 2021).

    Classes share no parameters, so learning one can't change another. The solver is not trained.

    Args:
        generator: A generator with separate parameters for each class and a likelihood: `class_vae`, `mixture` or
            `gaussian`.
        importance_samples: Importance samples per estimate of log p(x | y); unused by generators with an exact
            likelihood.
        likelihood: Likelihood p(x | z) at evaluation: as in training (`generator`), or Gaussian of unit variance
            around the reconstruction (`gaussian`), as in the code of van de Ven et al. (2021, 2022). Unused by
            generators with an exact likelihood.
    """

    boundary_requirement = "trains the model of each class within one task"

    def __init__(
        self,
        generator: Generator,
        importance_samples: PositiveInt = 100,
        likelihood: Literal["generator", "gaussian"] = "generator",
    ) -> None:
        super().__init__()
        if generator.class_likelihood == "none":
            raise ConfigError(
                "generator",
                type(generator).__name__,
                "has no likelihood of a sample given its class",
                "try generator=class_vae or generator=mixture",
            )
        self.generator: Generator = generator
        self.needs_second_pass = generator.closed_form
        self.scores_depend_on_batch = (
            generator.class_likelihood == "estimated"
        )  # a batch has the draws of its positions
        self.importance_samples, self.likelihood = importance_samples, likelihood
        # Where a class never changes after its task, neither do the scores of samples under it.
        self.keeps_scores = generator.closed_form and generator.classes_are_independent
        self._scores = ScoreCache()
        self._has_context = False

    def check(self, scenario: Scenario, solver: nn.Module) -> None:
        if not scenario.classes_are_disjoint:
            raise ConfigError(
                "strategy",
                "generative_classifier",
                "learns each class once, but here tasks have classes in common",
                "try scenario=class or scenario=task, with new classes in each task",
            )

    def _set_up_task(self, context: TaskContext) -> None:
        super()._set_up_task(context)
        self._has_context = True
        current_units = context.task_units[context.task]
        # If the classes of a task are not known in advance: those of no earlier task.
        current_units = current_units if current_units.any() else ~context.task_units.any(0)
        classes = current_units.nonzero().squeeze(1).tolist()
        context.generator.for_each_module(lambda generator: generator.restrict_to(classes))

    def num_steps(self, iterations: int) -> int:
        return 0 if self.generator.closed_form else iterations

    def num_generator_updates(self, iterations: int) -> int:
        return self.num_steps(iterations)

    @property
    def solver_reads_samples(self) -> bool:
        return False

    def solver_iteration(self, step: TrainingStep) -> int | None:
        return None

    def generator_batch(self, batch: Batch, step: TrainingStep) -> GeneratorBatch | None:
        return GeneratorBatch(batch.x, step.iteration, labels=batch.y, num_current=batch.x.shape[1], mask=batch.mask)

    def end_task(self, context: TaskContext) -> None:
        if self.generator.closed_form:
            fit_classes(context)
            return
        for generator in context.generator.modules:
            generator.mark_learned(context.task_units[context.task])

    @property
    def shared_fits(self) -> tuple[SharedFit, ...]:
        return self.generator.shared_fits

    def forget(self, dropped: Tensor) -> None:
        for generator in self._context.generator.modules:
            generator.forget_classes(dropped.any(0))
        self._scores = ScoreCache()

    def classifier(self, replica: int, solver: nn.Module) -> Callable[..., Tensor]:
        if not self._has_context:  # before the first task
            return lambda x, batch_id=None: x.new_zeros((len(x), len(self.generator.learned_classes)))
        context, num_draws = self._context, self.importance_samples
        generator = context.generator.modules[replica]

        def scores(x: Tensor, batch_id: Hashable = None) -> Tensor:
            if self.keeps_scores and batch_id is not None:
                return self._kept_scores(generator, x, (replica, batch_id))
            # The same random numbers in each call: scores don't depend on earlier evaluations.
            noise = context.streams.generator(replica, StreamNames.CLASS_LIKELIHOOD)
            return generator.estimate_log_likelihoods(x, noise, num_draws, self.likelihood == "gaussian")

        return scores

    def _kept_scores(self, generator: Generator, x: Tensor, batch_id: Hashable) -> Tensor:
        """The scores (B, U) of a batch, computed for the classes of each task once.

        One task at a time, so that scores are the same to the last bit whether earlier ones are kept or, in a run that
        was resumed, are not.
        """
        result = x.new_full((len(x), len(generator.learned_classes)), UNLEARNED_LOG_LIKELIHOOD)
        for units in self._context.task_units:
            classes = (units & generator.learned_classes).nonzero().squeeze(1)
            if len(classes):
                key = (batch_id, tuple(classes.tolist()))
                result[:, classes] = self._scores.get(key, partial(generator.class_log_likelihoods, x, classes))
        return result

    def load_state_dict(self, state: State, context: TaskContext) -> None:
        super().load_state_dict(state, context)
        self._scores = ScoreCache()
