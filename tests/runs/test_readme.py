"""Each example of the README runs as it stands there."""

import re
from pathlib import Path

import pytest
import torch

import gr_cli

README = (Path(gr_cli.__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_example():
    (example,) = [block for block in blocks("python") if "ContinualTrainer(" in block]
    scope: dict[str, object] = {}
    exec(example, scope)
    assert scope["samples"].shape == (10, 1, 28, 28)
    assert set(scope["accuracies"]) == {0, 1}


def test_tensors_of_ones_own():
    from torch.utils.data import DataLoader, TensorDataset

    (example,) = [block for block in blocks("python") if "Tensors(" in block]
    trainer = gr_cli.ContinualTrainer(gr_cli.SimpleMLP(784, [8], 4))
    x, y = torch.randint(0, 256, (40, 28, 28), dtype=torch.uint8), torch.arange(40) % 4
    exec(example, {"torch": torch, "DataLoader": DataLoader, "TensorDataset": TensorDataset} | locals())
    assert len(trainer.accuracy_matrix) == 2


def test_a_generator_of_ones_own(gr_run, tmp_path, monkeypatch):
    (code,) = [block for block in blocks("python") if "class MeanImage" in block]
    (node,) = blocks("yaml")
    Path("my_generators.py").write_text(code)
    Path("conf/generator").mkdir(parents=True)
    Path("conf/generator/mean_image.yaml").write_text(node)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "PYTHONPATH=. gr-run --config-dir conf generator=mean_image" in README
    exit_code, _, err = gr_run("--config-dir", "conf", "generator=mean_image", "train.iterations=10")
    assert exit_code == 0, err
    assert list(Path("outputs/split_digits/generative_replay-mean_image").iterdir())


@pytest.mark.parametrize("command", re.findall(r"^gr-report (.*?) *(?:#.*)?$", README, flags=re.MULTILINE))
def test_every_report(command):
    import shlex

    from gr_cli.report.cli import main
    from helpers.run_folders import write_run

    for strategy in ("finetune", "joint"):
        write_run(Path("outputs/split_mnist"), strategy=strategy)
    assert main(shlex.split(command)) == 0


@pytest.mark.parametrize("command", re.findall(r"^gr-run (.*?) *(?:#.*)?$", README, flags=re.MULTILINE))
def test_every_command_composes(gr_run, command):
    import shlex

    words = shlex.split(command)
    if {"--help", "--cfg"} & set(words):
        assert gr_run(*words)[0] == 0
        return
    from hydra import compose, initialize_config_module
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra

    from gr_cli.config.schema import RunConfig

    ConfigStore.instance().store("schema", RunConfig)
    GlobalHydra.instance().clear()
    one = [re.sub(r"=range\(\d+\)|=([^,]+),.*", r"=\g<1>" if "," in w else "=0", w) for w in words if w != "-m"]
    with initialize_config_module("gr_cli.conf", version_base="1.3"):
        compose("config", overrides=one)


def test_the_parameters_of_the_table_have_the_defaults_they_say():
    import yaml

    defaults = yaml.safe_load(
        (Path(gr_cli.__file__).parent.parent / "conf/strategy/generative_replay.yaml").read_text()
    )
    table = README.partition("The knobs of `generative_replay`")[2].partition("- **augment**")[0]
    rows = re.findall(r"^  \| (`[^|]*`) \| ([^|]+) \|", table, flags=re.MULTILINE)
    assert len(rows) == 13
    for names, values in rows:
        for name, value in zip(re.findall(r"`(\w+)`", names), values.split(","), strict=True):
            assert yaml.safe_load(value) == defaults[name]
