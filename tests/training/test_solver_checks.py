"""A caller's model between tasks: what was changed is trained, kept as it is, or refused by name before training."""

import copy

import pytest
import torch
from torch import nn

from gr_cli.errors import ConfigError, DataError
from helpers.trainers import ALL, REPLAY, batches, mlp, trained_names, trainer


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
def test_parameters_that_were_replaced_are_trained(strategy, change):
    mine = trainer(mlp(), strategy)
    mine.train_task(batches(), batches())
    if change is not mlp.__class__:  # nothing changes: the control
        change(mine.model)
    assert trained_names(mine) == ALL


def test_new_layers_of_a_models_own_are_trained():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.output = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.output(self.hidden(x).relu())

    mine = trainer(Model())
    mine.train_task(batches())
    add_a_layer(mine.model)
    wanted = {f"output.{i}.{name}" for i in range(2) for name in ("weight", "bias")}
    assert trained_names(mine) == {"hidden.weight", "hidden.bias"} | wanted


def test_parts_are_frozen_and_unfrozen_between_tasks():
    model = mlp()
    model.hidden.requires_grad_(False)
    mine = trainer(model)
    mine.train_task(batches())
    model.hidden.requires_grad_(True)
    assert trained_names(mine) == ALL
    model.hidden.requires_grad_(False)
    assert trained_names(mine, task=0) == {"output.weight", "output.bias"}


def test_moments_of_parameters_that_stay_are_kept_and_others_begin():
    """Adam's steps with a layer that was replaced are those of two optimisers, one of which is new."""
    model = mlp().double()
    mine = trainer(model, None, optimizer={"lr": 0.01})
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

    mine.train_task(first)
    learn(first, [old], 2)
    layer = type(model.output)(8, 4).double()
    model.output, reference.output = layer, copy.deepcopy(layer)
    mine.train_task(second)
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
def test_a_regulariser_does_not_take_other_parameters_for_those_it_holds(strategy, change, names):
    mine = trainer(mlp(), strategy)
    mine.train_task(batches(), batches())
    change(mine.model)
    before = copy.deepcopy(mine.model.state_dict())
    with pytest.raises(ConfigError, match=f"model={names}: can't be replaced, frozen or unfrozen"):
        mine.train_task(batches(1), batches(1))
    assert all(torch.equal(value, before[name]) for name, value in mine.model.state_dict().items())
    assert len(mine.accuracy_matrix) == 1


def test_values_that_were_changed_in_place_are_what_the_next_task_begins_with():
    mine = trainer(mlp(), {"ewc": {}}, optimizer={"lr": 1e-9})
    mine.train_task(batches())
    state = {name: value + 1 for name, value in mine.model.state_dict().items()}
    mine.model.load_state_dict(state)
    mine.train_task(batches(1))
    for name, value in mine.model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=1e-6)


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
def test_what_can_not_be_taken_over_is_refused_before_training(change, message):
    mine = trainer(mlp())
    mine.train_task(batches(), batches())
    change(mine.model)
    with pytest.raises(ConfigError, match=message):
        mine.train_task(batches(1), batches(1))
    assert len(mine.accuracy_matrix) == 1


def test_the_model_of_a_trainer_is_not_exchanged():
    mine = trainer(mlp())
    with pytest.raises(AttributeError, match="model"):
        mine.model = mlp()


def test_a_model_that_is_converted_or_moved_before_the_first_task_is_trained_as_it_is_then():
    model = mlp()
    mine = trainer(model)
    model.double()
    mine.train_task(batches(), batches())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert mine.generator_model.generate(2).dtype == torch.float64
    mine.generator_model.float()  # as a caller may, to look at samples
    assert trained_names(mine) == ALL


def test_changes_within_a_task_are_refused_and_undone():
    mine = trainer(mlp())

    def shuffled():
        yield from batches()
        mine.model.hidden.requires_grad_(False)
        yield from batches()

    before = copy.deepcopy(mine.model.state_dict())
    with pytest.raises(ConfigError, match=r"hidden\.0\.weight, hidden\.0\.bias: changed while a task is trained"):
        mine.train_task(shuffled())
    assert all(torch.equal(value, before[name]) for name, value in mine.model.state_dict().items())


@pytest.mark.parametrize("network", ["model", "generator_model"])
def test_a_generator_that_was_changed_is_trained_or_refused(network):
    mine = trainer(mlp())
    mine.train_task(batches())
    generator = mine.generator_model
    generator.output = type(generator.output)(8, 6)
    before = generator.output.weight.detach().clone()
    mine.train_task(batches(1))
    assert not torch.equal(generator.output.weight, before)
    generator.output.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"generator_model=output\.weight: is frozen"):
        mine.train_task(batches())
    generator.requires_grad_(True)
    parameter = next(getattr(mine, network).parameters())
    parameter.data.fill_(torch.inf)
    with pytest.raises(ConfigError, match=f"{network}=.*: holds NaN or infinity before training"):
        mine.train_task(batches())


def test_frozen_parameters_of_other_types():
    class Selecting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()
            self.order = nn.Parameter(torch.arange(6).flip(0), requires_grad=False)

        def forward(self, x):
            return self.net(x[:, self.order])

    trainer(Selecting()).train_task(batches(), batches())


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
def test_a_part_in_evaluation_mode_stays_so(before_second):
    """Its statistics are those that it had, also after `model.eval()` for an evaluation of the caller's."""
    model = Normalised()
    model.norm.eval()
    mean = model.norm.running_mean.clone()
    mine = trainer(model)
    mine.train_task(batches(), batches())
    assert torch.equal(model.norm.running_mean, mean)
    assert (model.training, model.norm.training) == (True, False)
    if before_second == "eval":
        model.eval()
    elif before_second == "train_again":
        model.train()
    model.modes.clear()
    mine.train_task(batches(1), batches(1))
    assert torch.equal(model.norm.running_mean, mean) == (before_second != "train_again")
    steps = [modes for modes in model.modes if modes["hidden"]]
    assert len(steps) == len(batches())
    assert all(modes["dropout"] and modes[""] for modes in steps)
    assert model.training == (before_second != "eval")


def test_a_model_that_is_wholly_in_evaluation_mode_is_trained_in_training_mode():
    model = Normalised().eval()
    mean = model.norm.running_mean.clone()
    trainer(model).train_task(batches(), batches())
    assert not torch.equal(model.norm.running_mean, mean)
    assert not model.training and not model.norm.training


def test_a_model_that_keeps_a_part_in_evaluation_mode_by_itself():
    class Keeping(Normalised):
        def train(self, mode=True):
            super().train(mode)
            self.norm.eval()
            return self

    model = Keeping()
    mean = model.norm.running_mean.clone()
    mine = trainer(model)
    for task in range(2):
        mine.train_task(batches(task), batches(task))
        model.eval()
    assert torch.equal(model.norm.running_mean, mean)


def test_a_head_alone_in_training_mode():
    model = Normalised().eval()
    model.dropout.train()
    mine = trainer(model)
    mine.train_task(batches())
    steps = [modes for modes in model.modes if modes["dropout"]]
    assert steps and not any(modes["norm"] or modes[""] for modes in steps)


# --- batch normalisation


def test_a_last_batch_of_one_sample_is_named_before_training():
    from torch.utils.data import DataLoader, TensorDataset

    model = Normalised()
    data = TensorDataset(torch.rand(9, 6), torch.arange(9) % 2)
    message = "train_loader: a batch has one sample, and the model's batch normalisation needs two"
    with pytest.raises(DataError, match=message):
        trainer(model).train_task(DataLoader(data, batch_size=4))
    assert not any(modes["hidden"] for modes in model.modes)  # nothing was trained
    trainer(model).train_task(DataLoader(data, batch_size=4, drop_last=True))
    model.norm.eval()  # then it needs no second sample
    trainer(model).train_task(DataLoader(data, batch_size=4))
    model.norm.train()
    with pytest.raises(DataError, match=message):  # a loader that does not say what will come
        trainer(model).train_task([*batches(), (torch.rand(1, 6), torch.tensor([0]))])
