"""Messages of runs that are started and loaded from Python."""

import functools
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

import gr_cli
from gr_cli.python.pictures import picture_html
from helpers.situations import TINY, Hands, Situation, Table, typed

X, Y = torch.rand(20, 6), torch.arange(20) % 4


class Net(nn.Linear):
    """A model of the user's own."""

    def __init__(self, input_size: int, output_size: int, depth: int = 1) -> None:
        super().__init__(input_size, output_size)


class Texts(nn.Linear):
    """A model whose outputs have names."""

    def forward(self, x: torch.Tensor) -> object:
        return {"logits": super().forward(x)}


class Uncopied(nn.Linear):
    """A model that can't be copied."""

    def __deepcopy__(self, memo: object) -> None:
        raise TypeError("not twice")


class Items(Dataset):
    """A data set of these items."""

    def __init__(self, *items: object) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        return self.items[index]


def started(*words: object, **settings: object) -> Situation:
    """Start a run from Python."""
    return lambda hands: gr_cli.run(*words, **settings)


def with_parts(**parts: object) -> Situation:
    """Start a run with objects, by default on small data."""
    words = [word for word in TINY if not word.startswith(("benchmark.", "model."))]
    return lambda hands: gr_cli.run(*words, **{"benchmark": (X, Y), **parts})


def of_a_run(read: object) -> Situation:
    """Read something of a finished tiny run."""
    return lambda hands: read(gr_cli.load_run(hands.over()))


def with_a_large_picture(hands: Hands) -> object:
    folder = hands.over()
    hands.monkeypatch.setattr("gr_cli.python.pictures._MAX_PICTURE_BYTES", 3)
    (folder / "figures" / "accuracy_matrix.png").write_bytes(b"1234")
    return picture_html(folder / "figures" / "accuracy_matrix.png", "")


def of_a_damaged_picture(hands: Hands) -> object:
    folder = hands.over()
    (folder / "figures" / "samples_task_0.png").write_bytes(b"1234")
    return gr_cli.load_run(folder).plot("samples_task_0")


def of_a_damaged_table(hands: Hands) -> object:
    folder = hands.over()
    (folder / "accuracy_matrix.csv").write_text("after_task\n", encoding="utf-8")
    return gr_cli.load_run(folder).plot()


def without_tables(hands: Hands) -> object:
    folder = hands.left()
    (folder / "history.csv").unlink()
    return gr_cli.load_run(folder).history


def of_failed_runs(hands: Hands) -> object:
    return gr_cli.sweep(*TINY, "optimizer=sgd", "optimizer.lr=1e30", "seed=0,1").plot()


def loaded_with(model: object) -> Situation:
    """The networks of a run of an own model, loaded with another object or none."""

    def do(hands: Hands) -> object:
        run = with_parts(model=nn.Linear(6, 4))(hands)
        return gr_cli.load_run(run.folder, model=model).solver

    return do


OWN_MODEL = """from torch import nn

def net(input_size, output_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_size, output_size))
"""


def own_model(hands: Hands) -> Path:
    """A module of the user's own in the current folder."""
    hands.monkeypatch.syspath_prepend(Path.cwd())
    # Set, so that the import is undone after the test.
    hands.monkeypatch.setitem(sys.modules, "own_model", None)
    del sys.modules["own_model"]
    Path("own_model.py").write_text(OWN_MODEL, encoding="utf-8")
    return Path("own_model.py")


def edited_own_model(*words: str, imports_anew: bool) -> Situation:
    """Edit the module of a run between two commands."""

    def do(hands: Hands) -> object:
        path = own_model(hands)
        data = [word for word in TINY if not word.startswith("model.")]
        hands.gr_run(*data, "model._target_=own_model.net")
        path.write_text(path.read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")
        if imports_anew:
            del sys.modules["own_model"]
        (folder,) = Path("outputs").rglob("status.json")
        return hands.gr_run(
            *([f"resume={folder.parent}", *words] if words else [*data, "model._target_=own_model.net"])
        )

    return do


def of_a_large_package(hands: Hands) -> object:
    own_model(hands)
    hands.monkeypatch.setattr("gr_cli.config.own_code._MAX_FILES", 0)
    return hands.gr_run("model._target_=own_model.net")


def in_other_processes(hands: Hands) -> object:
    return gr_cli.sweep(*TINY, "seed=0,1", "hydra/launcher=joblib", model=nn.Linear(6, 4))


PYTHON: Table = {
    "python/overrides.py": [
        ("must be texts such as 'seed=1'", started("seed")),
        ("must be a number, a text, a list or a mapping", started(seed=Path)),
    ],
    "python/start.py": [("is for the command line", started("inspect=true"))],
    "python/plots.py": [
        ("has no figure", of_a_run(lambda run: run.plot("nothing"))),
        ("can't be read ({}); remove it", of_a_damaged_picture),
        ("the run's command rewrites its tables", of_a_damaged_table),
        ("no run has finished", of_failed_runs),
    ],
    "python/pictures.py": [("can't be read ({}); remove it", with_a_large_picture)],
    "python/own_parts.py": [
        ("can't be called with its arguments", with_parts(model=functools.partial(Net, width=3))),
        ("must be the name of an option, a torch.nn.Module, or a function", with_parts(model=3)),
    ],
    "python/datasets.py": [
        ("must be the name of an option, a Benchmark, a torch Dataset", with_parts(benchmark=3)),
        ("must yield pairs of a sample and a label", with_parts(benchmark=Items(X[0], X[1]))),
        ("has no samples", with_parts(benchmark=Items())),
        ("its samples differ", with_parts(benchmark=Items((X[0], 0), (X[1, :3], 1)))),
    ],
    "config/own_components.py": [
        ("is an object that was passed from Python", loaded_with(None)),
        ("is not the object that the run was started with", loaded_with(nn.Linear(6, 4))),
    ],
    "config/own_code.py": [
        ("is a package of more than", of_a_large_package),
        ("was imported before {} was edited", edited_own_model(imports_anew=False)),
    ],
    "results/stored_config.py": [
        ("was edited since the run was started", edited_own_model("trust=own_model", imports_anew=True)),
    ],
    "cli/compose.py": [("is set by this program", typed("+code_hashes.own=1"))],
    "training/live_networks.py": [
        ("can't be copied ({}: {})", with_parts(model=Uncopied(6, 4))),
        ("by these names", with_parts(model=lambda a, b: None)),
        ("must return a tensor of logits", with_parts(model=Texts(6, 4))),
        ("outputs, and {} are needed", with_parts(model=nn.Linear(6, 3))),
    ],
    "cli/launchers/selection.py": [("which don't have the objects of this call", in_other_processes)],
    "cli/hydra_errors.py": [
        (
            "is no setting of the option that",
            typed("model._target_=helpers.situations_python.Net model.depth=2"),
        ),
    ],
    "results/frames.py": [
        ("has no table", of_a_run(lambda run: run.tables["nothing"])),
        ("the tables are written after the first task", without_tables),
    ],
}
