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


MISTAKES = {
    "generator.latent_dim=-3": "generator.latent_dim=-3: must be a whole number ≥ 1; the default is 32",
    "generator.latent_dm=3": "generator.latent_dm=3: no such setting; there are dropout",
    "+generator.latent_dm=3": "generator.latent_dm=3: no such setting; there are dropout",
    "generator.initialisation=best": "generator.initialisation=best: must be one of he, torch",
    "optimizer.lr=fast": "optimizer.lr=fast: must be a number > 0",
    "benchmark.source=3": "benchmark.source=3: must be a Source: settings with a _target_",
    "benchmark.validation_share=1": "benchmark.validation_share=1: must be a number ≥ 0 and < 1; the default is 0.0",
    "train.batch_size=0": "train.batch_size=0: must be a whole number ≥ 1",
    "seed=-1": "seed=-1: must be a whole number ≥ 0",
    "-m generator.latent_dim=4,-3": "generator.latent_dim=-3: must be a whole number ≥ 1; the default is 32",
    "-m hydra/launcher=batched generator.latent_dim=4,-3": "generator.latent_dim=-3: must be a whole number ≥ 1",
    "-m hydra/launcher=batched hydra.launcher.width=0 seed=1,2": "hydra.launcher.width=0: must be",
}


def test_wrong_values_are_refused_without_torch():
    script = (
        "import sys; sys.modules['torch'] = None  # an import of it raises\n"
        "from gr_cli.cli.main import main\n"
        "for words in sys.argv[1:]: assert main(words.split()) == 2, words"
    )
    done = subprocess.run([sys.executable, "-c", script, *MISTAKES], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(MISTAKES) and not list(Path().iterdir())
    for line, expected in zip(lines, MISTAKES.values(), strict=True):
        assert line.startswith(f"gr-run: {expected}")


def test_components_of_other_packages_are_imported_with_torch_to_be_checked():
    Path("own_models.py").write_text(
        "from torch import nn\n\n\nclass Own(nn.Sequential):\n"
        "    def __init__(self, input_size: int, output_size: int, width: int = 3) -> None: ...\n",
        encoding="utf-8",
    )
    words = ["model._target_=own_models.Own", "+model.width=wide"]
    words += ["~model.hidden_sizes", "~model.dropout"]
    done = subprocess.run([sys.executable, "-m", "gr_cli", *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "gr-run: loading torch …"
    assert "model.width=wide: must be a whole number; the default is 3" in done.stderr
