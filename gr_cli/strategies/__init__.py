"""Strategies: what keeps a solver from forgetting while it learns task after task."""

from gr_cli.strategies.base import Strategy as Strategy
from gr_cli.strategies.finetune import Finetune as Finetune
from gr_cli.strategies.generative_replay import GenerativeReplay as GenerativeReplay
from gr_cli.strategies.joint import Joint as Joint
