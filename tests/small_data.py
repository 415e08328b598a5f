"""A few short windows of the tests' corpus."""

from typing import Any

from quail_lightning.data import MuseDataModule


def small_data(corpus_folder: Any, checkpoint: str, **options: Any) -> MuseDataModule:
    """Six windows of each set, of 24 tokens, in batches of two, unless the options say otherwise."""
    settings = {"seed": 0, "max_len": 24, "batch_size": 2, "max_forget_windows": 6, "max_retain_windows": 6}
    return MuseDataModule(str(corpus_folder), tokenizer=checkpoint, **settings | options)
