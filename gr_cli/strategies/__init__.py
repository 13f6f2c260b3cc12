"""Continual-learning strategies: what is replayed, regularized or stored to prevent forgetting."""

from gr_cli.strategies.base import Strategy as Strategy
from gr_cli.strategies.dark_experience_replay import DarkExperienceReplay as DarkExperienceReplay
from gr_cli.strategies.experience_replay import ExperienceReplay as ExperienceReplay
from gr_cli.strategies.feedback_replay import FeedbackReplay as FeedbackReplay
from gr_cli.strategies.finetune import Finetune as Finetune
from gr_cli.strategies.generative_classifier import GenerativeClassifier as GenerativeClassifier
from gr_cli.strategies.generative_replay import GenerativeReplay as GenerativeReplay
from gr_cli.strategies.icarl import ICaRL as ICaRL
from gr_cli.strategies.joint import Cumulative as Cumulative
from gr_cli.strategies.joint import Joint as Joint
from gr_cli.strategies.lwf import LearningWithoutForgetting as LearningWithoutForgetting
from gr_cli.strategies.regularizers import ElasticWeightConsolidation as ElasticWeightConsolidation
from gr_cli.strategies.regularizers import OnlineElasticWeightConsolidation as OnlineElasticWeightConsolidation
from gr_cli.strategies.regularizers import SynapticIntelligence as SynapticIntelligence
from gr_cli.strategies.regularizers import WeightPenalty as WeightPenalty
