"""Callbacks observe; they do not change training."""

from quail_lightning.callbacks.bucket_overlap import BucketOverlap
from quail_lightning.callbacks.export import ExportModel
from quail_lightning.callbacks.quantized_evaluation import QuantizedEvaluation

__all__ = ["BucketOverlap", "ExportModel", "QuantizedEvaluation"]
