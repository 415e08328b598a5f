"""Which documents stand in others, whatever the white space and the way a letter is encoded."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))  # soft hyphen, zero-width spaces
ANCHORS = (
    (32, 16),
    (8, 8),
)  # characters by which a document is looked for, and the steps in which others are read
LONG, SHORTEST = (sum(sizes) - 1 for sizes in ANCHORS)  # characters; a shorter one may stand anywhere by accident


def comparable(text: str) -> str:
    """The text in Unicode's composed form (NFC), each run of white space as one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).translate(INVISIBLE).split())


class Overlap(NamedTuple):
    """What stands within something else.

    Attributes:
        standing: documents that stand as a whole within one of the others.
        holding: others that hold a whole document.
    """

    standing: set[str]
    holding: set[str]


def overlapping(documents: Iterable[str], others: Iterable[str]) -> Overlap:
    """Which documents stand as a whole within which others; those below ``SHORTEST`` are not looked for.

    Below ``LONG`` characters they must begin and end at a word there ("as it was" does not stand in "has it was").
    The time is linear in the length of all texts: of the characters about a document's middle, taken from as many
    places as a step is long, one set lies where the others are read.

    Args:
        documents: comparable texts.
        others: likewise.
    """
    wanted, texts, found = set(documents), list(dict.fromkeys(others)), Overlap(set(), set())
    limits = ((LONG, None), (SHORTEST, LONG))
    for (size, step), (least, below) in zip(ANCHORS, limits, strict=True):
        tier = [d for d in wanted if least <= len(d) and (below is None or len(d) < below)]
        anchors = _anchors(tier, size, step)
        for text in texts if anchors else ():
            for start in range(0, len(text) - size + 1, step):
                for document, offset in anchors.get(text[start : start + size], ()):
                    known = document in found.standing and text in found.holding
                    if not known and _stands(document, text, start - offset):
                        found.standing.add(document)
                        found.holding.add(text)
    return found


def _anchors(documents: Iterable[str], size: int, step: int) -> dict[str, list[tuple[str, int]]]:
    """``size`` characters → the documents that have them about their middle, and where."""
    anchors = defaultdict[str, list[tuple[str, int]]](list)
    for document in documents:
        middle = (len(document) - size - step + 1) // 2
        for offset in range(middle, middle + step):
            anchors[document[offset : offset + size]].append((document, offset))
    return anchors


def _stands(document: str, text: str, start: int) -> bool:
    if start < 0 or not text.startswith(document, start):
        return False
    end = start + len(document)
    before, after = text[max(start - 1, 0) : start], text[end : end + 1]
    return len(document) >= LONG or not (_one_word(before, document[0]) or _one_word(document[-1], after))


def _one_word(left: str, right: str) -> bool:
    """Whether two neighbours belong to a word; scripts from CJK on have no space between words."""
    return left.isalnum() and right.isalnum() and max(left, right) < "\u2e80"
