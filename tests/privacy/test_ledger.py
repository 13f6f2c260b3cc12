"""The ledger: entries are on the disk before an access, and noise that repeats is counted once."""

from dataclasses import replace

import pytest

from gr_cli.privacy import Access, Ledger

ACCESS = Access(0, "generator", (0, 1), "gaussian", 4.0, 2.0, 1.0, 1, 1.0, 1e-5)


def test_deviation_is_multiplier_times_sensitivity():
    assert ACCESS.deviation == 8.0


@pytest.mark.parametrize("on_disk", [True, False])
def test_seeded_noise_that_repeats_is_counted_once(tmp_path, on_disk):
    ledger = Ledger(tmp_path if on_disk else None)
    ledger.record([ACCESS])
    ledger.record([ACCESS, replace(ACCESS, task=1)])
    assert ledger.accesses == [ACCESS, replace(ACCESS, task=1)]


def test_noise_of_the_system_is_counted_again(tmp_path):
    Ledger(tmp_path, secure=True).record([ACCESS])
    ledger = Ledger(tmp_path, secure=True)
    ledger.record([ACCESS])
    assert ledger.accesses == Ledger(tmp_path, secure=True).accesses == [ACCESS, ACCESS]
