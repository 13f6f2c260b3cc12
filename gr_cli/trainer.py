"""The Python door: `ContinualTrainer`, for a model and data loaders of one's own."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from gr_cli.assembly import build_generator, build_generator_optimizer, one_learner
from gr_cli.benchmarks.base import Kind
from gr_cli.build import asks_for, build, check, check_node, resolve, split_optimizer
from gr_cli.checks import Count, PositiveInt
from gr_cli.errors import ConfigError, DataError, FolderError, TrainingError, suggestion
from gr_cli.generators.base import Generator
from gr_cli.layers import mode
from gr_cli.learner import Learner
from gr_cli.machine import default_threads, flushing_denormals, pick_device, size, thread_limit
from gr_cli.options import STRATEGY, generator_node, plain, strategy_node, typed_node
from gr_cli.randomness import Draws, seeded
from gr_cli.results.folder import RunFolder
from gr_cli.results.record import EvaluationRow, History, Record
from gr_cli.results.status import Status
from gr_cli.scenario import Scenario
from gr_cli.settings import PROVIDED
from gr_cli.strategies.base import Batch
from gr_cli.stretches import check_boundaries

Loader = Iterable[Any]
_SETTINGS = ("optimizer", "continual_strategy", "generator", "scenario", "active_classes", "seed", "log_every")


class ContinualTrainer:
    """Trains `model` on tasks that come one after the other, under the strategy that `config` names.

    Args:
        model: maps a batch of samples to logits, one per output unit; trained in place.
        config: `optimizer: {type: adam, lr: 0.001}`, `continual_strategy: {<name>: {enabled: true, <parameters>}}`,
            `generator: {type: vae, <parameters>}` (beside or inside `continual_strategy`), and if wanted
            `scenario` (class | domain | task), `active_classes` (seen | all), `seed`, `log_every`.
            What is left out has the defaults of the class it goes to; without a strategy it is plain finetuning.
        device: where to train; default: where the model's parameters are.
        output_dir: a folder for the tables and the newest state; default: nothing is written.

    Labels are output units of `model`. Which units belong to a task is learnt from the labels that come with it.
    Random numbers come from `seed`: torch's global stream is put back as it was, and loaders that draw from it
    shuffle as the seed says.

    Raises:
        ConfigError: a value of `config` does not fit; named by its path.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Mapping[str, Any] | None = None,
        *,
        device: torch.device | str | None = None,
        output_dir: str | Path | None = None,
    ) -> None:
        config = plain(config or {}, "config")
        for name in config:
            if name not in _SETTINGS:
                raise ConfigError(
                    f"config.{name}",
                    config[name],
                    f"no such setting; there are {', '.join(_SETTINGS)}",
                    suggestion(name, _SETTINGS),
                )
        home = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.model = model
        self.device = home if device is None else pick_device(str(device))
        self.seed = config.get("seed", 0)
        check(self.seed, Count, "config.seed")
        self._log_every = config.get("log_every", 50)
        check(self._log_every, PositiveInt, "config.log_every")
        self._strategy, inner, takes = strategy_node(config.get(STRATEGY))
        self._generator = generator_node(config.get("generator", inner), takes)
        self._optimizer = typed_node("optimizer", config.get("optimizer"), "adam")
        self._scenario: Scenario = build(
            {
                "_target_": "gr_cli.scenario.Scenario",
                "kind": config.get("scenario", "class"),
                "active_classes": config.get("active_classes", "seen"),
            },
            "config",
        )
        self._learner: Learner | None = None
        self._tasks: list[tuple[int, str, Loader | None]] = []
        self._record = Record()
        self._folder = None if output_dir is None else RunFolder(Path(output_dir))
        if self._folder is not None and self._folder.status() is not None:
            raise FolderError(f"{output_dir}: holds a run already; name another output_dir")
        self._config = config
        generator, own = split_optimizer(self._generator)
        for node, path in ((self._strategy, STRATEGY), (generator, "generator"), (self._optimizer, "optimizer")):
            check_node(node, path, PROVIDED[path if path in PROVIDED else "strategy"])
        if own is not None:
            check_node(own, "generator.optimizer", ())
        if resolve(self._strategy["_target_"], STRATEGY).sees != "task":  # type: ignore[attr-defined]
            name = next(iter(config[STRATEGY]))
            raise ConfigError(
                STRATEGY,
                name,
                "needs other tasks beside the current one, and here they come one by one",
                f"try gr-run strategy={name}",
            )

    # --- what a caller may look at

    @property
    def generator_model(self) -> Generator:
        """The generator; there is none before the first task, or without a strategy that needs one."""
        if self._learner is None or self._learner.generator is None:
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

        Args:
            train_loader: yields (x, y): x (B, ...) float, or bytes that become [0, 1]; y (B,) output units.
            val_loader: the same, for evaluation now and after each later task; kept by reference.
            task_id: a number that names the task, not used before; default: one more than the last.
            task_name: for people.
            num_epochs: passes over `train_loader`.

        Returns:
            Accuracy by task id.

        Raises:
            ConfigError, DataError: the arguments don't fit, or a batch doesn't.
        """
        check(num_epochs, PositiveInt, "num_epochs")
        known = [task for task, _, _ in self._tasks]
        task_id = max(known, default=-1) + 1 if task_id is None else task_id
        check(task_id, Count, "task_id")
        if task_id in known:
            raise ConfigError("task_id", task_id, f"was trained already; give a number besides {known}")
        task, length = len(self._tasks), _length(train_loader)
        if val_loader is not None and _length(val_loader) == 0:
            raise DataError(f"val_loader of task {task_id}: has no batch")
        with seeded(self.seed, "loader", task):
            # One stream of batches, looked into and put back: no batch is read twice, none is lost.
            passes = count() if length is not None else range(num_epochs)
            pairs = _repeated(train_loader, passes)
            first = next(pairs, None)
            if first is None:
                raise DataError(f"train_loader: task {task_id} has no batch")
            learner = self._prepared(first)
            if length is None:
                self._check_endless(learner)
            again = learner.strategy.looks_again or getattr(learner.strategy.regularizer, "looks_again", False)
            if again and iter(train_loader) is train_loader:
                raise DataError(
                    "train_loader: can be gone through once only, and this strategy looks at its samples again; "
                    "give a list or a DataLoader"
                )
            x, _ = self._checked(first, "train_loader")
            row = learner.heads.new_full((1, learner.heads.shape[1]), not self._scenario.tasks_have_units)
            learner.heads = torch.cat([learner.heads, row])
            self._tasks.append((task_id, task_name or f"task {task_id}", val_loader))
            self._threads = default_threads(self.model, len(x))
            history = History([self._record], self._log_every, task)
            before = len(self._record.history)
            iterations = sys.maxsize if length is None else num_epochs * length
            try:
                with thread_limit(self._threads), flushing_denormals():
                    batches = self._batches(chain([first], pairs), task)

                    learner.train_task(
                        task,
                        batches,
                        iterations,
                        lambda *step: _raise(history.add(*step)),
                        samples=lambda replica: self._again(train_loader, task),
                    )
                _raise(history.close())
            except BaseException:
                # The task did not come to its end: it is not one of those seen, and its samples are let go.
                learner.heads = learner.heads[:task]
                self._tasks.pop()
                del self._record.history[before:]
                learner.leave_task()
                raise
        return self._evaluate(task)

    def _check_endless(self, learner: Learner) -> None:
        """Refuse what must know beforehand how many steps there will be."""
        long = 10**9
        schedules = {optimizer.schedule for optimizer in (*learner.optimizers, *learner.generator_optimizers)}
        if learner.strategy.steps(long) > long or schedules != {"constant"}:
            raise ConfigError(
                "train_loader",
                "one without len()",
                "generator_training=after and learning-rate schedules need to know how many batches there are",
                "give a loader that has len()",
            )

    def _batches(self, pairs: Iterable[Any], task: int) -> Iterator[Batch]:
        """What the loader yields, as batches; notes which units belong to the task."""
        learner = self._prepared(None)
        for pair in pairs:
            x, y = self._checked(pair, "train_loader")
            learner.heads[task, y] = True
            units = self._scenario.training_units(learner.heads, task)
            yield Batch(x.unsqueeze(0), y.unsqueeze(0), units, *self._rules(learner.heads, task))

    def _again(self, loader: Loader, task: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One more pass over a task's samples, for strategies that look at them again."""
        for pair in loader:
            x, y = self._checked(pair, "train_loader")
            self._prepared(None).heads[task, y] = True
            yield x, y

    def _rules(self, heads: Tensor, task: int) -> tuple[Tensor, Tensor]:
        return self._scenario.replay_units(heads, task), self._scenario.rivals(heads, task)

    def _prepared(self, first: Any) -> Learner:
        """The learner, built when the first batch shows what samples look like."""
        if self._learner is None:
            self.model.to(self.device)
            with seeded(self.seed, "shape"), torch.no_grad(), mode(self.model, training=False):
                x = _pair(first, "train_loader", None, self.device)[0]
                units = self.model(x).shape[-1]
            self._learner = self._build(x, units)
            self._shape = x.shape[1:]
        return self._learner

    def _checked(self, pair: Any, loader: str) -> tuple[Tensor, Tensor]:
        """A loader's pair on the device; its samples and labels must be such as the first ones were."""
        x, y = _pair(pair, loader, self._prepared(None).heads.shape[1], self.device, self._bounded)
        if x.shape[1:] != self._shape:
            shapes = f"{tuple(self._shape)}, not {tuple(x.shape[1:])}"
            raise DataError(f"{loader}: samples must have the shape of the first ones, {shapes}")
        return x, y

    def _build(self, x: Tensor, units: int) -> Learner:
        """Generator, strategy and learner for samples like those in `x` (B, ...)."""
        provided: dict[str, Any] = {}
        own, self._bounded = None, False
        if asks_for(self._strategy, STRATEGY, "generator"):
            shape = tuple(x.shape[1:])
            self._bounded = bool(x.min() >= 0 and x.max() <= 1)
            with seeded(self.seed, "initialisation.generator"):
                kind = Kind(shape, (0.0, 1.0) if self._bounded else None, 1)
                provided["generator"] = build_generator(self._generator, kind, units, self.model)
            own = build_generator_optimizer(self._generator, provided["generator"])
        strategy = build(self._strategy, STRATEGY, **provided)
        strategy.check(self._scenario, self.model)
        check_boundaries(False, strategy, self._scenario)
        heads = torch.zeros(0, units, dtype=torch.bool)
        optimizer = build(self._optimizer, "optimizer")
        draws = Draws(self.seed, self.device)
        return one_learner(self.model, strategy, optimizer, self._scenario, heads, draws, generator_optimizer=own)

    # --- after a task

    def _evaluate(self, learnt: int) -> dict[int, float]:
        """Evaluate on every validation loader so far; note it down, and write it if there is a folder."""
        learner, found = self._prepared(None), {}
        for task, (task_id, _, loader) in enumerate(self._tasks):
            if loader is None:
                continue
            units, name = self._scenario.testing_units(learner.heads, task, learnt), f"val_loader of task {task_id}"
            # The loader may draw from torch's global stream, which shall not move for it.
            with seeded(self.seed, "evaluation", learnt, task), thread_limit(self._threads):
                result = learner.evaluate((self._checked(pair, name) for pair in loader), units)
            if result.n == 0:
                raise DataError(f"{name}: has no batch")
            row = EvaluationRow(learnt, 0, task, "test", result.accuracy, result.loss, result.n, final=True)
            self._record.evaluations.append(row)
            found[task_id] = result.accuracy
        if self._folder is not None:
            with self._folder.locked():
                self._write(self._folder, learner)
        return found

    def _write(self, folder: RunFolder, learner: Learner) -> None:
        folder.write_config(yaml.safe_dump({"python_api": self._config}, sort_keys=False))
        folder.write_tables(self._record, self.metrics)
        folder.save_checkpoint({"record": self._record.state_dict(), "learner": learner.state_of(0)})
        names = [{"task": task, "id": task_id, "name": name} for task, (task_id, name, _) in enumerate(self._tasks)]
        strategy = learner.strategy
        facts = {
            "seed": self.seed,
            "tasks": names,
            "mode": "python",
            "stores_raw_samples": strategy.stores_raw_samples,
            "device": str(self.device),
            "threads": self._threads,
        }
        Status(folder, facts).write("running", "more tasks may come")


def _pair(
    pair: Any, loader: str, units: int | None, device: torch.device, bounded: bool = False
) -> tuple[Tensor, Tensor]:
    """x (B, ...) float and y (B,) int64 on `device`, from what a loader yields.

    `units` of the model, and whether x is `bounded` by 0 and 1, where that is known already.
    """
    try:
        x, y = pair
        x, y = torch.as_tensor(x), torch.as_tensor(y)
    except (TypeError, ValueError) as error:
        raise DataError(f"{loader}: must yield pairs (x, y) of tensors, not {type(pair).__name__}") from error
    if x.dim() < 2 or y.dim() != 1 or len(x) != len(y):
        raise DataError(f"{loader}: a batch must be x (B, ...) and y (B,), not {tuple(x.shape)} and {tuple(y.shape)}")
    if x.numel() == 0:
        raise DataError(f"{loader}: a batch holds nothing, its x is {tuple(x.shape)}; leave it out")
    # Before they go to the device, which would have to be waited for.
    low, high = _extremes(y)
    if y.is_floating_point() or (units is not None and not 0 <= low <= high < units):
        most = "" if units is None else f" from 0 to {units - 1}, the model's outputs"
        raise DataError(f"{loader}: labels must be whole numbers{most}; got {y.unique()[:9].tolist()}")
    if x.dtype == torch.uint8:
        return x.to(device).float() / 255, y.to(device).long()
    x = x.float()
    low, high = _extremes(x)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(f"{loader}: samples hold NaN or infinity; remove or repair them")
    if bounded and (low < 0 or high > 1):
        raise DataError(f"{loader}: samples must lie in [0, 1] as the first ones did, not in [{low:.3g}, {high:.3g}]")
    return x.to(device), y.to(device).long()


def _extremes(values: Tensor) -> tuple[float, float]:
    """The least and the greatest of some values, NaN where there is one, at the price of one synchronisation."""
    low, high = torch.stack(torch.aminmax(values)).tolist()
    return low, high


def _raise(errors: Mapping[int, TrainingError]) -> None:
    for error in errors.values():
        raise error


def _repeated(loader: Loader, passes: Iterable[int]) -> Iterator[Any]:
    """What `loader` yields, once for each of `passes`; it ends when a pass brings nothing."""
    for _ in passes:
        nothing = True
        for pair in loader:
            nothing = False
            yield pair
        if nothing:
            return


def _length(loader: Loader) -> int | None:
    """How many batches a loader has; None if it can't tell."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None
