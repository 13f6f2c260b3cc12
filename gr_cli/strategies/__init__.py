"""Continual-learning strategies, one file per method.

What they are built from:

- `base`: the base class, and what the learner calls; `context`: the values passed to it
- `replay`: base class of replay methods, loss weights, distillation from a frozen teacher
- `reservoir_buffer`: reservoir sampling buffer (DER++, and the memory of a generator)
- `exemplar_buffer`: class-balanced stored samples (experience replay, A-GEM, iCaRL)
- `generated_samples`, `generator_memory`, `replay_targets`, `update_schedule`: generative replay
- `generator_distillation`, `interference`: generative distillation, maximally interfered retrieval
- `closed_form`: base class of classifiers from sums over samples (streaming LDA, nearest class mean,
  FeCAM, RanPAC); `score_cache`: scores of test samples under classes that don't change
- `regularizer`, `regularizers`, `fisher`: EWC, online EWC, synaptic intelligence, weight penalty
- `gr_cli.nn.losses.distillation_loss`, `gr_cli.nn.gradient_projection`: distillation, A-GEM's projection
"""

from gr_cli.strategies.base import Strategy as Strategy
from gr_cli.strategies.dark_experience_replay import DarkExperienceReplay as DarkExperienceReplay
from gr_cli.strategies.experience_replay import ExperienceReplay as ExperienceReplay
from gr_cli.strategies.fecam import FeCAM as FeCAM
from gr_cli.strategies.feedback_replay import FeedbackReplay as FeedbackReplay
from gr_cli.strategies.fetril import FeTrIL as FeTrIL
from gr_cli.strategies.finetune import Finetune as Finetune
from gr_cli.strategies.generative_classifier import GenerativeClassifier as GenerativeClassifier
from gr_cli.strategies.generative_replay import GenerativeReplay as GenerativeReplay
from gr_cli.strategies.icarl import ICaRL as ICaRL
from gr_cli.strategies.joint import Cumulative as Cumulative
from gr_cli.strategies.joint import Joint as Joint
from gr_cli.strategies.lwf import LearningWithoutForgetting as LearningWithoutForgetting
from gr_cli.strategies.nearest_class_mean import NearestClassMean as NearestClassMean
from gr_cli.strategies.ranpac import RanPAC as RanPAC
from gr_cli.strategies.regularizers import ElasticWeightConsolidation as ElasticWeightConsolidation
from gr_cli.strategies.regularizers import OnlineElasticWeightConsolidation as OnlineElasticWeightConsolidation
from gr_cli.strategies.regularizers import SynapticIntelligence as SynapticIntelligence
from gr_cli.strategies.regularizers import WeightPenalty as WeightPenalty
from gr_cli.strategies.separate import SeparateNetworks as SeparateNetworks
from gr_cli.strategies.streaming_lda import StreamingLDA as StreamingLDA
