"""The Python API: `ContinualTrainer`, for any torch model and data loaders."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gr_cli.config.arguments import check_value
from gr_cli.config.shipped_options import plain_value
from gr_cli.errors import ConfigError, DataError, TrainingError
from gr_cli.generators.base import Generator
from gr_cli.nn.random_streams import RandomStreams, StreamNames, seeded
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.results.history import LossHistory
from gr_cli.results.record import Record
from gr_cli.strategies.context import Batch
from gr_cli.system.devices import default_threads, flush_denormals, num_parameters, pick_device, thread_limit
from gr_cli.system.memory import out_of_memory_as
from gr_cli.training.build import assemble_learner
from gr_cli.training.learner import Learner
from gr_cli.training.loaders import (
    LARGE_VALUE,
    BatchFormat,
    Loader,
    check_loader,
    check_repeatable,
    check_validation_loader,
    infer_value_range,
    last_batch_size,
    num_batches,
    read_batch,
    repeat_loader,
    warn_of_mismatched_labels,
)
from gr_cli.training.solver_checks import (
    PRECISIONS,
    LogitsOnly,
    ModelState,
    changed_parameters,
    check_copy,
    check_finite,
    check_generator,
    check_outputs,
    check_parameters,
    check_single_sample,
    first_names,
    modules_in_eval_mode,
    train_mode_except,
    trained_parameters,
    translate_torch_errors,
)
from gr_cli.training.trainer_evaluation import TrainerTask, ValidationEvaluator
from gr_cli.training.trainer_folder import TrainerFolder
from gr_cli.training.trainer_settings import TrainerSettings
from gr_cli.types import NonNegativeInt, PositiveInt

_DEFAULT_NUM_TASKS = 100  # tasks that a generator with gates by task has gates for, unless `num_tasks` is set


class ContinualTrainer:
    """Trains `model` on one task after the other, under a continual-learning strategy.

    Labels are output units of `model`. The units of a task are learned from the labels in its batches. Random numbers
    come from `seed`: torch's global stream is restored after each call, and loaders that draw from it shuffle as the
    seed determines.

    Between tasks the caller may change the model: values of parameters, which of them are trained (`requires_grad`),
    whole layers, and which modules are in evaluation mode (`model.bn.eval()`); these stay in that mode while others are
    trained. Changes that the strategy can't follow raise an error that names them, before training.

    Args:
        model: Maps a batch of samples to logits, one per output unit; trained in place. Its parameters are float32 or
            float64, and samples are converted to the same. A returned mapping or object with an entry `logits` is
            accepted.
        config: `optimizer: {type: adam, lr: 0.001}`, `gradient_rule: {type: none}`, `continual_strategy: {<name>:
            {enabled: true, <parameters>}}`, `generator: {type: vae, <parameters>}` (at the top level or inside
            `continual_strategy`), and optionally `scenario` (class | domain | task), `active_classes` (seen | all |
            task), `seed`, `log_every`, and `value_range` of all samples: [low, high], null for unbounded values, or
            auto: [0, 1] if the first batch lies in it, else null. Missing settings have the defaults of their class;
            without a strategy it is plain finetuning.
        device: Device to train on. Default: that of the model's parameters.
        output_dir: Folder for tables and the latest checkpoint. Default: nothing is written.

    Raises:
        ConfigError: A value of `config` does not fit; names its path.
        FolderError: `output_dir` contains a run already, or can't be created.
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
        self._model, self._settings = model, TrainerSettings.from_config(config)
        self._requested_device = None if device is None else pick_device(str(device))
        if str(device) == "meta":
            raise ConfigError("device", device, "has no values to train")
        self._modules_in_eval_mode = modules_in_eval_mode(model, ())
        self._learner: Learner | None = None
        self._model_state: ModelState  # the model at the beginning of the newest task
        self._tasks: list[TrainerTask] = []
        self._validation_evaluator = ValidationEvaluator(self._settings.seed)
        self._is_training = False
        self._record = Record()
        self._folder = None if output_dir is None else TrainerFolder(output_dir)

    # --- properties

    @property
    def model(self) -> nn.Module:
        """The trained model."""
        return self._model

    @property
    def device(self) -> torch.device:
        """The device of training."""
        model_device = next((p.device for p in self._model.parameters()), torch.device("cpu"))
        return self._requested_device or model_device

    @property
    def generator_model(self) -> Generator:
        """The generator.

        Raises:
            AttributeError: Before the first task, or with a strategy without generator.
        """
        if not self._tasks or self._learner is None or self._learner.generator is None:
            raise AttributeError("there is no generator yet")
        return self._learner.strategy.sampling_generator(0, self._learner.generator)

    @property
    def accuracy_matrix(self) -> list[list[float | None]]:
        """A row per trained task, a column per task; None for tasks not trained yet, or without a validation loader."""
        recorded, num_tasks = self._record.accuracy_by_training(), len(self._tasks)
        rows = [recorded.get(task, []) for task in range(num_tasks)]
        return [row + [None] * (num_tasks - len(row)) for row in rows]

    @property
    def metrics(self) -> dict[str, float | None]:
        """Average accuracy, forgetting and so on, as defined in `gr_cli.results.metrics`."""
        networks = {"solver": self.model, "generator": None if self._learner is None else self._learner.generator}
        return self._record.metrics(
            False, {name: num_parameters(net) for name, net in networks.items() if net is not None}
        )

    # --- training

    def train_task(
        self,
        train_loader: Loader,
        val_loader: Loader | None = None,
        task_id: int | None = None,
        task_name: str | None = None,
        num_epochs: int = 1,
    ) -> dict[int, float]:
        """Train on one task, then evaluate on the validation loaders of all tasks so far.

        If training fails or is interrupted, model, generator and optimizer are restored to their state before it. If an
        evaluation fails, the task stays trained and recorded, without that accuracy; a loader that fails again after
        later tasks is reported on stderr instead of raised.

        Args:
            train_loader: Yields (x, y): x (B, ...) numbers, of which bytes and images are scaled to [0, 1]; y (B,)
                output units. A third entry may be a task label; a mapping has two entries, one of them named `label` or
                `y`.
            val_loader: The same, for evaluation now and after each later task; kept by reference.
            task_id: A number not used before. Default: one more than the largest.
            task_name: Name for tables and messages.
            num_epochs: Passes over `train_loader`.

        Returns:
            Accuracy by task id.

        Raises:
            ConfigError: An argument or the model does not fit.
            DataError: A batch does not fit.
        """
        task_id, num_epochs = self._check_task_id_and_epochs(task_id, num_epochs)
        check_loader(train_loader, "train_loader")
        check_validation_loader(val_loader, f"val_loader of task {task_id}")
        if self._folder is not None and not self._tasks:
            self._folder.check_unused()
        name = f"task {task_id}" if task_name is None else str(task_name)
        # Training needs gradients, also within a caller's `no_grad` or `inference_mode`.
        with torch.inference_mode(False), torch.enable_grad(), out_of_memory_as(), self._refuse_reentry():
            learner = self._train(train_loader, num_epochs, task_id, name, val_loader)
            try:
                accuracies, errors = self._validation_evaluator.evaluate(
                    learner, self._tasks, self._batch_format, self._record, self._threads
                )
            finally:
                self._write_folder(learner)
        warn_of_mismatched_labels([task.classes for task in self._tasks], self._settings.scenario, f"task {task_id}")
        self._validation_evaluator.report_errors(self._tasks, errors)
        return accuracies

    def _write_folder(self, learner: Learner) -> None:
        if self._folder is not None:
            provenance = {"seed": self._settings.seed, "device": str(self.device), "threads": self._threads}
            names = [(task.task_id, task.name) for task in self._tasks]
            self._folder.write(self._settings.config, self._record, self.metrics, learner, names, provenance)

    @contextmanager
    def _refuse_reentry(self) -> Iterator[None]:
        if self._is_training:
            raise TrainingError("train_task: called by a loader while a task is trained; call it afterwards")
        self._is_training = True
        try:
            yield
        finally:
            self._is_training = False

    def _check_task_id_and_epochs(self, task_id: Any, num_epochs: Any) -> tuple[int, int]:
        """The id of the new task and the number of passes, validated."""
        epochs, used = plain_value(num_epochs, "num_epochs"), [task.task_id for task in self._tasks]
        check_value(epochs, PositiveInt, "num_epochs")
        number = max(used, default=-1) + 1 if task_id is None else plain_value(task_id, "task_id")
        check_value(number, NonNegativeInt, "task_id")
        if number in used:
            raise ConfigError("task_id", number, f"was trained already; use a number other than {used}")
        return number, epochs

    def _train(self, loader: Loader, num_epochs: int, task_id: int, name: str, validation: Loader | None) -> Learner:
        """Train on a new task and append it to the tasks."""
        task, length = len(self._tasks), num_batches(loader)
        with seeded(self._settings.seed, StreamNames.TRAINER_LOADER, task):
            # The first batch is read for checks and then trained on: iterators yield it only once.
            batches = repeat_loader(loader, count() if length is not None else range(num_epochs), length)
            first = next(batches, None)
            if first is None:
                raise DataError(f"train_loader: task {task_id} has no batch")
            in_eval_mode = modules_in_eval_mode(self._model, self._modules_in_eval_mode)
            with train_mode_except(self._model, in_eval_mode), translate_torch_errors("train_loader"):
                learner, x = self._prepare_learner(first)
                check_repeatable(learner, loader, length, num_epochs)
                if task == 0 and length != 1 and last_batch_size(loader) == 1:
                    with seeded(self._settings.seed, StreamNames.TRAINER_SHAPE):
                        check_single_sample(self._model, x[:1], "train_loader")
                self._modules_in_eval_mode = in_eval_mode
                self._threads = default_threads(self._model, len(x))
                no_classes = torch.zeros(self._batch_format.num_units, dtype=torch.bool)
                with self._rollback_on_failure(learner, TrainerTask(task_id, name, validation, no_classes)):
                    history = LossHistory([self._record], self._settings.log_every, task)
                    with thread_limit(self._threads), flush_denormals():
                        learner.train_task(
                            task,
                            self._batches(learner, chain([first], batches)),
                            sys.maxsize if length is None else num_epochs * length,
                            lambda step, losses: self._raise_first(history.add(step.iteration, losses)),
                            sample_pass=lambda replica: (self._read_batch(batch, learner) for batch in loader),
                        )
                    self._raise_first(history.close())
        return learner

    def _batches(self, learner: Learner, loaded: Iterable[Any]) -> Iterator[Batch]:
        """The loader's batches for the learner; adds their labels to the output units of the task."""
        task, scenario = len(self._tasks) - 1, self._settings.scenario
        num_seen, units = -1, tuple[Tensor, ...]()
        for batch in loaded:
            if changed := changed_parameters(self._model_state.parameters, trained_parameters(self._model)):
                raise ConfigError(
                    "model", first_names(changed), "changed while a task is trained", "do so between tasks"
                )
            x, y = self._read_batch(batch, learner)
            if (num_classes := int(self._tasks[task].classes.sum())) != num_seen:
                # The same tensors until a label is new: masks that are made from them are kept.
                num_seen, task_units = num_classes, learner.task_units.clone()
                units = (
                    scenario.training_units(task_units, task),
                    scenario.replay_units(task_units, task),
                    scenario.competing_units(task_units, task),
                )
            yield Batch(x.unsqueeze(0), y.unsqueeze(0), *units)

    def _read_batch(self, batch: Any, learner: Learner) -> tuple[Tensor, Tensor]:
        """Samples and labels of the current task."""
        *earlier, current = [task.classes for task in self._tasks]
        other_units = torch.stack(earlier).any(0) if earlier and self._settings.scenario.task_id_available else None
        x, y = self._batch_format.read(batch, "train_loader", current, other_units)
        learner.task_units[len(self._tasks) - 1, y] = True
        return x, y

    def _raise_first(self, errors: Mapping[int, TrainingError]) -> None:
        for error in errors.values():
            if self._max_abs_value > LARGE_VALUE:
                raise TrainingError(
                    f"{error}, or samples scaled to [0, 1]: the first batch reaches {self._max_abs_value:g}"
                )
            raise error

    @contextmanager
    def _rollback_on_failure(self, learner: Learner, new_task: TrainerTask) -> Iterator[None]:
        """Append a task inside the block; on failure restore everything to its state before."""
        task, state, rows = len(self._tasks), learner.state_of(0), len(self._record.history)
        self._tasks.append(new_task)
        row = learner.task_units.new_full(
            (1, self._batch_format.num_units), not self._settings.scenario.units_are_task_specific
        )
        learner.task_units = torch.cat([learner.task_units, row])
        try:
            yield
        except BaseException as error:
            del self._tasks[task:], self._record.history[rows:]
            learner.release_task()
            try:
                learner.load_states([state], task)
            except Exception as problem:  # the caller replaced layers meanwhile; raise the first error
                error.add_note(f"the model could not be restored: {problem}")
            raise

    # --- model and learner

    def _prepare_learner(self, first: Any) -> tuple[Learner, Tensor]:
        """The learner, built or updated to the model's current parameters, and the samples of the first batch."""
        device, dtype = check_parameters(self._model, self._requested_device)
        x, y = read_batch(first, "train_loader", dtype)
        x = x.to(device)
        with seeded(self._settings.seed, StreamNames.TRAINER_SHAPE), torch.no_grad():
            num_units, returns_tensor = check_outputs(self._model, x.clone(), "train_loader")
        check_finite(self._model, "model")
        if not self._tasks:
            spec = SampleSpec(tuple(x.shape[1:]), infer_value_range(x, self._settings.value_range, "train_loader"))
            self._batch_format = BatchFormat(spec, num_units, dtype, device)
            self._max_abs_value = float(x.abs().max())
        self._batch_format.check(x, y, "train_loader")
        if self._learner is None or not self._tasks:
            self._learner = self._build_learner(self._model if returns_tensor else LogitsOnly(self._model))
        generator = self._learner.generator
        reads_features = generator is not None and generator.reads_features
        feature_size = getattr(self._model, "feature_size", None) if reads_features else None
        parameters = trained_parameters(self._model)
        state = ModelState(parameters, device, dtype, num_units, returns_tensor, feature_size)
        if self._tasks:
            self._model_state.check_change(state, self._learner.strategy.regularizer)
            if generator is not None:
                check_generator(generator.to(device, dtype))
            self._learner.rebind_parameters()
        self._model_state = state
        return self._learner, x

    def _build_learner(self, solver: nn.Module) -> Learner:
        """The learner around `solver`, for samples in the batch format."""
        settings, batch_format = self._settings, self._batch_format
        num_tasks = None  # each task has output units of its own
        if not settings.scenario.units_are_task_specific:  # the number of tasks to come is unknown
            num_tasks = settings.nodes["generator"].get("num_tasks", _DEFAULT_NUM_TASKS)
        learner = assemble_learner(
            solver,
            settings.nodes,
            batch_format.spec,
            settings.scenario,
            torch.zeros(0, batch_format.num_units, dtype=torch.bool),
            RandomStreams(settings.seed, batch_format.device),
            PRECISIONS[batch_format.dtype],
            num_tasks,
            strategy_path=settings.strategy_path,
        )
        if learner.strategy.uses_teacher:
            check_copy(self._model)
        return learner
