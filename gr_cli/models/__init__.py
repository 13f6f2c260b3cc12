"""Solvers: networks that map a batch of samples (B, ...) to logits (B, U), one per output unit.

A solver is any `torch.nn.Module`. Its constructor names what it needs of `input_size`, `input_shape`, `output_size` and
`moments`, which the program provides; other arguments are settings. Three optional parts: `features` and `readout` (the
two halves of `forward`, for iCaRL and feedback connections, with `feature_size`), and `training_noise` (for dropout
that is the same whether runs are trained one by one or together).

>>> import torch
>>> from torch import nn
>>> class LinearModel(nn.Module):
...     def __init__(self, input_size: int, output_size: int, bias: bool = True) -> None:
...         super().__init__()
...         self.output = nn.Linear(input_size, output_size, bias)
...     def forward(self, x: torch.Tensor) -> torch.Tensor:
...         return self.output(x.flatten(1))
>>> LinearModel(input_size=64, output_size=10)(torch.rand(5, 1, 8, 8)).shape
torch.Size([5, 10])
"""

from gr_cli.models.cnn import CNN as CNN
from gr_cli.models.mlp import SimpleMLP as SimpleMLP
