"""Changes of a caller's model between tasks are trained, kept, or refused by name before training."""

import copy

import pytest
import torch
from torch import nn

from gr_cli.errors import ConfigError, DataError
from helpers.trainers import ALL, REPLAY, batches, make_trainer, mlp, trained_names


def replace_output(model):
    model.output = type(model.output)(8, 4)


def replace_hidden_by_a_wider_layer(model):
    model.hidden[0], model.output = type(model.output)(6, 12), type(model.output)(12, 4)


def replace_weight(model):
    model.output.weight = nn.Parameter(torch.rand(4, 8))


def assign_state(model):
    model.load_state_dict({name: value / 2 for name, value in model.state_dict().items()}, assign=True)


def add_a_layer(model):
    model.output = nn.Sequential(nn.Linear(8, 5), nn.Linear(5, 4))


@pytest.mark.parametrize("strategy", [None, REPLAY, {"lwf": {}}, {"er_plus": {}}], ids=str)
@pytest.mark.parametrize(
    "change", [replace_output, replace_hidden_by_a_wider_layer, replace_weight, assign_state, mlp.__class__]
)
def test_replaced_parameters_are_trained(strategy, change):
    trainer = make_trainer(mlp(), strategy)
    trainer.train_task(batches(), batches())
    if change is not mlp.__class__:  # nothing changes: the control
        change(trainer.model)
    assert trained_names(trainer) == ALL


def test_layers_added_by_the_model_are_trained():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.output = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.output(self.hidden(x).relu())

    trainer = make_trainer(Model())
    trainer.train_task(batches())
    add_a_layer(trainer.model)
    expected = {f"output.{i}.{name}" for i in range(2) for name in ("weight", "bias")}
    assert trained_names(trainer) == {"hidden.weight", "hidden.bias"} | expected


def test_layers_frozen_and_unfrozen_between_tasks():
    model = mlp()
    model.hidden.requires_grad_(False)
    trainer = make_trainer(model)
    trainer.train_task(batches())
    model.hidden.requires_grad_(True)
    assert trained_names(trainer) == ALL
    model.hidden.requires_grad_(False)
    assert trained_names(trainer, task=0) == {"output.weight", "output.bias"}


def test_optimizer_state_of_unchanged_parameters_is_kept():
    """Adam's steps with a layer that was replaced are those of two optimisers, one of which is new."""
    model = mlp().double()
    trainer = make_trainer(model, None, optimizer={"lr": 0.01})
    first, second = batches(), batches(1)
    reference = copy.deepcopy(model)
    old = torch.optim.Adam(reference.parameters(), lr=0.01)

    def learn(pairs, optimizers, units):
        for x, y in pairs:
            loss = nn.functional.cross_entropy(reference(x.double())[:, :units], y)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()

    trainer.train_task(first)
    learn(first, [old], 2)
    layer = type(model.output)(8, 4).double()
    model.output, reference.output = layer, copy.deepcopy(layer)
    trainer.train_task(second)
    learn(second, [old, torch.optim.Adam(reference.output.parameters(), lr=0.01)], 4)
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("strategy", [{"ewc": {}}, {"online_ewc": {}}, {"si": {}}], ids=str)
@pytest.mark.parametrize(
    ("change", "names"),
    [
        (replace_output, "output.weight, output.bias"),
        (replace_weight, "output.weight"),
        (lambda model: model.hidden.requires_grad_(False), "hidden.0.weight, hidden.0.bias"),
    ],
)
def test_regularizer_refuses_replaced_parameters(strategy, change, names):
    trainer = make_trainer(mlp(), strategy)
    trainer.train_task(batches(), batches())
    change(trainer.model)
    before = copy.deepcopy(trainer.model.state_dict())
    with pytest.raises(ConfigError, match=f"model={names}: can't be replaced, frozen or unfrozen"):
        trainer.train_task(batches(1), batches(1))
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert len(trainer.accuracy_matrix) == 1


def assign_data(model, state):
    for name, parameter in model.named_parameters():
        parameter.data = state[name]


@pytest.mark.parametrize("assign", [lambda model, state: model.load_state_dict(state), assign_data])
@pytest.mark.parametrize("strategy", [{"ewc": {}}, {"si": {}}], ids=str)
def test_next_task_starts_from_changed_values(strategy, assign):
    trainer = make_trainer(mlp(), strategy, optimizer={"lr": 1e-9})
    trainer.train_task(batches())
    state = {name: value + 1 for name, value in trainer.model.state_dict().items()}
    assign(trainer.model, {name: value.clone() for name, value in state.items()})
    trainer.train_task(batches(1))
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=1e-6)
    if "si" in strategy:  # whose anchor is where the parameters are now
        anchor = trainer._learner.strategy.regularizer.state_dict()["anchor"]
        for value, parameter in zip(anchor, trainer.model.parameters(), strict=True):
            assert torch.equal(value[0], parameter)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: setattr(model, "output", nn.Linear(8, 6)), "6 outputs: must be as in the first task: 4"),
        (lambda model: model.double(), "float64: must be as in the first task: torch.float32"),
        (lambda model: model.to("meta"), "hidden.0.weight: is on the meta device"),
        (lambda model: model.requires_grad_(False), "nothing can be trained"),
        (lambda model: model.output.weight.data.fill_(torch.nan), "output.weight: holds NaN or infinity"),
        (lambda model: model.half(), "float16: parameters must be all float32 or all float64"),
    ],
)  # fmt: skip
def test_incompatible_changes_are_refused_before_training(change, message):
    trainer = make_trainer(mlp())
    trainer.train_task(batches(), batches())
    change(trainer.model)
    with pytest.raises(ConfigError, match=message):
        trainer.train_task(batches(1), batches(1))
    assert len(trainer.accuracy_matrix) == 1


def test_model_attribute_is_read_only():
    trainer = make_trainer(mlp())
    with pytest.raises(AttributeError, match="model"):
        trainer.model = mlp()


def test_model_converted_before_the_first_task():
    model = mlp()
    trainer = make_trainer(model)
    model.double()
    trainer.train_task(batches(), batches())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert trainer.generator_model.generate(2).dtype == torch.float64
    trainer.generator_model.float()  # as a caller may, to look at samples
    assert trained_names(trainer) == ALL


def test_changes_during_a_task_are_refused_and_rolled_back():
    trainer = make_trainer(mlp())

    def shuffled():
        yield from batches()
        trainer.model.hidden.requires_grad_(False)
        yield from batches()

    before = copy.deepcopy(trainer.model.state_dict())
    with pytest.raises(ConfigError, match=r"hidden\.0\.weight, hidden\.0\.bias: changed while a task is trained"):
        trainer.train_task(shuffled())
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


@pytest.mark.parametrize("network", ["model", "generator_model"])
def test_changed_generator_is_trained_or_refused(network):
    trainer = make_trainer(mlp())
    trainer.train_task(batches())
    generator = trainer.generator_model
    generator.output = type(generator.output)(8, 6)
    before = generator.output.weight.detach().clone()
    trainer.train_task(batches(1))
    assert not torch.equal(generator.output.weight, before)
    generator.output.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"generator_model=output\.weight: is frozen"):
        trainer.train_task(batches())
    generator.requires_grad_(True)
    parameter = next(getattr(trainer, network).parameters())
    parameter.data.fill_(torch.inf)
    with pytest.raises(ConfigError, match=f"{network}=.*: holds NaN or infinity before training"):
        trainer.train_task(batches())


def test_frozen_parameters_of_other_dtypes():
    class Selecting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()
            self.order = nn.Parameter(torch.arange(6).flip(0), requires_grad=False)

        def forward(self, x):
            return self.net(x[:, self.order])

    make_trainer(Selecting()).train_task(batches(), batches())


# --- modes


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.norm, self.output = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)
        self.dropout = nn.Dropout(0.5)
        self.modes = []

    def forward(self, x):
        self.modes.append({name: part.training for name, part in self.named_modules()})
        return self.output(self.dropout(self.norm(self.hidden(x)).relu()))


@pytest.mark.parametrize("before_second", ["as_it_was", "eval", "train_again"])
def test_module_in_eval_mode_stays_in_it(before_second):
    """Its statistics are those that it had, also after `model.eval()` for an evaluation of the caller's."""
    model = Normalised()
    model.norm.eval()
    mean = model.norm.running_mean.clone()
    trainer = make_trainer(model)
    trainer.train_task(batches(), batches())
    assert torch.equal(model.norm.running_mean, mean)
    assert (model.training, model.norm.training) == (True, False)
    if before_second == "eval":
        model.eval()
    elif before_second == "train_again":
        model.train()
    model.modes.clear()
    trainer.train_task(batches(1), batches(1))
    assert torch.equal(model.norm.running_mean, mean) == (before_second != "train_again")
    steps = [modes for modes in model.modes if modes["hidden"]]
    assert len(steps) == len(batches())
    assert all(modes["dropout"] and modes[""] for modes in steps)
    assert model.training == (before_second != "eval")


def test_model_entirely_in_eval_mode_is_trained_in_train_mode():
    model = Normalised().eval()
    mean = model.norm.running_mean.clone()
    make_trainer(model).train_task(batches(), batches())
    assert not torch.equal(model.norm.running_mean, mean)
    assert not model.training and not model.norm.training


def test_model_that_overrides_train_keeps_its_eval_mode():
    class Keeping(Normalised):
        def train(self, mode=True):
            super().train(mode)
            self.norm.eval()
            return self

    model = Keeping()
    mean = model.norm.running_mean.clone()
    trainer = make_trainer(model)
    for task in range(2):
        trainer.train_task(batches(task), batches(task))
        model.eval()
    assert torch.equal(model.norm.running_mean, mean)


def test_only_the_head_in_train_mode():
    model = Normalised().eval()
    model.dropout.train()
    trainer = make_trainer(model)
    trainer.train_task(batches())
    steps = [modes for modes in model.modes if modes["dropout"]]
    assert steps and not any(modes["norm"] or modes[""] for modes in steps)


# --- batch normalisation


def test_last_batch_of_one_sample_is_refused_before_training():
    from torch.utils.data import DataLoader, TensorDataset

    model = Normalised()
    data = TensorDataset(torch.rand(9, 6), torch.arange(9) % 2)
    message = "train_loader: a batch has one sample, and the model's batch normalisation needs two"
    with pytest.raises(DataError, match=message):
        make_trainer(model).train_task(DataLoader(data, batch_size=4))
    assert not any(modes["hidden"] for modes in model.modes)  # not trained
    make_trainer(model).train_task(DataLoader(data, batch_size=4, drop_last=True))
    model.norm.eval()  # in evaluation mode one sample is enough
    make_trainer(model).train_task(DataLoader(data, batch_size=4))
    model.norm.train()
    with pytest.raises(DataError, match=message):  # a list: the size of its last batch is unknown
        make_trainer(model).train_task([*batches(), (torch.rand(1, 6), torch.tensor([0]))])
