"""Callbacks observe; they do not change training."""

from quail_lightning.callbacks.bucket_overlap import BucketOverlap
from quail_lightning.callbacks.export import ExportModel
from quail_lightning.callbacks.keep_best import KeepBest
from quail_lightning.callbacks.quantized_evaluation import QuantizedEvaluation
from quail_lightning.callbacks.training_checkpoint import TrainingCheckpoint
from quail_lightning.callbacks.undelivered_update import UndeliveredUpdate

__all__ = [
    "BucketOverlap",
    "ExportModel",
    "KeepBest",
    "QuantizedEvaluation",
    "TrainingCheckpoint",
    "UndeliveredUpdate",
]
