"""The frozen target's outputs, behind one small interface."""

from quail_lightning.reference.cached import CachedLogits, CachedStates
from quail_lightning.reference.live import LiveReference
from quail_lightning.reference.protocol import (
    Arithmetic,
    FrozenOutputs,
    Reference,
    Request,
    Side,
    Sizes,
)

__all__ = [
    "Arithmetic",
    "CachedLogits",
    "CachedStates",
    "FrozenOutputs",
    "LiveReference",
    "Reference",
    "Request",
    "Side",
    "Sizes",
]
