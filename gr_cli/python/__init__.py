"""Runs, sweeps and their results from Python and notebooks."""
