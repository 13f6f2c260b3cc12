"""Differential privacy: the budget of a run, its ledger, calibrated noise, and what a run may claim."""

from gr_cli.privacy.access import Access, PrivateMechanism
from gr_cli.privacy.ledger import Ledger
from gr_cli.privacy.noise import gaussian_noise, uniform_numbers
from gr_cli.privacy.settings import PrivacySettings

__all__ = ["Access", "Ledger", "PrivacySettings", "PrivateMechanism", "gaussian_noise", "uniform_numbers"]
