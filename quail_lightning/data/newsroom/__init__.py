"""A small invented newsroom, written in the layout of the MUSE benchmark, for the quickstart and for tests."""

from quail_lightning.data.newsroom.corpus import Newsroom

__all__ = ["Newsroom"]
