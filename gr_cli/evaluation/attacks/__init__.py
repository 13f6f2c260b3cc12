"""Attacks on the privacy of training samples: estimators that take scores or samples and return figures."""
