"""From corpora to batches and evaluation records."""

from quail_lightning.data.authors import Authors
from quail_lightning.data.invented_tweets import InventedTweets
from quail_lightning.data.muse import MuseDataModule
from quail_lightning.data.newsroom import Newsroom
from quail_lightning.data.own_questions import OwnQuestionsDataModule
from quail_lightning.data.own_text import OwnTextDataModule
from quail_lightning.data.rwku import RwkuDataModule
from quail_lightning.data.tofu import TofuDataModule
from quail_lightning.data.twitter import TwitterDataModule
from quail_lightning.data.wmdp import WmdpDataModule

__all__ = [
    "Authors",
    "InventedTweets",
    "MuseDataModule",
    "Newsroom",
    "OwnQuestionsDataModule",
    "OwnTextDataModule",
    "RwkuDataModule",
    "TofuDataModule",
    "TwitterDataModule",
    "WmdpDataModule",
]
