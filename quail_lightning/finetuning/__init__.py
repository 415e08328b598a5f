"""Next-token training of a whole model: targets, retrained models, and what an attacker trains."""

from quail_lightning.finetuning.module import FinetuningModule, Optimization
from quail_lightning.finetuning.training import Hardware, train

__all__ = ["FinetuningModule", "Hardware", "Optimization", "train"]
