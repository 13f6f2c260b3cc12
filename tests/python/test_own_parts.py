"""Models, generators and data of one's own, passed to `gr_cli.run` as objects or named on the command line."""

import functools
import logging
import re
import subprocess
import sys
from collections import deque
from contextlib import chdir
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import gr_cli
from gr_cli.benchmarks import Digits, split
from gr_cli.errors import ConfigError, DataError, GrError
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.python.content import hash_of_content, importable_name
from helpers.interruption import StopAt, csvs, only_run

SHORT = ("strategy=generative_replay", "generator.hidden_dims=[8]", "train.iterations=4", "log.every=2", "threads=1",
         "evaluate.generated_samples=0")  # fmt: skip
Y = torch.arange(80) % 4
X = torch.randn(80, 6, generator=torch.Generator().manual_seed(0)) + 3 * torch.eye(6)[Y]
OWN = """
from torch import nn

class Net(nn.Module):
    '''A model of the user's own; without a generator's width of the shipped option.'''

    def __init__(self, input_size, output_size, width=8, dropout=0.25):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(input_size, width), nn.ReLU(), nn.Dropout(dropout),
                                 nn.Linear(width, output_size))

    def forward(self, x):
        return self.net(x)

def images(input_shape, output_size):
    return nn.Sequential(nn.Conv2d(input_shape[0], 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, output_size))

def linear(input_size, output_size, **options):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_size, output_size, **options))
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    import own_networks

    yield own_networks
    sys.modules.pop("own_networks", None)


class Local(nn.Module):
    def __init__(self, input_size, output_size):
        super().__init__()
        self.hidden, self.output = nn.Linear(input_size, 5), nn.Linear(5, output_size)

    def forward(self, x):
        return self.output(self.hidden(x).relu())


def local(input_size, output_size):
    return Local(input_size, output_size)


def run(**parts):
    words = [word for word in SHORT if not ("generator" in parts and word.startswith("generator."))]
    return gr_cli.run(*words, benchmark=parts.pop("benchmark", (X, Y)), progress=False, **parts)


def module():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Local(6, 4)


# --- networks


def test_a_named_model_is_that_of_the_command_line(own_module, gr_run):
    one = gr_cli.run(*SHORT, model=functools.partial(own_module.Net, width=4), progress=False)
    assert one.config["model"] == {"_target_": "own_networks.Net", "width": 4}
    assert one.solver.net[1].out_features == 4 and one.solver.net[3].p == 0.25
    before = csvs(one.folder)
    code, out, err = gr_run("model._target_=own_networks.Net", "++model.width=4", *SHORT)
    assert code == 0 and "finished before" in out, err
    Path("elsewhere").mkdir()
    with chdir("elsewhere"):
        assert gr_run("model._target_=own_networks.Net", "++model.width=4", *SHORT)[0] == 0
        assert csvs(only_run()) == before
    assert gr_run(f"resume={one.folder}")[0] == 2
    assert gr_run(f"resume={one.folder}", "trust=own_networks")[0] == 0


def test_a_named_function_gets_the_shape_of_images(own_module):
    made = gr_cli.run(*SHORT, model=own_module.images, progress=False)
    assert made.solver[0].in_channels == 1 and made.choices["model"] == "images"


def test_arguments_without_names_are_part_of_an_object(own_module):
    """Settings are named after the arguments of a signature; `**options` has none."""
    made = gr_cli.run(*SHORT, model=functools.partial(own_module.linear, bias=False), progress=False)
    assert made.solver[1].bias is None and made.choices["model"] == "linear"


@pytest.mark.parametrize("make", [module, lambda: lambda input_size, output_size: Local(input_size, output_size)])
def test_an_own_model_on_own_tensors_is_killed_and_resumed(make, gr_run, monkeypatch, tmp_path):
    """The second notebook: only the same object continues the run, which ends as if it had not been stopped."""
    model = make()
    expected = csvs(run(model=model).folder)
    network = model if isinstance(model, nn.Module) else nn.Module()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    (tmp_path / "stopped").mkdir()
    monkeypatch.chdir(tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr("gr_cli.terminal.run_display.TerminalObserver", lambda **_: StopAt(1, 1))
        with pytest.raises(KeyboardInterrupt, match="the same call continues the run"):
            run(model=model)
    folder = only_run()
    code, _, err = gr_run(f"resume={folder}")
    assert code == 2 and err.count("\n") == 1 and "is an object that was passed from Python; repeat that call" in err
    assert run(model=lambda input_size, output_size: nn.Linear(input_size, output_size)).folder != folder.absolute()
    resumed = run(model=model)
    assert resumed.folder == folder.absolute() and csvs(folder) == expected
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert gr_run(f"resume={folder}")[0] == 0  # of a finished run the stored result is shown
    assert resumed.status["command"].startswith("gr_cli.run('strategy=generative_replay'")
    loaded = gr_cli.load_run(folder, model=model)
    for name, value in resumed.solver.state_dict().items():
        assert torch.equal(value, loaded.solver.state_dict()[name])
    with pytest.raises(ConfigError, match="is an object that was passed from Python"):
        _ = gr_cli.load_run(folder).solver
    with pytest.raises(ConfigError, match="is not the object"):
        _ = gr_cli.load_run(folder, model=Local(6, 4)).solver


def test_own_generators():
    from gr_cli import VAE

    spec = SampleSpec((6,), value_range=None)
    made = run(generator=lambda spec, num_classes: VAE(spec, hidden_dims=[4], latent_dim=num_classes))
    assert made.generator.generate(3).shape == (3, 6)
    given = run(generator=VAE(spec, hidden_dims=[4], latent_dim=2))
    assert given.choices["generator"] == "VAE" and "generative_replay-VAE" in str(given.folder)
    named = run(generator=functools.partial(VAE, hidden_dims=[4], latent_dim=2))
    assert named.config["generator"]["latent_dim"] == 2 and named.folder != given.folder


def test_seeds_of_an_own_model_are_trained_as_one_program():
    words = (*SHORT, "strategy=finetune")
    sweep = gr_cli.sweep(*words, "hydra/launcher=batched", model=local, benchmark=(X, Y), seed=range(3), progress=False)
    assert {run.status["mode"] for run in sweep} == {"batched"}
    assert not torch.equal(sweep[0].solver.hidden.weight, sweep[1].solver.hidden.weight)
    alone = gr_cli.sweep(*words, model=module(), benchmark=(X, Y), seed=range(2), progress=False)
    assert alone.results["state"].tolist() == ["finished"] * 2
    with pytest.raises(ConfigError, match="don't have the objects of this call"):
        gr_cli.sweep(*words, "hydra/launcher=batched", "hydra.launcher.processes=2", model=module(), seed=range(2))


def test_runs_that_fail_before_they_start_are_reported():
    def broken(input_size, output_size):
        raise ValueError("no such layer")

    with pytest.warns(UserWarning, match="2 of 2 runs failed before they started"):
        assert len(gr_cli.sweep(*SHORT, model=broken, seed=range(2), progress=False)) == 0


# --- data


class Pairs(Dataset):
    """A data set that makes its samples when they are asked for."""

    def __len__(self):
        return 80

    def __getitem__(self, index):
        if index == 80:
            raise IndexError
        return X[index].numpy(), Y[index]


def test_forms_of_own_data_are_the_same_samples():
    first = run(benchmark=(X, Y))
    assert first.choices["benchmark"] == "tensors"
    frames = pd.DataFrame(X.numpy()), pd.Series(Y.numpy())
    for same in ((X.numpy(), Y.tolist()), (X.tolist(), Y.tolist()), frames, TensorDataset(X, Y), Pairs()):
        other = run(benchmark=same)
        assert other.matrix.equals(first.matrix), type(same)
    halves = run(benchmark=((X[:60], Y[:60]), TensorDataset(X[60:], Y[60:])))
    four = run(benchmark=(X[:60], Y[:60], X[60:], Y[60:]))
    assert halves.matrix.equals(four.matrix) and not halves.matrix.equals(first.matrix)


def test_settings_of_the_stream_apply_to_own_data():
    three = gr_cli.run(*SHORT, "benchmark.classes_per_task=[2,1,1]", "++benchmark.source.standardise=true",
                       benchmark=(X, Y), progress=False)  # fmt: skip
    assert three.matrix.shape == (3, 3) and three.config["benchmark"]["source"]["standardise"] is True


def test_own_benchmarks_and_sources():
    digits = split(Digits(), seed=0, classes_per_task=5)
    stream = gr_cli.run(*SHORT, benchmark=digits, progress=False)
    shipped = gr_cli.run(*SHORT, "benchmark.classes_per_task=5", progress=False)
    assert stream.matrix.equals(shipped.matrix) and stream.folder != shipped.folder
    source = gr_cli.run(*SHORT, "benchmark.classes_per_task=5", benchmark=Digits(), progress=False)
    named = gr_cli.run(*SHORT, "benchmark.classes_per_task=5", benchmark=Digits, progress=False)
    assert source.matrix.equals(named.matrix) and named.config["benchmark"]["source"]["_target_"].endswith(".Digits")


def test_changed_data_are_another_run(monkeypatch):
    changed = X.clone()
    changed[3, 2] += 1
    assert run(benchmark=(changed, Y)).folder != run().folder


# --- identity


class Attributes(nn.Module):
    """A module with a private attribute, a buffer that is not saved, weights that may be frozen, and a hook."""

    def __init__(self, rate=1, mask=1.0, trained=True, hook=None):
        super().__init__()
        self._rate = rate
        self.register_buffer("mask", torch.tensor(mask), persistent=False)
        self.weight = nn.Parameter(torch.ones(2), requires_grad=trained)
        if hook is not None:
            self.register_forward_hook(hook)


def test_the_hash_differs_by_everything_that_affects_a_result():
    first, second = (lambda x: x + 1), (lambda x: x + 2)
    weight = nn.Parameter(torch.ones(2))
    modules = [Attributes(), Attributes(rate=2), Attributes(mask=2.0), Attributes(trained=False),
               Attributes(hook=lambda module, x, y: y), Attributes(hook=lambda module, x, y: 2 * y)]  # fmt: skip
    others = [range(3), range(4), torch.float32, torch.float64, np.sin, np.cos, torch.Tensor.relu, torch.Tensor.tanh,
              re.compile("a"), re.compile("b"), deque([1]), deque([2]), itemgetter(1), itemgetter(2),
              [[1], 2], [[1, 2]],
              [first, second, first], [first, second, second], [weight, weight], [weight, nn.Parameter(torch.ones(2))],
              lambda a, b: a, lambda a, *, b: a, [[[1]]], [[[2]]], np.zeros(2, [("a", int)]), np.zeros(2, [("b", int)]),
              np.array([first], dtype=object), np.array([second], dtype=object)]  # fmt: skip
    nested = [functools.reduce(lambda inner, _: [inner], range(5000), number) for number in (1, 2)]
    values = [*modules, *others, *nested]
    assert len(set(map(hash_of_content, values))) == len(values)


def test_the_hash_stays_when_an_object_is_used(monkeypatch):
    def forward(self, x):
        return self.unrelated(x) + len(str(path))

    path, logger = Path("a/b"), logging.getLogger("of a notebook")
    read_only = np.broadcast_to(np.arange(2), (3, 2))
    values = [forward, path, logger, read_only]
    before = list(map(hash_of_content, values))
    _ = str(path), hash(path), path.parts, logger.isEnabledFor(logging.INFO)
    monkeypatch.setitem(globals(), "unrelated", module())  # the name of an attribute in `forward`
    assert list(map(hash_of_content, values)) == before


def test_the_hash_is_that_of_the_content():
    def outer(rate):
        def inner(x):
            return x * rate

        return inner

    equal = [(outer(2), outer(2)), (module(), module()), ({"a": X, "b": [1, None]}, {"a": X.clone(), "b": [1, None]}),
             (np.arange(3), np.arange(3)), (nn.Dropout(0.5), nn.Dropout(0.5)), ({1, 2}, {2, 1})]  # fmt: skip
    other = [(outer(2), outer(3)), (module(), Local(6, 4)), (X, X.double()), (np.arange(3), np.arange(4)),
             (nn.Dropout(0.5), nn.Dropout(0.4)), (lambda x: x + 1, lambda x: x + 2), ("1", 1), ([1, 2], [2, 1]),
             (nn.Linear, nn.Conv2d), (functools.partial(local, 1), functools.partial(local, 2))]  # fmt: skip
    assert [hash_of_content(a) == hash_of_content(b) for a, b in equal] == [True] * len(equal)
    assert [hash_of_content(a) == hash_of_content(b) for a, b in other] == [False] * len(other)
    assert importable_name(nn.Linear) and importable_name(outer(1)) is None and importable_name(lambda: 0) is None


SCRIPT = """
import torch
from torch import nn
from gr_cli.python.content import hash_of_content

class Net(nn.Module):
    names = frozenset({"one", "two", "three", "four"})

    def __init__(self, input_size, output_size):
        super().__init__()
        self.layer = nn.Linear(input_size, output_size)

    def forward(self, x):
        return BODY

def make(input_size, output_size):
    return Net(input_size, output_size)

torch.manual_seed(0)
print(hash_of_content(Net), hash_of_content(make), hash_of_content(Net(3, 2)))
"""


def test_code_of_a_script_is_hashed_by_what_it_does():
    """Equal in every process; a changed `forward` is another model, though its parameters are the same."""

    def hashes(body):
        command = [sys.executable, "-c", SCRIPT.replace("BODY", body)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    first, again, other = hashes("self.layer(x)"), hashes("self.layer(x)"), hashes("self.layer(x).relu()")
    assert first == again and all(a != b for a, b in zip(first, other, strict=True))


# --- mistakes


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({"model": 3}, ConfigError, "must be the name of an option, a torch.nn.Module"),
        ({"model": nn.Linear(5, 4)}, DataError, "can't take samples of shape"),
        ({"model": nn.Linear(6, 3)}, ConfigError, "has 3 outputs, and 4 are needed"),
        ({"model": nn.Sequential(nn.Linear(6, 4), nn.Softmax(1))}, ConfigError, "returns probabilities"),
        ({"model": lambda a, b: None}, ConfigError, "needs a, b, and gets input_size, input_shape, output_size"),
        ({"model": lambda: 3}, ConfigError, "^model=function: makes a int, and a Module is needed"),
        ({"generator": nn.Linear(3, 3)}, ConfigError, "^generator=Linear: makes a Linear, and a Generator is needed"),
        ({"benchmark": X}, ConfigError, "a torch Dataset, tensors"),
        ({"benchmark": pd.DataFrame(X.numpy())}, ConfigError, "a torch Dataset, tensors"),
        ({"benchmark": {"x": X}}, ConfigError, "objects are passed as model, generator or benchmark"),
        ({"benchmark": (X, Y[:3])}, DataError, "80 training samples, but 3"),
        ({"benchmark": [(X, Y), 3]}, ConfigError, "benchmark=int"),
    ],
)
def test_mistakes_are_errors_of_one_line(parts, error, message):
    with pytest.raises(error, match=message) as caught:
        run(**parts)
    assert isinstance(caught.value, GrError) and "\n" not in str(caught.value)
    assert not list(Path().glob("outputs/*/*/*/checkpoint.pt"))


def test_settings_of_the_replaced_option_are_named(own_module, gr_run):
    code, _, err = gr_run("model._target_=own_networks.Net", "model.width=4")
    assert code == 2 and "model.width=4: is no setting of the option that" in err and "++model.width=4" in err
    code, _, err = gr_run("model._target_=own_networks.Net", "+model.depth=4")
    assert code == 2 and "model.depth=4: no such setting; there are dropout, width" in err
