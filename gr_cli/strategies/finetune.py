from __future__ import annotations

from gr_cli.strategies.base import Strategy


class Finetune(Strategy):
    """Each task is trained as if there were no other: the lower bound, which shows the forgetting.

    With a regulariser it is elastic weight consolidation, synaptic intelligence and their like.
    """

    boundary_requirement = ""
