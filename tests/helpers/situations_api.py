"""Messages of the Python API: settings, loaders and models that are invalid."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gr_cli import ContinualTrainer, SimpleMLP, load_run
from gr_cli.nn.class_statistics import ClassStatistics
from gr_cli.results.membership_scores import MembershipScores
from helpers.loaders import REPLAY, holding, loader, make_trainer
from helpers.situations import Hands, Situation, Table


def trainer_with(config: dict, **settings: Any) -> ContinualTrainer:
    return ContinualTrainer(SimpleMLP(6, [8], 4), config, **settings)


def configured(**config: Any) -> Situation:
    """A trainer with this configuration."""
    return lambda hands: trainer_with(config)


def trained(batches: Callable[[], Any], validation: Any = None, **config: Any) -> Situation:
    """Train one task on these batches."""
    return lambda hands: trainer_with(config).train_task(batches(), validation)


def of_x(x: Any) -> Situation:
    return trained(lambda: loader(x=x))


def of_y(y: Any) -> Situation:
    return trained(lambda: loader(y=y))


def of_batch(batch: Any) -> Situation:
    return trained(lambda: [batch])


def of_model(model: Callable[[], nn.Module], strategy: dict | None = None) -> Situation:
    """Train one task with a model of the caller's."""
    return lambda hands: ContinualTrainer(model(), {"continual_strategy": strategy}).train_task(loader())


def changed(change: Callable[[nn.Module], object], strategy: dict | None = None) -> Situation:
    """Train a second task after a change of the model."""

    def do(hands: Hands) -> object:
        trainer = trainer_with({"continual_strategy": strategy})
        trainer.train_task(loader())
        change(trainer.model)
        return trainer.train_task(loader())

    return do


class Returning(nn.Module):
    """A model that returns a function of its logits."""

    def __init__(self, returned: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.returned = SimpleMLP(6, [8], 4), returned

    def forward(self, x: Tensor) -> Any:
        return self.returned(self.net(x))


class Subtracting(Returning):
    def forward(self, x: Tensor) -> Any:
        return self.net(x.sub_(0.5))


class Locked(Returning):
    def __init__(self) -> None:
        super().__init__(lambda logits: logits)
        self.lock = threading.Lock()


class Sized:
    """Batches whose `__len__` is wrong."""

    def __init__(self, number: int, said: int) -> None:
        self.number, self.said = number, said

    def __len__(self) -> int:
        return self.said

    def __iter__(self) -> Iterator[Any]:
        return iter(loader(self.number))


class Once:
    """Batches that can be iterated once and have no length."""

    def __init__(self) -> None:
        self.batches = iter(loader())

    def __iter__(self) -> Iterator[Any]:
        return self.batches


class Empty:
    def __iter__(self) -> Iterator[Any]:
        return iter(())


def batch_normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))


def half_on_meta() -> nn.Module:
    model = SimpleMLP(6, [8], 4)
    model.output.to("meta")
    return model


def frozen_output(model: nn.Module) -> None:
    model.output.requires_grad_(False)


def generator_frozen(hands: Hands) -> object:
    trainer = make_trainer(REPLAY)
    trainer.train_task(loader())
    trainer.generator_model.requires_grad_(False)
    return trainer.train_task(loader())


def within_itself(hands: Hands) -> object:
    trainer = trainer_with({})

    def batches() -> Iterator[Any]:
        yield loader()[0]
        trainer.train_task(loader())
        yield loader()[1]

    return trainer.train_task(batches())


def frozen_meanwhile(hands: Hands) -> object:
    trainer = trainer_with({})

    def batches() -> Iterator[Any]:
        yield loader()[0]
        frozen_output(trainer.model)
        yield loader()[1]

    return trainer.train_task(batches())


def twice_with_one_number(hands: Hands) -> object:
    trainer = make_trainer()
    trainer.train_task(loader(), task_id=7)
    return trainer.train_task(loader(), task_id=7)


def twice_with_labels_from_0(hands: Hands) -> object:
    trainer = trainer_with({"scenario": "task"})
    trainer.train_task(loader())
    return trainer.train_task(loader())


def twice_into_one_folder(hands: Hands) -> object:
    for _ in range(2):
        trainer_with({}, output_dir="run").train_task(loader())
    return None


def loaded_from_a_trainer(hands: Hands) -> object:
    trainer_with({}, output_dir="run").train_task(loader())
    return load_run("run")


ONES = (torch.rand(1, 6), torch.tensor([0]))
X, Y = torch.rand(4, 6), torch.arange(4)


def dropped_from_a_total(hands: Hands) -> object:
    """Drop a class of statistics that are kept of all samples together."""
    statistics = ClassStatistics("total")
    statistics.add(0, X, torch.arange(len(X)) % 2)
    return statistics.drop(torch.tensor([[False, True]]))


def of_fixed_point(x: torch.Tensor, *removed: torch.Tensor) -> Situation:
    """Add samples to statistics in fixed point, and remove others."""

    def do(hands: Hands) -> object:
        statistics = ClassStatistics("class", fixed_point=True)
        statistics.add(0, x, torch.zeros(len(x), dtype=torch.long))
        return [statistics.remove(0, 0, each) for each in removed]

    return do


API: Table = {
    "nn/class_statistics.py": [
        ("does not keep {}; run with strategy.keep={}", dropped_from_a_total),
        ("strategy.arithmetic=float64: rounds sums", lambda hands: ClassStatistics().remove(0, 0, X)),
        ("counts or sums would be those of no samples", of_fixed_point(X, torch.cat([X, X]))),
    ],
    "nn/fixed_point.py": [
        ("samples have values beyond {}", of_fixed_point(5000 * torch.ones(1, 6))),
        ("exceeds 2**62 steps", of_fixed_point(4000 * torch.ones(20_000, 1))),
    ],
    "training/loaders.py": [
        ("are outputs of an earlier task", twice_with_labels_from_0),
        ("must have the shape of the first", of_x(torch.rand(4, 2, 3))),
        ("labels must be whole numbers {}; got {}", of_y(torch.tensor([0, 1, 2, 4]))),
        ("samples must lie in [{}, {}]", lambda hands: make_trainer(REPLAY).train_task(loader(x=holding(1.5)))),
        ("yields single samples", of_batch((X[0], 3))),
        ("of one-hot rows give y.argmax(1)", of_y(torch.eye(4))),
        ("labels must be whole numbers; got {}", of_y(torch.rand(4))),
        ("a batch must be x (B, ...)", of_y(torch.tensor([0]))),
        ("a batch is empty", trained(lambda: loader(x=torch.rand(0, 6), y=torch.arange(0)))),
        ("ambiguous x and y among the entries", of_batch({"x": X, "mask": X, "label": Y})),
        ("yields triples whose third entry is not a task label", of_batch((X, Y, Y))),
        ("must yield pairs", of_batch(X)),
        ("have different shapes, {} and {}", of_x([X[0], X[1], X[2], X[3][:5]])),
        ("samples hold NaN or infinity", of_x(holding(float("nan")))),
        ("must be an iterable of batches", trained(lambda: "train")),
        ("is needed after each task", trained(loader, iter(()))),
        ("{}: has no batch", trained(loader, [])),
        ("train_loader=one without len()", trained(lambda: iter(loader()), optimizer={"schedule": "cosine"})),
        ("can be iterated only once, and {}", trained(lambda: iter(loader()), continual_strategy={"ewc": {}})),
        ("has no batch when iterated again", lambda hands: make_trainer().train_task(Once(), num_epochs=2)),
        ("and it yields more batches", trained(lambda: Sized(3, 2))),
        ("and it yields {} batches", trained(lambda: Sized(2, 3))),
    ],
    "config/shipped_options.py": [
        ("must be a mapping of settings", configured(optimizer="adam")),
        ("can't be read", configured(optimizer=type("Broken", (dict,), {"items": lambda self: 1 / 0})(lr=1))),
        ("must be null, true or false", configured(generator=SimpleMLP(6))),
        ("only one strategy can be", configured(continual_strategy={"er": {}, "ewc": {}})),
        ("must be one of", configured(optimizer={"type": "adan"})),
    ],
    "results/stored_config.py": [
        ("is the folder of a ContinualTrainer", loaded_from_a_trainer),
    ],
    "results/membership_scores.py": [
        ("holds no membership scores", lambda _: MembershipScores.load(Path("membership_scores_0.npz"))),
    ],
    "training/solver_checks.py": [
        ("must be as in the first task", changed(lambda model: model.double())),
        ("can't be replaced, frozen or unfrozen", changed(frozen_output, {"si": {}})),
        ("an entry `logits`", of_model(lambda: Returning(lambda logits: (logits, logits)))),
        ("nothing can be trained", of_model(lambda: SimpleMLP(6, [8], 4).requires_grad_(False))),
        ("must lie on one device", of_model(half_on_meta)),
        ("is on the meta device", of_model(lambda: SimpleMLP(6, [8], 4).to("meta"))),
        ("must be all float32 or all float64", of_model(lambda: SimpleMLP(6, [8], 4).bfloat16())),
        ("holds NaN or infinity before training", changed(lambda model: model.output.bias.data.fill_(torch.nan))),
        ("changes its input in place", of_model(lambda: Subtracting(lambda logits: logits))),
        ("the model can't be moved there", lambda hands: trainer_with({}, device="mps").train_task(loader())),
        ("is frozen", generator_frozen),
        ("must return logits (B, U), not {}", of_model(lambda: Returning(lambda logits: logits[:, 0]))),
        ("returns probabilities", of_model(lambda: Returning(lambda logits: logits.softmax(1)))),
        ("can't take samples of shape", trained(lambda: [(torch.rand(4, 5), Y)])),
        ("can't be copied", of_model(Locked, {"lwf": {}})),
        ("a batch has one sample", lambda hands: ContinualTrainer(batch_normalised()).train_task([*loader(), ONES])),
    ],
    "training/trainer_evaluation.py": [
        ("{}: has no batch", trained(loader, Empty())),
        (
            "ValidationEvaluator.report_errors",
            trained(loader, loader(x=holding(torch.nan))),
            "recorded without this accuracy",
        ),
    ],
    "training/trainer.py": [
        ("must be a torch.nn.Module", lambda hands: ContinualTrainer(SimpleMLP)),
        ("was trained already", twice_with_one_number),
        ("train_loader: task {} has no batch", trained(list)),
        ("has no values to train", lambda hands: trainer_with({}, device="meta")),
        ("called by a loader while a task is trained", within_itself),
        ("changed while a task is trained", frozen_meanwhile),
        ("or samples scaled to [0, 1]", trained(lambda: [(X * 1e30, Y)] * 6, continual_strategy=REPLAY)),
    ],
    "training/trainer_folder.py": [
        ("must name a folder", lambda hands: trainer_with({}, output_dir="")),
        ("contains a run already", twice_into_one_folder),
    ],
    "training/trainer_settings.py": [
        ("config.{}={}: no such setting", configured(lr=1)),
        ("must be [low, high], the lower first", configured(value_range=[1, 0])),
        ("is set in config.generator, too", configured(generator={}, continual_strategy={"generator": {}})),
        ("trains on several tasks at once", configured(continual_strategy={"joint": {}})),
    ],
}  # fmt: skip
