"""`--help` of the program, of groups, options and settings; tab completion. Nothing heavy is imported."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gr_cli.cli.completion import complete
from gr_cli.cli.help import help_text
from gr_cli.config.groups import GROUPS
from gr_cli.config.options import ALL_GROUPS, Options
from gr_cli.config.run_settings import RUN_SETTINGS_BY_NAME

STRATEGIES = Options().names("strategy")


@pytest.fixture(params=[80, 120], ids="{} columns".format)
def columns(request, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(request.param))
    return request.param


def test_help_names_every_group_option_and_setting(gr_run, columns):
    code, out, err = gr_run("--help")
    assert (code, err) == (0, "")
    words = out.replace("*", "").split()
    options = Options()
    assert set(words) >= {*ALL_GROUPS, *RUN_SETTINGS_BY_NAME}
    assert set(words) >= {name for group in ALL_GROUPS for name in options.names(group)}
    assert max(map(len, out.splitlines())) <= columns


@pytest.mark.parametrize("group", ALL_GROUPS)
def test_help_of_a_group_has_a_line_for_each_option(group, columns):
    lines = help_text(["--help", group]).splitlines()
    names = [line.split()[0].rstrip("*") for line in lines if line.startswith("  ") and line[2] != " "]
    assert names == Options().names(group)
    assert max(map(len, lines)) <= columns


@pytest.mark.parametrize("group", ALL_GROUPS)
def test_help_of_an_option_has_a_line_for_each_setting(group, columns):
    options = Options()
    for name in options.names(group):
        text = help_text([f"{group}={name}", "--help"])
        assert text.startswith(f"{group}={name}:")
        assert max(map(len, text.splitlines())) <= columns
        for setting in options.settings(options.read(group, name)):
            assert f"\n  {setting.name}=" in text, setting.name


def test_help_of_several_options_and_of_groups_inside():
    text = help_text(["-h", "strategy=er,ewc", "strategy/regularizer=si", "seed=3"])
    for part in ("strategy=er:", "strategy=ewc:", "  strategy.regularizer.damping=0.1", "  seed=0"):
        assert part in text
    assert "strategy.generator_scope" in help_text(["strategy.generator_scope", "--help"])


def test_help_finds_a_setting_of_options_that_are_not_chosen():
    text = help_text(["--help", "benchmark.source.path"])
    assert "with benchmark=arrays:" in text and "with benchmark=image_folder:" in text
    assert "with strategy=a_gem, er (defaults of a_gem):" in help_text(["--help", "strategy.per_class"])
    section = help_text(["--help", "benchmark.source"])  # the default option's has no settings
    for part in ("with benchmark=image_folder:", "  benchmark.source.size=null", "with benchmark=split_emnist:"):
        assert part in section
    text = help_text(["--help", "strategy.regularizer.strength"])
    assert "with strategy=ewc, online_ewc or strategy/regularizer=ewc," in text


def test_help_takes_its_topic_behind_an_equals_sign_too(gr_run):
    code, out, err = gr_run("--help=strategy")
    assert (code, out.rstrip(), err) == (0, help_text(["--help", "strategy"]), "")


def test_help_does_not_break_names_at_hyphens(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert "install 'gr-cli[joblib]'" in help_text(["--help", "hydra/launcher"])
    assert "gr-\n" not in "".join(help_text(["--help", group]) for group in ALL_GROUPS)
    assert help_text(["--help", "train"]).startswith("train: ")
    assert "--cfg" in help_text(["--help", "--cfg", "job", "resume=outputs"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--help", "strateg"),
            "strateg: no such group or setting; there are strategy, .*did you mean 'strategy'",
        ),
        (("strategy=dgrr", "--help"), "strategy=dgrr: no such option; there are a_gem, .*did you mean 'dgr'"),
        (("--help", "strategy.target"), "--help=strategy.target: no such group or setting; there are strategy.memory"),
        (("--help", "train.temperature"), "did you mean strategy.temperature"),
        (("--help", "generator.importance_samples"), "did you mean strategy.importance_samples"),
    ],
)
def test_a_wrong_name_gets_one_line(gr_run, words, message):
    code, out, err = gr_run(*words)
    assert (code, out) == (2, "")
    assert re.search(message, err)
    assert err.count("\n") == 1


def test_help_of_the_users_own_option_imports_its_component(gr_run, tmp_path, monkeypatch):
    folder = tmp_path / "own" / "model"
    folder.mkdir(parents=True)
    (tmp_path / "own_model.py").write_text(
        'class Net:\n    """A net of mine.\n\n    Args:\n        size: Its size.\n    """\n\n'
        "    def __init__(self, size: int = 3) -> None: ...\n"
    )
    (folder / "net.yaml").write_text("_target_: own_model.Net\nsize: 4\n")
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ("--config-dir", str(tmp_path / "own"), "--help")
    assert " net" in gr_run(*arguments)[1]
    assert "\n  net\n" in gr_run(*arguments, "model")[1]
    assert "own_model" not in sys.modules
    _, out, _ = gr_run(*arguments, "model=net")
    assert "model=net: A net of mine" in out
    assert "  model.size=4" in out and "      Its size." in out
    del sys.modules["own_model"]
    (folder / "net.yaml").write_text("_target_: own_model.Absent\nsize: 4\n")
    code, _, err = gr_run(*arguments, "model=net")
    assert code == 2
    assert "_target_=own_model.Absent: can't be imported" in err
    sys.modules.pop("own_model", None)


@pytest.mark.parametrize(
    "words", ["--help", "--help strategy", "strategy=dgr --help", "--help seed", "-sc query=bash", "--cfg job"]
)
def test_help_imports_no_torch(words):
    script = (
        "import sys; from gr_cli.cli.main import main\n"
        f"try: main({words.split()!r})\n"
        "except SystemExit: pass\n"
        "print('HEAVY', sorted({'torch', 'numpy', 'pandas', 'pydantic', 'hydra'} & set(sys.modules)))"
    )
    environment = os.environ | {"COMP_LINE": "gr-run strategy.t"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    expected = "['hydra']" if "--cfg" in words else "[]"
    assert f"HEAVY {expected}" in done.stdout


# --- the composed configuration


def test_the_composed_configuration_has_comments(gr_run):
    code, out, _ = gr_run("--cfg", "job", "strategy=dgr")
    assert code == 0
    assert "  epochs: null  # Epochs per task" in out
    assert yaml.safe_load(out)["train"]["epochs"] is None
    assert "# Epochs per task" in gr_run("--cfg", "job", "--package", "train")[1]


# --- tab completion


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("strat", ["strategy.", "strategy/regularizer=", "strategy="]),
        ("scenario=", ["scenario=class", "scenario=domain", "scenario=task"]),
        ("strategy=dg", ["strategy=dgr", "strategy=dgr_distill", "strategy=dgr_gan"]),
        ("-m strategy=dgr,dg", ["strategy=dgr,dgr_distill", "strategy=dgr,dgr_gan"]),
        ("strategy.targets=", ["strategy.targets=hard", "strategy.targets=soft", "strategy.targets=likelihood"]),
        ("strategy=rtf strategy.targets=s", ["strategy.targets=soft"]),
        ("strategy=ewc strategy.regularizer.la", ["strategy.regularizer.labels="]),
        ("train.it", ["train.iterations="]),
        ("strategy.memory_size=", ["strategy.memory_size=500"]),
        ("download=f", ["download=false"]),
        ("--cfg j", ["job"]),
        ("--vers", ["--version"]),
        ("+strategy/reg", ["+strategy/regularizer="]),
        ("hydra/launcher=batched hydra.launcher.wi", ["hydra.launcher.width="]),
        ("strategy=absent scen", ["scenario="]),
        ("no_such=", []),
    ],
)
def test_completion(line, expected):
    assert complete(line) == expected


def test_completion_after_a_space_begins_a_new_word():
    assert {f"{group}=" for group in GROUPS} <= set(complete("strategy=dgr "))
    assert "strategy.targets=" in complete("strategy=dgr strategy.")
    assert complete("") == complete(" ")


def test_completion_of_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Path("outputs/split_digits/er/seed0-1234")
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    Path("data.npz").touch()
    assert complete("resume=") == ["resume=outputs/split_digits/"]
    assert complete("resume=outputs/split_digits/er/") == [f"resume={run.as_posix()}"]
    assert complete("verify=out") == ["verify=outputs/"]
    assert complete("benchmark=arrays benchmark.source.path=da") == ["benchmark.source.path=data.npz"]
    assert complete("--config-dir out") == ["outputs/"]
    assert complete("resume=absent/") == []


@pytest.mark.parametrize(("shell", "separator"), [("bash", " "), ("zsh", " "), ("fish", "\n")])
def test_completion_in_the_form_of_a_shell(gr_run, monkeypatch, shell, separator):
    for program in ("gr-run", "/usr/bin/gr-run", "python -m gr_cli"):
        monkeypatch.setenv("COMP_LINE", f"{program} scenario=")
        code, out, _ = gr_run("-sc", f"query={shell}")
        assert (code, out) == (0, separator.join(f"scenario={name}" for name in ("class", "domain", "task")) + "\n")
