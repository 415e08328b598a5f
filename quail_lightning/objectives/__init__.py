"""The terms of the unlearning loss and how they are weighted."""

from quail_lightning.objectives.forget import GradientAscent
from quail_lightning.objectives.hinge import LogitHinge
from quail_lightning.objectives.predictions import Predictions, Term
from quail_lightning.objectives.retain import GradientDescent
from quail_lightning.objectives.weighting import Weights, term_weights

__all__ = [
    "GradientAscent",
    "GradientDescent",
    "LogitHinge",
    "Predictions",
    "Term",
    "Weights",
    "term_weights",
]
