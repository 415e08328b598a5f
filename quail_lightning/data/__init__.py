"""From corpora to batches and evaluation records."""

from quail_lightning.data.muse import MuseDataModule
from quail_lightning.data.newsroom import Newsroom
from quail_lightning.data.own_text import OwnTextDataModule

__all__ = ["MuseDataModule", "Newsroom", "OwnTextDataModule"]
