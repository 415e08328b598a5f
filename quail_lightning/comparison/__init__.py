"""Two models' weights: change, bucket overlap, and what deployment formats deliver of the update."""

from quail_lightning.comparison.formats import Format, formats, usable_formats
from quail_lightning.comparison.parameters import Role, compared_parameters, parameter_roles, roles_from_config
from quail_lightning.comparison.predictors import (
    PREDICTORS,
    Predictor,
    delivered_slope,
    kept_by_gradient,
    kept_by_weights,
)
from quail_lightning.comparison.result import (
    Change,
    Comparison,
    Delivery,
    GridKey,
    Overlap,
    Scope,
    SharedStep,
    TensorComparison,
    key_for,
    total_change,
    total_delivery,
    total_overlap,
)
from quail_lightning.comparison.scan import Questions, compare
from quail_lightning.comparison.source import CastWeights, ModelWeights, Tensors, WeightSource

__all__ = [
    "PREDICTORS",
    "CastWeights",
    "Change",
    "Comparison",
    "Delivery",
    "Format",
    "GridKey",
    "ModelWeights",
    "Overlap",
    "Predictor",
    "Questions",
    "Role",
    "Scope",
    "SharedStep",
    "TensorComparison",
    "Tensors",
    "WeightSource",
    "compare",
    "compared_parameters",
    "delivered_slope",
    "formats",
    "kept_by_gradient",
    "kept_by_weights",
    "key_for",
    "parameter_roles",
    "roles_from_config",
    "total_change",
    "total_delivery",
    "total_overlap",
    "usable_formats",
]
