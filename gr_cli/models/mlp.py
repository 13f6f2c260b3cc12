"""Multilayer perceptron."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.config.arguments import validate_arguments
from gr_cli.nn.fused import can_fuse, defines, has_hooks, linear_parameters
from gr_cli.nn.fused_mlp import ReluStack, StackedNetwork
from gr_cli.nn.layers import dropout, dropout_mask
from gr_cli.nn.linear import Linear
from gr_cli.nn.normalization import ChannelMoments, InputNormalization
from gr_cli.nn.random_streams import NoiseSpec
from gr_cli.types import FractionBelowOne, LayerSizes, PositiveInt, VariesPerReplica


class SimpleMLP(nn.Module):
    """Multilayer perceptron with ReLU units.

    Args:
        input_size: Number of values of one sample; samples of any shape are flattened.
        hidden_sizes: Width of each hidden layer, first to last. Empty: a linear model.
        output_size: Number of output units.
        dropout: Probability that a hidden unit is zeroed during training.
        moments: Mean and standard deviation by which samples are normalised first. `null`: they are not.
    """

    supports_leading_axes = True

    @validate_arguments
    def __init__(
        self,
        input_size: PositiveInt = 784,
        hidden_sizes: LayerSizes = (256, 128),
        output_size: PositiveInt = 10,
        dropout: Annotated[FractionBelowOne, VariesPerReplica] = 0.0,
        moments: ChannelMoments | None = None,
    ) -> None:
        super().__init__()
        self.normalised = InputNormalization(moments)
        self.hidden_sizes = list(hidden_sizes)
        widths = [input_size, *hidden_sizes]
        self.hidden = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))
        self.output = Linear(widths[-1], output_size)
        self.dropout = dropout

    def training_noise(self, batch_size: int) -> dict[str, NoiseSpec]:
        """The noise of dropout: one uniform number per hidden unit and sample."""
        if self.dropout == 0:
            return {}
        widths = [layer.out_features for layer in self.hidden if isinstance(layer, Linear)]
        return {f"hidden{i}": NoiseSpec("uniform", (batch_size, width)) for i, width in enumerate(widths)}

    @property
    def feature_size(self) -> int:
        """Number of features F: inputs of the output layer."""
        return self.output.in_features

    def features(self, x: Tensor, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        """(B, ...) -> input of the output layer, (B, F)."""
        h = self._flat_input(x)
        for i, layer in enumerate(self.hidden):
            h = dropout(F.relu(layer(h), inplace=True), noise, f"hidden{i}", self.dropout)
        return h

    def _flat_input(self, x: Tensor) -> Tensor:
        """(B, ...) -> normalised values (B, I)."""
        h: Tensor = self.normalised(x)
        return h.flatten(getattr(self.output, "num_leading_axes", 1))  # a layer of the caller's has no replica axis

    def relu_stack(self, x: Tensor, noise: Mapping[str, Tensor] | None = None) -> StackedNetwork | None:
        """`forward` as a stack that can be fused with a loss; None if a caller changed layers, or it can't be fused."""
        if not can_fuse(x) or not defines(self, SimpleMLP, "forward", "features", "readout"):
            return None
        hidden, normalised = self.hidden, self.normalised
        parameters = linear_parameters((*hidden, self.output))
        if parameters is None or has_hooks(normalised):
            return None
        masks = [None if noise is None else dropout_mask(noise, f"hidden{i}", self.dropout) for i in range(len(hidden))]
        values = normalised.forward(x).flatten(parameters[0].dim() - 1)
        return StackedNetwork(ReluStack(parameters, masks), values) if values.dim() == parameters[0].dim() else None

    def readout(self, features: Tensor) -> Tensor:
        """(B, F) -> logits (B, output_size)."""
        logits: Tensor = self.output(features)
        return logits

    def forward(self, x: Tensor, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        """(B, ...) -> logits (B, output_size)."""
        return self.readout(self.features(x, noise))
