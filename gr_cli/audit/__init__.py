"""`gr-audit`: what an attacker learns about the training samples of a run."""
