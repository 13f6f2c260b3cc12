"""Outputs of custom models: logits are extracted, or the model is refused."""

import pytest
import torch
from torch import nn

from gr_cli import SimpleMLP
from gr_cli.errors import ConfigError, DataError
from helpers.trainers import ALL, batches, make_trainer, mlp, trained_names


class Returning(nn.Module):
    def __init__(self, returned):
        super().__init__()
        self.net, self.returned = mlp(), returned

    def forward(self, x):
        return self.returned(self.net(x), self.training)


class Output:
    def __init__(self, logits):
        self.logits = logits


ONE_MEANING = {
    "tuple": lambda logits, training: (logits,),
    "dict": lambda logits, training: {"logits": logits, "hidden": logits},
    "single": lambda logits, training: {"out": logits},
    "object": lambda logits, training: Output(logits),
    "in_training": lambda logits, training: Output(logits) if training else logits,
}


@pytest.mark.parametrize("returned", ONE_MEANING.values(), ids=ONE_MEANING)
def test_logits_are_extracted_from_model_outputs(returned):
    result = []
    for model in (mlp(), Returning(returned)):
        trainer = make_trainer(model)
        trainer.train_task(batches(), batches())
        trainer.train_task(batches(1), batches(1))
        net = model if isinstance(model, SimpleMLP) else model.net
        result.append((trainer.accuracy_matrix, [*net.parameters()]))
    assert result[0][0] == result[1][0]
    assert all(torch.equal(a, b) for a, b in zip(result[0][1], result[1][1], strict=True))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda logits, training: (logits, logits), "model=tuple of 2: must return logits"),
        (lambda logits, training: {"a": logits, "b": logits}, "model=dict of 2: must return logits"),
        (lambda logits, training: None, "model=NoneType: must return logits"),
        (lambda logits, training: logits[:, 0], r"must return logits \(B, U\), not \(4,\) for 4 samples"),
        (lambda logits, training: logits[..., None], r"must return logits \(B, U\), not \(4, 4, 1\) for 4 samples"),
        (lambda logits, training: logits.softmax(1), "returns probabilities, and logits are needed"),
    ],
)
def test_invalid_model_outputs_are_refused(returned, message):
    with pytest.raises(ConfigError, match=message):
        make_trainer(Returning(returned)).train_task(batches())


def test_model_that_changes_its_input_is_refused():
    class Subtracting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x):
            return self.net(x.sub_(0.5))

    with pytest.raises(ConfigError, match="Subtracting: changes its input in place"):
        make_trainer(Subtracting()).train_task(batches())


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (lambda: SimpleMLP(784), (1, 8, 8), r"shape \(1, 8, 8\): its layer hidden\.0 takes 784 values, and gets 64"),
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()), (3, 8, 8), "layer 0 takes 1 channels, and gets 3"),
        (lambda: nn.Sequential(nn.Embedding(9, 4)), (6,), "can't take samples of shape"),
    ],
)  # fmt: skip
def test_wrong_sample_size_names_the_expected_size(model, shape, message):
    with pytest.raises(DataError, match=message):
        make_trainer(model(), None).train_task([(torch.rand(4, *shape), torch.arange(4) % 2)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_default_dtype_has_no_effect(dtype):
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        model = mlp().to(dtype)
        trainer = make_trainer(model)
        for task in range(2):
            trainer.train_task(batches(task), batches(task))
    finally:
        torch.set_default_dtype(before)
    assert {parameter.dtype for parameter in trainer.generator_model.parameters()} == {dtype}


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_training_inside_no_grad_contexts(context):
    trainer = make_trainer(mlp())
    trainer.train_task(batches())
    with context():
        assert trained_names(trainer) == ALL


def test_wrapped_compiled_and_tied_models():
    tied = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 4))
    tied[2].weight = tied[0].weight
    for model in (nn.DataParallel(mlp()), torch.compile(mlp(), backend="eager"), tied, nn.LazyLinear(4)):
        trainer = make_trainer(model)
        trainer.train_task(batches(), batches())
        assert trained_names(trainer) == {name for name, _ in model.named_parameters()}
    assert tied[2].weight is tied[0].weight
