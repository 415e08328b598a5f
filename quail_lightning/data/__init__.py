"""From corpora to batches and evaluation records."""

from quail_lightning.data.muse import MuseDataModule
from quail_lightning.data.newsroom import Newsroom

__all__ = ["MuseDataModule", "Newsroom"]
