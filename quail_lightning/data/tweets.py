"""Labelled tweets: factual or misinformation, as the published set holds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from quail_lightning.data.hub import folder_named, hub_rows
from quail_lightning.data.located import Located, wrong_form
from quail_lightning.data.part_files import part_files
from quail_lightning.data.text_files import read_records
from quail_lightning.errors import InputError

HUB_NAME = "kanwal-mehreen18/twitter-misinformation-unlearning-eval"
"""Splits forget (1,693 rows, 25 of them with empty text), retain1 and retain2 (3,386 each); text, label."""
COLUMNS = ("text", "label")


class Tweet(NamedTuple):
    """A text and its class: 0 factual, 1 misinformation."""

    text: str
    label: int


class Tweets(NamedTuple):
    """The tweets of a split, and how many rows were left out because their text is empty."""

    rows: tuple[Tweet, ...]
    empty: int


def read_tweets(corpus: str, split: str) -> Tweets:
    """One split, from a folder or the hub.

    A folder holds ``<split>.jsonl``, ``.json``, ``.csv`` or ``.parquet``, or ``data/<split>-*.parquet``.

    Raises:
        InputError: no such split (with the places looked at), a row without ``text`` and ``label`` 0 or 1 (with
            file and line), or no row with text.
    """
    folder = folder_named(corpus)
    if folder is not None and folder.is_dir():
        found = _folder_rows(folder, split)
    elif folder is None:
        local = (
            f"put it into a folder as FOLDER/{split}.jsonl, .json, .csv or .parquet, and name FOLDER by "
            "data.corpus (fit) or --corpus (evaluate)"
        )
        rows = hub_rows(corpus, None, split, local)
        found = [Located(f"{corpus}, {split}, row {number}", row) for number, row in enumerate(rows)]
    else:
        raise InputError(f"no folder {corpus!r}", allowed=f"an existing folder, or a hub name such as {HUB_NAME}")
    tweets = [_tweet(place, row) for place, row in found]
    kept = tuple(tweet for tweet in tweets if tweet.text.strip())
    if not kept:
        raise InputError(f"split {split!r} of {corpus} holds no text", remedy="It needs at least one tweet")
    return Tweets(kept, len(tweets) - len(kept))


def _folder_rows(folder: Path, split: str) -> Sequence[Located]:
    wanted = [f"{split}.{ending}" for ending in ("jsonl", "json", "csv", "parquet")]
    parts = part_files(folder, f"split {split!r}", [*wanted, f"data/{split}-*.parquet"])
    return [row for path in parts for row in read_records(path, COLUMNS)]


def _tweet(place: str, row: Any) -> Tweet:
    columns = row if isinstance(row, dict) else {}
    text, label = columns.get("text", 0), str(columns.get("label"))
    if not isinstance(text, str | None) or label not in ("0", "1"):
        raise wrong_form(Located(place, row), "text, and label 0 (factual) or 1 (misinformation)")
    return Tweet(text or "", int(label))
