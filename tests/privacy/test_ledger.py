"""The ledger: entries are on the disk before an access, noise that repeats counts once, and a budget is kept."""

import os
from dataclasses import replace

import pytest

from gr_cli.errors import ConfigError, FolderError
from gr_cli.privacy import Access, Ledger, PrivacySettings
from gr_cli.privacy.analytic_gaussian import epsilon_of_gaussian
from gr_cli.privacy.ledger import FILE_NAME

MULTIPLIER = 4.0
EPSILON = epsilon_of_gaussian(1e-5, MULTIPLIER)
ACCESS = Access(0, "generator", (0, 1), "gaussian", MULTIPLIER, 2.0, 1.0, 1, EPSILON, 1e-5)
SEEDED, SECURE = PrivacySettings(EPSILON), PrivacySettings(EPSILON, secure=True)


def test_deviation_is_multiplier_times_sensitivity():
    assert ACCESS.deviation == 8.0


@pytest.mark.parametrize("on_disk", [True, False])
def test_seeded_noise_that_repeats_is_counted_once(tmp_path, on_disk):
    ledger = Ledger(SEEDED, tmp_path if on_disk else None)
    ledger.record([ACCESS])
    ledger.record([ACCESS, replace(ACCESS, task=1)])
    assert ledger.accesses == [ACCESS, replace(ACCESS, task=1)]
    assert ledger.spent.epsilon == EPSILON


def test_the_ledger_of_a_folder_is_read_again_exactly(tmp_path):
    ledger = Ledger(SEEDED, tmp_path)
    ledger.record([ACCESS, replace(ACCESS, task=1, epsilon=EPSILON / 3)])
    assert Ledger(SEEDED, tmp_path).accesses == ledger.accesses


def test_a_system_noise_that_is_drawn_again_counts_again(tmp_path):
    double = PrivacySettings(2 * EPSILON, 1e-5, secure=True)
    Ledger(double, tmp_path).record([ACCESS])
    ledger = Ledger(double, tmp_path)
    ledger.record([ACCESS])
    assert ledger.accesses == [ACCESS, ACCESS]
    assert ledger.spent.epsilon == pytest.approx(epsilon_of_gaussian(1e-5, MULTIPLIER / 2**0.5), rel=1e-12)


def test_what_would_pass_the_budget_is_refused_and_not_recorded(tmp_path):
    Ledger(SECURE, tmp_path).record([ACCESS])
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(ConfigError, match=r"privacy\.epsilon=.*new noise; start a new run with fresh=true"):
        Ledger(SECURE, tmp_path).record([ACCESS], stage=0, iteration=3)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_delta_is_part_of_the_budget():
    with pytest.raises(ConfigError, match=r"delta of 0\.001"):
        Ledger(SEEDED).record([replace(ACCESS, delta=1e-3)])


def test_a_run_that_stopped_at_its_checkpoint_does_nothing_again(tmp_path):
    ledger = Ledger(SECURE, tmp_path)
    ledger.record([ACCESS])
    ledger.record_stop(0, 5)
    ledger = Ledger(SECURE, tmp_path)
    ledger.record([ACCESS], 0, 5)
    assert ledger.accesses == [ACCESS]
    # A process that was killed after that has trained further than the checkpoint.
    with pytest.raises(ConfigError, match="new noise"):
        Ledger(SECURE, tmp_path).record([ACCESS], 0, 5)


def test_a_stop_counts_for_its_own_checkpoint_alone(tmp_path):
    ledger = Ledger(SECURE, tmp_path)
    ledger.record([ACCESS])
    ledger.record_stop(0, 5)
    with pytest.raises(ConfigError, match="new noise"):
        Ledger(SECURE, tmp_path).record([ACCESS], 0, 4)


def test_an_entry_is_on_the_disk_when_the_access_begins(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((tmp_path / FILE_NAME).read_text(encoding="utf-8")))
    Ledger(SEEDED, tmp_path).record([ACCESS])
    text, of_folder = synced
    assert of_folder == text  # the name of the new file, too
    Ledger(SEEDED, tmp_path).record([replace(ACCESS, task=1)])
    assert len(synced) == 3
    assert '"noise_multiplier": 4.0' in text and text.endswith("\n")


def test_an_entry_that_was_cut_off_was_not_spent(tmp_path):
    ledger = Ledger(SEEDED, tmp_path)
    ledger.record([ACCESS])
    path = tmp_path / FILE_NAME
    complete = path.read_bytes()
    path.write_bytes(complete + b'{"access": {"task"')
    ledger = Ledger(SEEDED, tmp_path)
    assert ledger.accesses == [ACCESS] and path.read_bytes() == complete


@pytest.mark.parametrize("line", ["no entry\n", '{"access": {}}\n', '{"stopped_at": 3}\n', "[]\n"])
def test_a_damaged_ledger_is_refused(tmp_path, line):
    (tmp_path / FILE_NAME).write_text(line, encoding="utf-8")
    with pytest.raises(FolderError, match="unknown what was spent"):
        Ledger(SEEDED, tmp_path)


def test_a_ledger_that_lost_entries_is_refused(tmp_path):
    ledger = Ledger(SEEDED, tmp_path)
    ledger.record([ACCESS])
    ledger.require([ACCESS])
    (tmp_path / FILE_NAME).unlink()
    with pytest.raises(FolderError, match="no entry for task 0"):
        Ledger(SEEDED, tmp_path).require([ACCESS])
