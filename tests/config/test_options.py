"""Every option has a heading, every setting a meaning; comments leave a configuration as it is."""

from pathlib import Path

import pytest
import yaml

from gr_cli.cli.reference import reference_page
from gr_cli.config.comments import with_comments
from gr_cli.config.groups import CONF
from gr_cli.config.options import Options, run_settings, yaml_comments
from gr_cli.config.run_settings import RUN_SETTINGS_BY_NAME
from gr_cli.config.settings import Settings
from gr_cli.errors import ConfigError

OPTIONS = Options()


def test_every_setting_of_a_run_has_a_meaning_and_a_default():
    settings = run_settings()
    assert [setting.name for setting in settings] == list(RUN_SETTINGS_BY_NAME)
    assert all(setting.meaning.endswith((".", ")")) and setting.allowed for setting in settings)


def test_an_option_inherits_values_and_choices():
    option = OPTIONS.read("strategy", "dgr_distill")
    assert option.parents == ("generative_replay", "dgr")
    assert option.values["targets"] == "soft"
    assert option.values["replay_weight"] == "by_tasks"
    assert option.choices["generator"] == "symmetric_vae"
    assert OPTIONS.resolve({"strategy": "bir"})["generator"] == "bir"
    assert OPTIONS.resolve({"strategy": "bir", "generator": "rtf"})["generator"] == "rtf"


def test_an_unknown_option_is_named_with_those_there_are():
    with pytest.raises(ConfigError, match=r"strategy=dgrr: no such option; there are a_gem, .*did you mean 'dgr'"):
        OPTIONS.read("strategy", "dgrr")


def test_comments_behind_values_are_read_by_dotted_name():
    text = 'a: 1  # one\nb:\n  c: "x # y"  # two\n  d: [1, 2] # three\n# no value\ne: "#"\n'
    assert yaml_comments(text) == {"a": "one", "b.c": "two", "b.d": "three"}


@pytest.mark.parametrize("name", OPTIONS.names("strategy"))
def test_comments_do_not_change_a_configuration(name):
    values = {"strategy": dict(OPTIONS.read("strategy", name).values), "train": {"epochs": 3}, "seed": 0}
    text = yaml.safe_dump(values, sort_keys=False)
    commented = with_comments(text)
    assert yaml.safe_load(commented) == values
    assert "  epochs: 3  # Epochs per task" in commented
    assert "\nseed: 0  # Seed of " in commented


def test_comments_stay_out_of_texts_of_several_lines():
    values = {"seed": 1, "data_root": "word " * 40 + "\nseed: 3", "train": [1, {"epochs": 3}]}
    assert yaml.safe_load(with_comments(yaml.safe_dump(values))) == values
    assert with_comments("- 1\n- 2\n") == "- 1\n- 2\n"


def test_comments_of_a_part_of_a_configuration():
    assert with_comments("epochs: 3\n", "train").startswith("epochs: 3  # Epochs per task")


def test_the_reference_page_is_current():
    """Write it anew with `python -m gr_cli.cli.reference conf/README.md`."""
    assert (Path(CONF) / "README.md").read_text(encoding="utf-8") == reference_page()


def test_the_configuration_in_a_runs_folder_has_comments_and_the_same_content():
    config = {
        "seed": 3,
        "strategy": {"_target_": "gr_cli.strategies.Finetune"},
        "data_root": "/a: b # c",
        "model": None,
    }
    text = Settings(config, {"strategy": "finetune"}).as_yaml()
    assert "seed: 3  # Seed of " in text
    assert yaml.safe_load(text) == config | {"choices": {"strategy": "finetune"}}
