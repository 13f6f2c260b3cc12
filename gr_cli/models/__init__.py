"""Solvers: the networks that learn the tasks. Each maps a batch of samples to one logit per output unit."""

from gr_cli.models.cnn import CNN as CNN
from gr_cli.models.mlp import SimpleMLP as SimpleMLP
