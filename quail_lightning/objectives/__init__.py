"""The terms of the unlearning loss and how they are weighted."""

from quail_lightning.objectives.direct_preference import DirectPreference
from quail_lightning.objectives.distillation import AdjustedDistillation, CrossEntropyUnlearning, SimilarLabels
from quail_lightning.objectives.divergence import KLRetention
from quail_lightning.objectives.gradient import GradientAscent, GradientDescent
from quail_lightning.objectives.inverted_hinge import InvertedHinge
from quail_lightning.objectives.layer_hinge import LayerHinge
from quail_lightning.objectives.logit_hinge import LogitHinge
from quail_lightning.objectives.margin_flattening import MarginFlattening
from quail_lightning.objectives.measured_step import MeasuredStep
from quail_lightning.objectives.misdirection import Misdirection, RepresentationRetention
from quail_lightning.objectives.negative_preference import NegativePreference
from quail_lightning.objectives.simple_preference import SimplePreference
from quail_lightning.objectives.term import Needs, Term, TermInputs
from quail_lightning.objectives.weighted_ascent import SaturationImportance, WeightedAscent
from quail_lightning.objectives.weighting import Weights, term_weights

__all__ = [
    "AdjustedDistillation",
    "CrossEntropyUnlearning",
    "DirectPreference",
    "GradientAscent",
    "GradientDescent",
    "InvertedHinge",
    "KLRetention",
    "LayerHinge",
    "LogitHinge",
    "MarginFlattening",
    "MeasuredStep",
    "Misdirection",
    "Needs",
    "NegativePreference",
    "RepresentationRetention",
    "SaturationImportance",
    "SimilarLabels",
    "SimplePreference",
    "Term",
    "TermInputs",
    "WeightedAscent",
    "Weights",
    "term_weights",
]
