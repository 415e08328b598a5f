"""Unlearning as a LightningModule."""

from quail_lightning.unlearning.module import UnlearningModule

__all__ = ["UnlearningModule"]
