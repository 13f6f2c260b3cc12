"""The Python API: `ContinualTrainer`, for a model and data loaders of one's own."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from gr_cli.config.arguments import check
from gr_cli.config.instantiate import asks_for, build
from gr_cli.config.shipped_options import plain_value
from gr_cli.errors import ConfigError, DataError, GrError, TrainingError, one_line
from gr_cli.generators.base import Generator
from gr_cli.nn.random_streams import Draws, seeded
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.results.accuracy import ACCURACY, accuracy_row
from gr_cli.results.history import History
from gr_cli.results.record import Record
from gr_cli.results.tables import Row
from gr_cli.strategies.steps import Batch
from gr_cli.system.devices import default_threads, flushing_denormals, pick_device, size, thread_limit
from gr_cli.system.memory import memory_told
from gr_cli.system.messages import tell
from gr_cli.training.build import build_generator, build_generator_optimizer, build_gradient_rules, one_learner
from gr_cli.training.learner import Learner
from gr_cli.training.loaders import (
    FAR,
    BatchFormat,
    Loader,
    check_loader,
    check_passes,
    check_validation_loader,
    last_batch_size,
    length_of,
    range_of,
    read_batch,
    repeated,
    tell_of_labels,
)
from gr_cli.training.solver_checks import (
    Logits,
    ModelState,
    changed_parameters,
    check_copy,
    check_generator,
    check_outputs,
    check_parameters,
    check_single_sample,
    check_values,
    named_errors,
    parts_in_evaluation,
    precision_of,
    some_names,
    trained_parameters,
    training_mode,
)
from gr_cli.training.task_free import check_boundaries
from gr_cli.training.trainer_folder import TrainerFolder
from gr_cli.training.trainer_settings import TrainerSettings
from gr_cli.types import Count, PositiveInt

_MOST_TASKS = 100  # that a generator with gates by task has room for, unless it says another number


class ContinualTrainer:
    """Trains `model` on tasks that come one after the other, under the strategy that `config` names.

    Args:
        model: maps a batch of samples to logits, one per output unit; trained in place. Its parameters are float32 or
            float64, and so are samples then. A mapping or an object with an entry `logits` is taken for these.
        config: `optimizer: {type: adam, lr: 0.001}`, `gradient_rule: {type: none}`,
            `continual_strategy: {<name>: {enabled: true, <parameters>}}`,
            `generator: {type: vae, <parameters>}` (beside or inside `continual_strategy`), and if wanted
            `scenario` (class | domain | task), `active_classes` (seen | all), `seed`, `log_every`, and `value_range`,
            in which all samples lie: [low, high], null for values without bounds, or auto: [0, 1] if the first batch
            lies in that, else null. What is left out has the defaults of the class it goes to; without a strategy it
            is plain finetuning.
        device: where to train; default: where the model's parameters are.
        output_dir: a folder for the tables and the newest state; default: nothing is written.

    Labels are output units of `model`. Which units belong to a task is learnt from the labels that come with it.
    Random numbers come from `seed`: torch's global stream is put back as it was, and loaders that draw from it
    shuffle as the seed says.

    Between tasks the caller may change the model: values of parameters, which of them are trained (`requires_grad`),
    whole layers, and which parts are in evaluation mode (`model.bn.eval()`): these stay so while others are trained.
    What can't be taken over is refused by name before training.

    Raises:
        ConfigError: a value of `config` does not fit; named by its path.
        FolderError: `output_dir` holds a run already, or can't be made.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Mapping[str, Any] | None = None,
        *,
        device: torch.device | str | None = None,
        output_dir: str | Path | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            what = f"class {model.__name__}" if isinstance(model, type) else type(model).__name__
            raise ConfigError("model", what, "must be a torch.nn.Module, made already")
        self._model, self._settings = model, TrainerSettings.checked(config)
        self._chosen_device = None if device is None else pick_device(str(device))
        if str(device) == "meta":
            raise ConfigError("device", device, "has no values to train")
        self._frozen = parts_in_evaluation(model, ())
        self._learner: Learner | None = None
        self._state: ModelState  # the model at the beginning of the newest task
        self._tasks: list[tuple[int, str, Loader | None]] = []
        self._classes: list[Tensor] = []  # of each task: bool (U,), the labels that it had
        self._failed: set[int] = set()  # tasks whose validation loader failed when it was last used
        self._busy = False
        self._record = Record()
        self._folder = None if output_dir is None else TrainerFolder(output_dir)

    # --- what a caller may look at

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""
        return self._model

    @property
    def device(self) -> torch.device:
        """Where is trained."""
        here = next((p.device for p in self._model.parameters()), torch.device("cpu"))
        return self._chosen_device or here

    @property
    def generator_model(self) -> Generator:
        """The generator; there is none before the first task, or without a strategy that needs one."""
        if not self._tasks or self._learner is None or self._learner.generator is None:
            raise AttributeError("there is no generator yet")
        return self._learner.strategy.dreamer(0, self._learner.generator)

    @property
    def accuracy_matrix(self) -> list[list[float | None]]:
        """A row per trained task, a column per task; None for tasks that came later, or without a loader."""
        rows, width = self._record.rows(), len(self._tasks)
        found = [rows.get(task, []) for task in range(width)]
        return [row + [None] * (width - len(row)) for row in found]

    @property
    def metrics(self) -> dict[str, float | None]:
        """Average accuracy, forgetting and so on, as `gr_cli.results.metrics` defines them."""
        networks = {"solver": self.model, "generator": None if self._learner is None else self._learner.generator}
        return self._record.metrics(False, {name: size(net) for name, net in networks.items() if net is not None})

    # --- training

    def train_task(
        self,
        train_loader: Loader,
        val_loader: Loader | None = None,
        task_id: int | None = None,
        task_name: str | None = None,
        num_epochs: int = 1,
    ) -> dict[int, float]:
        """Learn one task, then evaluate on the validation loaders of all tasks so far.

        If training fails or is interrupted, model, generator and optimiser are put back as they were before. If an
        evaluation fails, the task is trained and recorded all the same, and the accuracy left empty; a loader that
        fails again after later tasks is reported on stderr instead of raised.

        Args:
            train_loader: yields (x, y): x (B, ...) numbers, of which bytes and images become [0, 1]; y (B,) output
                units. A third part may be a task label; a mapping has two entries, one of them named `label` or `y`.
            val_loader: the same, for evaluation now and after each later task; kept by reference.
            task_id: a number that names the task, not used before; default: one more than the last.
            task_name: for people.
            num_epochs: passes over `train_loader`.

        Returns:
            Accuracy by task id.

        Raises:
            ConfigError, DataError: the arguments don't fit, or a batch or the model doesn't.
        """
        task_id, num_epochs = self._checked_numbers(task_id, num_epochs)
        check_loader(train_loader, "train_loader")
        check_validation_loader(val_loader, f"val_loader of task {task_id}")
        if self._folder is not None and not self._tasks:
            self._folder.check_unused()
        name = f"task {task_id}" if task_name is None else str(task_name)
        # A caller's `no_grad` or `inference_mode` is not meant for what is trained in here.
        with torch.inference_mode(False), torch.enable_grad(), memory_told(), self._not_within_itself():
            learner = self._train(train_loader, num_epochs, (task_id, name, val_loader))
            try:
                found, faults = self._evaluate(learner)
            finally:
                if self._folder is not None:
                    facts = {"seed": self._settings.seed, "device": str(self.device), "threads": self._threads}
                    names = [(task_id, name) for task_id, name, _ in self._tasks]
                    self._folder.write(self._settings.config, self._record, self.metrics, learner, names, facts)
        self._report(faults)
        return found

    @contextmanager
    def _not_within_itself(self) -> Iterator[None]:
        if self._busy:
            raise TrainingError("train_task: was called by a loader of the task that is trained; call it after that")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _checked_numbers(self, task_id: Any, num_epochs: Any) -> tuple[int, int]:
        """The number of the new task, and that of passes over its loader."""
        epochs, known = plain_value(num_epochs, "num_epochs"), [task for task, _, _ in self._tasks]
        check(epochs, PositiveInt, "num_epochs")
        number = max(known, default=-1) + 1 if task_id is None else plain_value(task_id, "task_id")
        check(number, Count, "task_id")
        if number in known:
            raise ConfigError("task_id", number, f"was trained already; give a number besides {known}")
        return number, epochs

    def _train(self, loader: Loader, num_epochs: int, new: tuple[int, str, Loader | None]) -> Learner:
        """Train on the new task, number len(self._tasks) of the stream, which is among them then."""
        task, length = len(self._tasks), length_of(loader)
        with seeded(self._settings.seed, "loader", task):
            # One stream of batches, looked into and put back: no batch is read twice, none is lost.
            batches = repeated(loader, count() if length is not None else range(num_epochs), length)
            first = next(batches, None)
            if first is None:
                raise DataError(f"train_loader: task {new[0]} has no batch")
            frozen = parts_in_evaluation(self._model, self._frozen)
            with training_mode(self._model, frozen), named_errors("train_loader"):
                learner, x = self._prepared(first)
                check_passes(learner, loader, length, num_epochs)
                if task == 0 and length != 1 and last_batch_size(loader) == 1:
                    with seeded(self._settings.seed, "shape"):
                        check_single_sample(self._model, x[:1], "train_loader")
                self._frozen = frozen
                self._threads = default_threads(self._model, len(x))
                with self._undone_on_failure(learner, new):
                    history = History([self._record], self._settings.log_every, task)
                    with thread_limit(self._threads), flushing_denormals():
                        learner.train_task(
                            task,
                            self._batches(learner, chain([first], batches)),
                            sys.maxsize if length is None else num_epochs * length,
                            lambda position, losses: self._raise(history.add(position.iteration, losses)),
                            samples=lambda replica: self._again(learner, loader),
                        )
                    self._raise(history.close())
        return learner

    def _batches(self, learner: Learner, pairs: Iterable[Any]) -> Iterator[Batch]:
        """What the loader yields, as batches; notes which units belong to the task."""
        task, scenario = len(self._tasks) - 1, self._settings.scenario
        for pair in pairs:
            if changed := changed_parameters(self._state.parameters, trained_parameters(self._model)):
                raise ConfigError(
                    "model", some_names(changed), "changed while a task is trained", "do so between tasks"
                )
            x, y = self._read(pair, learner)
            heads = learner.heads
            units = scenario.training_units(heads, task)
            replay_units, rivals = scenario.replay_units(heads, task), scenario.rivals(heads, task)
            yield Batch(x.unsqueeze(0), y.unsqueeze(0), units, replay_units, rivals)

    def _again(self, learner: Learner, loader: Loader) -> Iterator[tuple[Tensor, Tensor]]:
        """One more pass over a task's samples, for strategies that look at them again."""
        for pair in loader:
            yield self._read(pair, learner)

    def _read(self, pair: Any, learner: Learner) -> tuple[Tensor, Tensor]:
        """Samples and labels of the task that is trained."""
        taken = torch.stack(self._classes[:-1]).any(0) if len(self._classes) > 1 else None
        taken = taken if self._settings.scenario.tells_tasks else None
        x, y = self._format.read(pair, "train_loader", self._classes[-1], taken)
        learner.heads[len(self._tasks) - 1, y] = True
        return x, y

    def _raise(self, errors: Mapping[int, TrainingError]) -> None:
        for error in errors.values():
            if self._largest > FAR:
                raise TrainingError(f"{error}, or samples scaled to [0, 1]: the first batch reaches {self._largest:g}")
            raise error

    @contextmanager
    def _undone_on_failure(self, learner: Learner, new: tuple[int, str, Loader | None]) -> Iterator[None]:
        """Add a task inside the block; if that fails, everything is put back as it was before."""
        task, state, rows = len(self._tasks), learner.state_of(0), len(self._record.history)
        self._tasks.append(new)
        self._classes.append(torch.zeros(self._format.units, dtype=torch.bool))
        row = learner.heads.new_full((1, self._format.units), not self._settings.scenario.tasks_have_units)
        learner.heads = torch.cat([learner.heads, row])
        try:
            yield
        except BaseException as error:
            del self._tasks[task:], self._classes[task:], self._record.history[rows:]
            learner.leave_task()
            try:
                learner.load_states([state], task)
            except Exception as problem:  # the model was rebuilt meanwhile; the first error is the one to raise
                error.add_note(f"the model could not be put back: {problem}")
            raise

    # --- model and learner

    def _prepared(self, first: Any) -> tuple[Learner, Tensor]:
        """The learner, made or brought up to date with the model, and the first batch's samples."""
        device, dtype = check_parameters(self._model, self._chosen_device)
        x, y = read_batch(first, "train_loader", dtype)
        x = x.to(device)
        with seeded(self._settings.seed, "shape"), torch.no_grad():
            units, tensor_alone = check_outputs(self._model, x.clone(), "train_loader")
        check_values(self._model, "model")
        now = ModelState(trained_parameters(self._model), device, dtype, units, tensor_alone)
        if not self._tasks:
            value_range = range_of(x, self._settings.value_range, "train_loader")
            self._format = BatchFormat(tuple(x.shape[1:]), units, value_range, dtype, device)
            self._largest = float(x.abs().max())
        self._format.check(x, y, "train_loader")
        if self._learner is None or not self._tasks:
            self._learner = self._build(self._model if tensor_alone else Logits(self._model))
        now = replace(now, features=self._features(self._learner))
        if self._tasks:
            self._state.check_change(now, self._learner.strategy.regularizer)
            if self._learner.generator is not None:
                check_generator(self._learner.generator.to(device, dtype))
            self._learner.adopt_parameters()
        self._state = now
        return self._learner, x

    def _features(self, learner: Learner) -> int | None:
        reads = learner.generator is not None and learner.generator.reads_features
        return getattr(self._model, "feature_size", None) if reads else None

    def _build(self, solver: nn.Module) -> Learner:
        """Generator, strategy and learner for the solver and the samples of the format."""
        settings, form, provided, own = self._settings, self._format, {}, None
        if asks_for(settings.strategy, settings.strategy_path, "generator"):
            with seeded(settings.seed, "initialisation.generator"):
                spec = SampleSpec(form.shape, form.value_range)
                generator = build_generator(settings.generator, spec, form.units, solver, self._room_for_tasks)
            provided["generator"] = generator.to(form.dtype)
            own = build_generator_optimizer(settings.generator, generator)
        strategy = build(settings.strategy, settings.strategy_path, **provided)
        strategy.check(settings.scenario, solver)
        if strategy.copies_solver:
            check_copy(self._model)
        check_boundaries(False, strategy, settings.scenario)
        heads = torch.zeros(0, form.units, dtype=torch.bool)
        optimizer, draws = build(settings.optimizer, "optimizer"), Draws(settings.seed, form.device)
        precision = precision_of(form.dtype)
        rules = build_gradient_rules(settings.gradient_rule, settings.generator, strategy)
        return one_learner(
            solver,
            strategy,
            optimizer,
            settings.scenario,
            heads,
            draws,
            precision,
            generator_optimizer=own,
            gradient_rules=rules,
        )

    @property
    def _room_for_tasks(self) -> int | None:
        """Most tasks that share their classes, where they do: how many will come is not known."""
        settings = self._settings
        return None if settings.scenario.tasks_have_units else settings.generator.get("tasks", _MOST_TASKS)

    # --- after a task

    def _evaluate(self, learner: Learner) -> tuple[dict[int, float], dict[int, Exception]]:
        """Accuracies by task id on every validation loader so far, noted down; and errors, by task, of those that
        failed."""
        learnt, found, faults = len(self._tasks) - 1, {}, {}
        for task, (task_id, _, loader) in enumerate(self._tasks):
            if loader is not None:
                try:
                    row = self._evaluated(learner, task, loader)
                except Exception as error:
                    faults[task] = error
                else:
                    self._record.add(ACCURACY, [row])
                    found[task_id] = cast(float, row["accuracy"])
        tell_of_labels(self._classes, self._settings.scenario, f"task {self._tasks[learnt][0]}")
        return found, faults

    def _evaluated(self, learner: Learner, task: int, loader: Loader) -> Row:
        learnt, name = len(self._tasks) - 1, f"val_loader of task {self._tasks[task][0]}"
        units, seen = self._settings.scenario.testing_units(learner.heads, task, learnt), self._classes[task].clone()
        # The loader may draw from torch's global stream, which shall not move for it.
        with seeded(self._settings.seed, "evaluation", learnt, task), thread_limit(self._threads):
            result = learner.evaluate((self._format.read(pair, name, seen) for pair in loader), units)
        if result.n == 0:
            raise DataError(f"{name}: has no batch")
        unknown = (seen & ~self._classes[task]).nonzero().squeeze(1).tolist()
        if unknown and task == learnt:
            tell(f"{name}: labels {unknown[:9]} came in no training batch of this task")
        return accuracy_row(learnt, 0, task, "test", result.accuracy, result.loss, result.n, final=True)

    def _report(self, faults: Mapping[int, Exception]) -> None:
        """Raise the first error of a validation loader that did not fail before, and print the others."""
        new = [task for task in faults if task not in self._failed]
        self._failed = set(faults)
        empty = f"task {self._tasks[-1][0]} is trained, and recorded without this accuracy"
        for task, error in faults.items():
            if new[:1] != [task]:
                kind = "" if isinstance(error, GrError) else f"val_loader of task {self._tasks[task][0]}: "
                tell(f"{kind}{one_line(error)}; {empty}")
        if new and isinstance(faults[new[0]], GrError):
            raise DataError(f"{faults[new[0]]}; {empty}") from faults[new[0]]
        if new:
            faults[new[0]].add_note(f"val_loader of task {self._tasks[new[0]][0]}: {empty}")
            raise faults[new[0]]
