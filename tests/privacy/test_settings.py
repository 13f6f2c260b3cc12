"""The budget that components get."""

import pytest

from gr_cli.privacy import PrivacySettings

SECTION = {"epsilon": 2.0, "delta": 1e-5, "unit": "sample", "across": "tasks", "secure": False, "sampling_rate": None}


def test_a_run_without_budget_has_no_settings():
    assert PrivacySettings.from_config(SECTION | {"epsilon": None}, 5) is None


@pytest.mark.parametrize(("across", "tasks"), [("tasks", 1), ("stream", 5)])
def test_tasks_that_a_sample_may_be_in(across, tasks):
    assert PrivacySettings.from_config(SECTION | {"across": across}, 5).tasks_per_sample == tasks


def test_shares_add_up_to_the_budget():
    share = PrivacySettings(2.0, 1e-5).share(2)
    assert (share.epsilon, share.delta) == (1.0, 0.5e-5)
