"""Every command and example of the guides runs; long ones in a shortened form, those that need a download compose."""

import argparse
import importlib.util
import re
import runpy
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import gr_cli
from gr_cli.audit.cli import _parsed as parsed
from gr_cli.cli.compose import compose_settings
from gr_cli.evaluation import measures
from helpers.guides import (
    GUIDES,
    PROGRAMS,
    ROOT,
    anchors,
    blocks,
    command_words,
    inline_commands,
    links,
    shown_commands,
)
from helpers.image_files import pixels, put
from helpers.run_folders import write_audit, write_run

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SHORT = ("train.iterations=2", "train.epochs=null", "log.every=1", "evaluate.generated_samples=0", "threads=1")
SHOWN = [(guide, line) for guide, text in GUIDES.items() for line in shown_commands(text)]
INLINE = [(guide, line) for guide, text in GUIDES.items() for line in inline_commands(text)]
# Words after which nothing is composed: help, a composed configuration, completion.
DISPLAY = {"--help", "--cfg", "--version", "-sc"}
SEARCH = "hydra/sweeper=optuna"
FOLDER_WORDS = ("resume=", "verify=", "forget=", "release=")
# Fixtures with the folder of a run for a command; others take any finished one.
FOLDERS = {"forget": "folder_by_class", "release": "folder_with_budget"}
WITH_BUDGET = ("strategy=generative_classifier", "generator=private_gaussian", "privacy.epsilon=1", "threads=1")
# -> extra that installs it
OTHER_PROGRAMS = {"ray": "ray", "tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


def shortened(words: list[str]) -> list[str]:
    """Two values of each list in a sweep, and two seeds of a range, or one beside a list."""
    if SEARCH in words:
        return [*words, "hydra.sweeper.n_trials=2"]
    lists = [word for word in words if re.search(r"=[^\[]+,", word)]
    seeds = "0" if lists else "0,1"
    return [re.sub(r"^([^\[]+,[^,]+),.*", r"\1", re.sub(r"range\(\d+\)", seeds, word)) for word in words]


def single(words: list[str]) -> list[str]:
    """The overrides of the first run of a sweep."""
    return [
        re.sub(r"=([^,\[]+),.*", r"=\g<1>", re.sub(r"range\(\d+\)", "0", word))
        for word in words
        if word != "-m" and "interval(" not in word and not word.startswith(("hydra", "tracker"))
    ]


def can_run(words: list[str]) -> bool:
    """Whether a command learns the digits that ship with the package, in this process."""
    text = " ".join(words)
    tracker = re.search(r"tracker=(\w+)", text)
    if tracker and importlib.util.find_spec(tracker[1]) is None:
        return False
    if SEARCH in words and importlib.util.find_spec("optuna") is None:
        return False
    if re.search(r"hydra/launcher=(?!batched)|hydra\.launcher\.|online", text):
        return False
    return not re.search(r"benchmark=|benchmark\.source|benchmark/features|preset=(?!smoke)", text)


@pytest.fixture
def own_files(monkeypatch, tmp_path):
    """Photographs, arrays and modules by the names that the guides give them."""
    for code in filter(is_file, blocks(GUIDES["README.md"], "python")):
        path = tmp_path / code.partition("\n")[0].removeprefix("# ")
        path.write_text(code, encoding="utf-8")
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    for part, each in (("train", 12), ("test", 2)):
        for name in ("cat", "dog", "fox", "owl"):
            for i in range(each):
                put(f"photos/{part}/{name}/{i}.png", pixels(8, 8, 3))
    np.savez("set.npz", x=np.random.default_rng(0).random((60, 6)).astype(np.float32), y=np.arange(60) % 10)


@pytest.fixture
def folder_by_class(made):
    """The folder of a finished run that can forget classes, tasks and samples, and a file of such a sample."""
    np.savez("gone.npz", x=np.zeros((1, 8, 8), dtype=np.float32))
    return made("strategy=ncm", "strategy.arithmetic=fixed_point", "train.iterations=1", "threads=1")


@pytest.fixture
def folder_with_budget(made):
    """The folder of a finished run with a budget of privacy."""
    return made(*WITH_BUDGET)


def check_command(words, gr_run, gr_report, request, run):
    """Run a command of a guide, or compose it."""
    program, *rest = words
    if program == "gr-audit":
        parsed(rest)
        return
    if program == "gr-report":
        for strategy in ("finetune", "joint"):
            write_run(Path("outputs/split_mnist"), strategy=strategy)
        write_audit(write_run(Path("outputs/split_mnist"), strategy="generative_replay"))
        code, _, err = gr_report(*rest)
        assert code == 0, err
        return
    if rest and rest[0].startswith(FOLDER_WORDS):
        command = rest[0].partition("=")[0]
        folder = request.getfixturevalue(FOLDERS.get(command, "folder"))
        rest = [f"{command}={folder}", *rest[1:]]
    elif DISPLAY & set(rest):
        pass
    elif run and can_run(rest):
        rest = [*shortened(rest), *SHORT]
    else:
        compose_settings(single(rest))
        return
    code, _, err = gr_run(*rest)
    assert code == 0, err


def commands(pairs, ours):
    """Parameters of a test: the words of each command, named by guide and line; extensions have tests of their own."""
    words_by_name = {f"{guide}: {line.partition('  #')[0]}": command_words(line) for guide, line in pairs}
    return [
        pytest.param(words, id=name)
        for name, words in words_by_name.items()
        if (words[0] in PROGRAMS) == ours and "--config-dir" not in words and "..." not in " ".join(words)
    ]


@pytest.mark.parametrize("words", commands(SHOWN, ours=True))
def test_commands_of_shell_blocks_run(words, gr_run, gr_report, request, own_files):
    check_command(words, gr_run, gr_report, request, run=True)


@pytest.mark.parametrize("words", commands(INLINE, ours=True))
def test_commands_in_text_compose(words, gr_run, gr_report, request, own_files):
    check_command(words, gr_run, gr_report, request, run=False)


@pytest.mark.parametrize("words", commands(SHOWN + INLINE, ours=False))
def test_other_commands_exist(words, monkeypatch):
    """Scripts accept the arguments shown, and extras are declared."""
    (program, *rest), line = words, " ".join(words)
    if program == "python" and rest[0] == "-m":
        assert importlib.util.find_spec(rest[1]), line
    elif program == "python":
        check_arguments(ROOT / rest[0], rest[1:], monkeypatch)
    elif program == "pip":
        extras = {extra for word in rest for group in re.findall(r"\[(.*)\]", word) for extra in group.split(",")}
        assert extras <= set(PROJECT["project"]["optional-dependencies"])
    elif program.startswith("scripts/"):
        assert (ROOT / program).is_file()
        if program == "scripts/run":
            compose_settings(single(rest))
    else:
        assert program in OTHER_PROGRAMS or program in ("git", "cd", "eval"), line


def check_arguments(script, arguments, monkeypatch):
    """A script's own parser accepts the arguments; nothing else of it runs."""

    class Parsed(BaseException):
        pass

    def stop(parse):
        def parse_and_stop(*given):
            parse(*given)
            raise Parsed

        return parse_and_stop

    assert script.is_file()
    if "argparse" not in script.read_text():
        return
    for name in ("parse_args", "parse_known_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, stop(getattr(argparse.ArgumentParser, name)))
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    monkeypatch.syspath_prepend(str(script.parent))
    with pytest.raises(Parsed):
        runpy.run_path(str(script), run_name="__main__")


# --- examples


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("guide", [guide for guide, text in GUIDES.items() if blocks(text, "python")])
def test_python_examples_run(guide, gr_run, own_files):
    """The examples of a guide run one after the other in one namespace, beside a finished run of the digits."""
    examples = [code for code in blocks(GUIDES[guide], "python") if not is_file(code)]
    if any("load_run(" in code or "outputs" in code for code in examples):
        assert gr_run("strategy=finetune", *SHORT)[0] == 0
    if any("load_release(" in code for code in examples):
        assert gr_run(*WITH_BUDGET, "hydra.run.dir=private")[0] == 0
        assert gr_run("release=private", "to=released")[0] == 0
    scope: dict[str, object] = {
        "x": torch.randint(0, 256, (40, 28, 28), dtype=torch.uint8),
        "y": torch.arange(40) % 4,
    }
    for code in examples:
        exec(compile(code.replace("iterations=200", "iterations=2"), guide, "exec"), scope)


def is_file(code: str) -> bool:
    return bool(re.match(r"# [\w/]+\.(py|yaml)\n", code))


EXTENSIONS = [
    section for section in re.split(r"^### ", GUIDES["gr_cli/README.md"], flags=re.M)[1:] if "# my_" in section
]


@pytest.mark.parametrize("section", EXTENSIONS, ids=[section.partition("\n")[0] for section in EXTENSIONS])
def test_extensions_run(section, gr_run, tmp_path, monkeypatch):
    """One Python file and one YAML file; the commands of the section use them."""
    for code in blocks(section, "python", "yaml"):
        path = Path(code.partition("\n")[0].removeprefix("# "))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    for line in shown_commands(section):
        words = command_words(line)[1:]
        code, _, err = gr_run(*shortened(words), *SHORT)
        assert code == 0, err
    assert list(Path("outputs").glob("*/*/*/accuracy_matrix.csv"))


def test_an_evaluation_of_ones_own(gr_run, tmp_path, monkeypatch):
    (code,) = [code for code in blocks(GUIDES["gr_cli/README.md"], "python") if "evaluation/measures/" in code]
    (tmp_path / "own" / "confidence.py").parent.mkdir()
    (tmp_path / "own" / "confidence.py").write_text(code)
    monkeypatch.setattr(measures, "__path__", [*measures.__path__, str(tmp_path / "own")])
    try:
        assert gr_run("strategy=finetune", *SHORT)[0] == 0
    finally:
        sys.modules.pop("gr_cli.evaluation.measures.confidence", None)
    (table,) = Path("outputs").glob("*/*/*/confidence.csv")
    assert table.read_text().startswith("after_task,task,confidence\n")


# --- what guides say


def test_the_readme_is_short():
    assert GUIDES["README.md"].count("\n") <= 200


@pytest.mark.parametrize("guide", GUIDES)
def test_links_lead_somewhere(guide):
    """Links between guides are paths from the file they are in. If pyproject.toml names the project's repository, the
    README, which is the description of the wheel, must have links that begin with its address instead."""
    repository = PROJECT["project"].get("urls", {}).get("Repository")
    for link in links(GUIDES[guide]):
        if link.startswith(("https://", "http://")):
            continue
        assert guide != "README.md" or repository is None, f"{link}: must begin with {repository}"
        path, _, anchor = link.partition("#")
        target = ((ROOT / guide).parent / path if path else ROOT / guide).resolve()
        assert target.exists(), link
        if anchor:
            text = (target if target.is_file() else target / "README.md").read_text(encoding="utf-8")
            assert anchor in anchors(text), link


def test_readme_links_are_legible_where_they_lead_nowhere():
    """In the description of an installed wheel relative links don't work: their text says which file is meant."""
    for text, target in re.findall(r"(?<!!)\[([^]]+)\]\(([^)#\s]+)\)", GUIDES["README.md"]):
        assert target.startswith("https://") or text.strip("`") == target, text


def test_guides_are_in_the_wheel():
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for guide in GUIDES:
        folder = Path(guide).parent.as_posix()
        if folder not in (".", "scripts"):
            package = "gr_cli.conf" if folder == "conf" else folder.replace("/", ".")
            assert "README.md" in data.get(package, []), guide


def test_layers_are_those_that_are_tested():
    from test_architecture import LAYERS

    (drawing,) = blocks(GUIDES["gr_cli/README.md"].partition("## Layers")[2], "text")
    assert [tuple(line.split(" | ")) for line in drawing.splitlines()] == list(LAYERS)


def test_every_package_of_the_drawing_exists():
    assert all(Path(gr_cli.__file__).parent.joinpath(name).exists() for name in ("cli", "config", "runner", "training"))


@pytest.mark.parametrize("script", sorted((ROOT / "scripts" / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_example_scripts_run(script, monkeypatch):
    """As they stand there, with fewer epochs, seeds and iterations."""
    text = script.read_text(encoding="utf-8")
    for longer, shorter in {
        "EPOCHS = 10": "EPOCHS = 1",
        "SEEDS = (0, 1, 2)": "SEEDS = (0, 1)",
        "PER_CLASS = 16, 40": "PER_CLASS = 16, 15",
        "train.iterations=200": "train.iterations=3",
    }.items():
        text = text.replace(longer, shorter)
    assert text.startswith("# %% [markdown]\n") and len(re.findall(r"^# %%$", text, flags=re.M)) > 3
    exec(compile(text, str(script), "exec"), {"__name__": "__main__"})


def test_the_readme_names_the_version_and_counts_the_options():
    text, conf = " ".join(GUIDES["README.md"].split()), ROOT / "conf"
    assert f"version = {{{PROJECT['project']['version']}}}" in text
    for group, name, own in (
        ("strategy", "strategies", 0),
        ("generator", "generators", 0),
        ("benchmark", "benchmarks", 2),
    ):
        assert re.search(rf"\b{len(list((conf / group).glob('*.yaml'))) - own} {name}", text), name
