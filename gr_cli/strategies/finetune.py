"""Fine-tuning: the lower bound."""

from __future__ import annotations

from gr_cli.strategies.base import Strategy


class Finetune(Strategy):
    """Fine-tuning on each task in turn: no replay, the lower bound on accuracy.

    With a `regularizer` this is elastic weight consolidation, synaptic intelligence or another penalty method.
    """

    boundary_requirement = None
