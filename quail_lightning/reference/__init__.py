"""The frozen target's outputs, behind one small interface."""

from quail_lightning.reference.cached import CachedLogits
from quail_lightning.reference.live import LiveReference
from quail_lightning.reference.protocol import Reference

__all__ = ["CachedLogits", "LiveReference", "Reference"]
