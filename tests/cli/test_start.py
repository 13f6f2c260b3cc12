"""A run starts fast: it imports what it uses, and composes its configuration once."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from helpers import small_mnist

# Each takes from a tenth of a second to seconds.
UNUSED = ("torchvision", "matplotlib", "pandas", "pydantic", "scipy", "sklearn", "jinja2", "joblib", "sympy")
UNUSED_PARTS = ("torch._dynamo", "torch._inductor", "torch.utils.tensorboard", "gr_cli.report", "gr_cli.runner.verify")
RUNS = {
    "digits": ("strategy=generative_replay",),
    "mnist": ("benchmark=split_mnist", "strategy=finetune", "data_root=data", "download=false"),
}


@pytest.mark.parametrize("benchmark", RUNS)
def test_a_run_imports_what_it_uses(benchmark):
    small_mnist.write(Path("data"))
    script = (
        "import sys; import torch; before = set(sys.modules); from gr_cli.cli.main import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print('IMPORTED', *sorted(set(sys.modules) - before))"
    )
    command = [sys.executable, "-c", script, *RUNS[benchmark], "train.iterations=2", "log.every=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    imported = done.stdout.rpartition("IMPORTED")[2].split()
    assert "gr_cli.runner.run" in imported and list(Path("outputs").rglob("accuracy_matrix.png"))
    packages = {name.partition(".")[0] for name in imported}
    assert not packages.intersection(UNUSED)
    assert not set(imported).intersection(UNUSED_PARTS)


@pytest.mark.parametrize(("words", "times"), [((), 1), (("hydra.mode=RUN",), 2)])
def test_a_run_composes_its_configuration_once(gr_run, monkeypatch, words, times):
    """Hydra composes it twice, to look up `hydra.mode`, which only few words can set."""
    compose, composed = ConfigLoaderImpl.load_configuration, []

    def count(*args, **kwargs):
        composed.append(args)
        return compose(*args, **kwargs)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", count)
    code, _, err = gr_run("strategy=finetune", "train.iterations=1", *words)
    assert code == 0, err
    assert len(composed) == times
