"""Where the corpora of WMDP lie: the hub, or a folder in the same layout."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from quail_lightning.data.hub import each_hub_row, folder_named
from quail_lightning.data.located import Located, wrong_form
from quail_lightning.data.part_files import part_files
from quail_lightning.data.text_files import read_records
from quail_lightning.errors import InputError

HUB_NAME = "cais/wmdp-corpora"
"""Configurations bio-retain-corpus (60,887 texts), cyber-forget-corpus (1,000), cyber-retain-corpus (4,473)."""
GATED = "cais/wmdp-bio-forget-corpus"
"""The forget corpus of bio, for those who were granted access; its columns are title, abstract and text."""
Domain = Literal["bio", "cyber"]
Retained = Literal["wikitext", "domains"]
BIO_FORGET, WIKITEXT = "bio-forget-corpus", "wikitext"
FIELD = "text"


class _Place(NamedTuple):
    """Where a part lies on the hub, and which files of a folder hold it."""

    dataset: str
    config: str | None
    split: str
    files: tuple[str, ...]


class WmdpCorpus:
    """The parts ``bio-forget-corpus``, ``cyber-retain-corpus``, ... and ``wikitext``.

    A folder holds ``<part>.jsonl``, ``.json`` or ``.parquet``, or a clone of the hub's
    (``<part>/train-*.parquet``, ``wikitext-2-raw-v1/test-*.parquet``). What is handed out to those who ask for
    the gated corpus is also read by its own name, ``bio_remove_dataset.jsonl``.

    Args:
        name: hub name or folder.
        bio_forget: file of the gated corpus, in place of the hub's or the folder's; None: that one.

    Raises:
        InputError: the folder does not exist.
    """

    def __init__(self, name: str, bio_forget: str | None = None) -> None:
        self.name, self.folder = name, folder_named(name)
        self.bio_forget = None if bio_forget is None else Path(bio_forget).expanduser()
        if self.folder is not None and not self.folder.is_dir():
            raise InputError(f"no WMDP folder {name}", allowed=f"an existing folder, or the hub name {HUB_NAME}")

    def texts(self, part: str, longer_than: int, most: int | None) -> list[str]:
        """The first documents of a part; of the hub's rows nothing behind them is read.

        Args:
            part: ``bio-forget-corpus``, ..., ``wikitext``.
            longer_than: characters; shorter documents, and those of white space alone, are left out.
            most: how many documents; None: all.

        Raises:
            InputError: the part is missing or gated, or a row holds no text (with file and line), or no document
                is that long.
        """
        read = (_text(row) for row in self._rows(part))
        found = list(islice((text for text in read if len(text) > longer_than and text.strip()), most))
        if not found:
            raise InputError(
                f"{part} of {self.name} holds no document of more than {longer_than} characters",
                remedy="It needs at least one; data.min_characters says how long",
            )
        return found

    def _rows(self, part: str) -> Iterable[Located]:
        if part == BIO_FORGET and self.bio_forget is not None:
            return read_records(self.bio_forget, (FIELD,))
        place = self._place(part)
        if self.folder is not None:
            paths = part_files(self.folder, f"WMDP's {part}", place.files)
            return [row for path in paths for row in read_records(path, (FIELD,))]
        local = (
            f"put it into a folder as FOLDER/{part}.jsonl (one JSON object with the string {FIELD} on each line), "
            "and name FOLDER by data.corpus (fit) or --corpus (evaluate)"
        )
        if part == BIO_FORGET:
            local += ", or the file alone by data.bio_forget"
        rows = each_hub_row(place.dataset, place.config, place.split, local)
        return (Located(f"{place.dataset}, {part}, row {number}", row) for number, row in enumerate(rows))

    def _place(self, part: str) -> _Place:
        alone = tuple(f"{part}.{ending}" for ending in ("jsonl", "json", "parquet"))
        if part == WIKITEXT:
            config = "wikitext-2-raw-v1"
            return _Place("Salesforce/wikitext", config, "test", (*alone, f"{config}/test-*.parquet"))
        files = (*alone, f"{part}/train-*.parquet")
        if part == BIO_FORGET:
            files = (*files, "bio_remove_dataset.jsonl")
            if self.name == HUB_NAME:
                return _Place(GATED, None, "train", files)
        return _Place(self.name, part, "train", files)


def _text(row: Located) -> str:
    value: Any = row.record.get(FIELD) if isinstance(row.record, dict) else row.record
    if not isinstance(value, str):
        raise wrong_form(row, f"strings, or objects with the string {FIELD}")
    return value
