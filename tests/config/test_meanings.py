"""Every option has a heading, every setting a meaning."""

import re

import pytest

from gr_cli.config.options import ALL_GROUPS, Options

OPTIONS = Options()
SHIPPED = [(group, name) for group in ALL_GROUPS for name in OPTIONS.names(group)]


@pytest.mark.parametrize(("group", "name"), SHIPPED)
def test_every_setting_of_every_option_has_a_meaning(group, name):
    option = OPTIONS.read(group, name)
    assert option.heading or name == "none"
    assert len(option.heading) <= 120
    for setting in OPTIONS.settings(option):
        assert setting.meaning, setting.name
        assert not re.match(r"as (for|of) `", setting.meaning, re.IGNORECASE), f"{setting.name} sends its reader on"


def test_every_setting_of_the_default_configuration_has_a_comment(gr_run):
    code, out, _ = gr_run("--cfg", "job")
    assert code == 0
    lines = [line for line in out.splitlines() if "_target_" not in line and not line.lstrip().startswith("- ")]
    assert [line for line in lines if "  # " not in line] == ["tracker: null"]
