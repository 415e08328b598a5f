"""Two models' weights: change, bucket overlap, and what deployment formats deliver of the update."""

from quail_lightning.comparison.formats import Format, formats
from quail_lightning.comparison.parameters import Role, compared_parameters, parameter_roles, roles_from_config
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
from quail_lightning.comparison.source import CastWeights, ModelWeights, WeightSource

__all__ = [
    "CastWeights",
    "Change",
    "Comparison",
    "Delivery",
    "Format",
    "GridKey",
    "ModelWeights",
    "Overlap",
    "Questions",
    "Role",
    "Scope",
    "SharedStep",
    "TensorComparison",
    "WeightSource",
    "compare",
    "compared_parameters",
    "formats",
    "key_for",
    "parameter_roles",
    "roles_from_config",
    "total_change",
    "total_delivery",
    "total_overlap",
]
