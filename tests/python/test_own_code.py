"""Own modules and packages: an edited one is another run, on the command line and from Python."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import gr_cli
from gr_cli.config.own_code import code_hashes, own_code_hash
from gr_cli.errors import ConfigError
from gr_cli.python.content import hash_of_content
from helpers.interruption import csvs
from helpers.situations import TINY
from helpers.situations_python import OWN_MODEL

WORDS = [word for word in TINY if not word.startswith("model.")]


def edit(name: str, text: str) -> None:
    """Write the file of an own module, and let it be imported anew, as by another process."""
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")
    importlib.invalidate_caches()
    top = name.partition("/")[0].removesuffix(".py")
    for module in [module for module in sys.modules if module.partition(".")[0] == top]:
        del sys.modules[module]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # whose time stamps have seconds
    yield
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def test_an_edited_module_is_another_run(gr_run):
    words = (*WORDS, "model._target_=own_model.net")
    edit("own_model.py", OWN_MODEL)
    assert "average accuracy" in gr_run(*words)[1]
    assert "finished before" in gr_run(*words)[1]
    edit(
        "own_model.py",
        OWN_MODEL.replace("nn.Linear(input_size, output_size)", "nn.Linear(input_size, output_size, bias=False)"),
    )
    code, out, _ = gr_run(*words)
    assert code == 0 and "finished before" not in out
    results = gr_cli.load_results("outputs")
    assert len(results) == 2 and results["own_model"].nunique() == 2
    edit("own_model.py", OWN_MODEL)
    assert "finished before" in gr_run(*words)[1]


def test_a_model_from_python_is_identified_alike():
    edit("own_model.py", OWN_MODEL)
    first = gr_cli.run(*WORDS, "model._target_=own_model.net", progress=False)
    module = importlib.import_module("own_model")
    assert gr_cli.run(*WORDS, model=module.net, progress=False).folder == first.folder
    assert first.config["code_hashes"] == {"own_model": own_code_hash("own_model")}
    before = hash_of_content([module.net])
    edit("own_model.py", OWN_MODEL + "# edited\n")
    module = importlib.import_module("own_model")
    assert hash_of_content([module.net]) != before
    second = gr_cli.run(*WORDS, model=module.net, progress=False)
    assert second.folder != first.folder and csvs(second.folder) == csvs(first.folder)
    with pytest.warns(UserWarning, match="own_model.py was edited since the run"):
        assert len(gr_cli.load_run(first.folder, trust="own_model").solver) == 2


def test_all_files_of_a_package_count():
    edit("own_package/__init__.py", "")
    edit("own_package/networks.py", OWN_MODEL)
    edit("own_package/layers.py", "width = 3\n")
    edit("own_package/notes.txt", "no code")
    config = {"model": {"_target_": "own_package.networks.net"}}
    before = code_hashes(config)
    assert list(before) == ["own_package"]
    edit("own_package/notes.txt", "other notes")
    assert code_hashes(config) == before
    edit("own_package/layers.py", "width = 4\n")
    assert code_hashes(config) != before


def test_code_that_was_imported_before_an_edit_is_refused():
    """Also that of other modules of a package, and of the target that imported from them."""
    edit("own_package/__init__.py", "")
    edit("own_package/layers.py", "width = 3\n")
    edit("own_package/networks.py", "from own_package.layers import width\n")
    config = {"model": {"_target_": "own_package.networks.net"}}
    modules = [importlib.import_module(f"own_package.{name}") for name in ("layers", "networks")]
    before = code_hashes(config)
    Path("own_package/layers.py").write_text("width = 44\n", encoding="utf-8")
    for stale, module in zip(("layers, then own_package.networks by", "networks by"), modules, strict=True):
        with pytest.raises(ConfigError, match=rf"layers.py was edited; reload own_package.{stale} importlib.reload"):
            code_hashes(config)
        importlib.reload(module)
    assert modules[1].width == 44 and code_hashes(config) != before


def test_a_folder_twice_on_the_path_counts_once(monkeypatch):
    edit("own_folder/layers.py", "width = 44\n")  # without __init__.py it has a location for each entry of sys.path
    once = own_code_hash("own_folder")
    monkeypatch.syspath_prepend(Path.cwd())
    edit("own_folder/layers.py", "width = 44\n")
    assert len(importlib.util.find_spec("own_folder").submodule_search_locations) == 2
    assert own_code_hash("own_folder") == once is not None


def test_installed_packages_do_not_count():
    """Their versions are in status.json."""
    assert (
        code_hashes({"model": {"_target_": "torch.nn.Linear"}, "optimizer": {"_target_": "collections.Counter"}}) == {}
    )
    assert own_code_hash("gr_cli") is own_code_hash("sys") is own_code_hash("__main__") is None
    assert hash_of_content(torch.nn.Linear) == hash_of_content(torch.nn.Linear)


def test_trackers_of_ones_own_do_not_count():
    edit("own_tracker.py", "class Tracker: pass\n")
    assert code_hashes({"tracker": {"_target_": "own_tracker.Tracker"}}) == {}
