"""SHA-256 of the texts that a model was made of and is evaluated on, for its provenance; never the text itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from lightning.pytorch.utilities import rank_zero_info

from quail_lightning.data.protocol import TextData
from quail_lightning.errors import InputError

TEXTS = "texts_sha256"
"""Key of ``provenance.json``: name of a set → its digest."""
SEPARATOR = "\n\n"  # what stands between documents where windows are cut


def text_digests(data: TextData) -> dict[str, str | None]:
    """Digest of the forget set, the retain set and the holdout; None for a set that the data lacks.

    They are of the documents as they are read, retain documents that were dropped left out: not of tokens, and not
    of the first so many windows. So they depend neither on a tokenizer nor on the kind of file. A holdout that
    cannot be read is one that the data lacks: training does without, and the evaluation refuses by itself.

    Raises:
        InputError: forget or retain set cannot be read.
    """
    documents = data.training_documents()
    try:
        holdout = data.holdout_documents()
    except InputError as problem:
        rank_zero_info(f"no digest of the holdout for the provenance: {problem.fact}")
        holdout = None
    sets = {"forget": documents.forget, "retain": documents.retain, "holdout": holdout}
    return {name: digest(texts) if texts else None for name, texts in sets.items()}


def digest(documents: Iterable[str]) -> str:
    """SHA-256 of the documents in UTF-8, a blank line between each two, read one after the other.

    Of documents of one text file, separated by one blank line each, it is the file's own.
    """
    found, separator = hashlib.sha256(), b""
    for document in documents:
        found.update(separator)
        found.update(document.encode())
        separator = SEPARATOR.encode()
    return found.hexdigest()
