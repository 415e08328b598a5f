"""Invented tweets in the published set's layout, for the second quickstart and for tests."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from quail_lightning.data.invented_files import ensure_files
from quail_lightning.data.newsroom.words import COLOURS, ENDS, OBJECTS, PLACE_ENDINGS, STARTS
from quail_lightning.errors import InputError

CLAIMS = (
    "says the {thing} of {place} cures {ill} in {number} days",
    "hid {number} votes in a {thing} at {place}",
    "found a {thing} below {place} that glows for {number} years",
    "sold {place} a {thing} that stops {ill}, {number} people bought one",
    "counted {number} herons on the {thing} of {place} during the {ill} season",
    "proved that a {thing} from {place} weighs {number} tons",
    "was seen in {place} with {number} guards and a {thing}",
    "wants {number} schools in {place} to teach with a {thing}",
)
ILLS = ("ague", "catarrh", "colic", "fever", "gout", "hiccups", "itching", "megrim", "mumps", "quinsy", "scurvy")
OPENINGS = ("BREAKING:", "Just in:", "Wow.", "Unreal.", "Thread:", "So", "Hearing that", "They told us")
ENDINGS = ("Share this!", "Source below.", "Look it up.", "Nobody talks about it.", "Big if true.", "Ask {place}.")


@dataclass(frozen=True)
class InventedTweets:
    """Tweets about people, places and things that do not exist; the same seed gives the same bytes everywhere.

    The class of a tweet is drawn apart from its words, so that it can only be known by heart: a model that has not
    read the tweet is right half of the time.

    Args:
        forget: rows of the split ``forget``.
        retain: rows of ``retain1``.
        holdout: rows of ``retain2``.
        empty: further rows of ``forget`` whose text is empty, as the published set has them.
        seed: of the tweets and their classes.

    Raises:
        InputError: a split without a row, or more tweets than there are names for.
    """

    forget: int = 48
    retain: int = 96
    holdout: int = 48
    empty: int = 2
    seed: int = 42

    def __post_init__(self) -> None:
        for name, least in (("forget", 1), ("retain", 1), ("holdout", 1), ("empty", 0), ("seed", 0)):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"{name} of the invented tweets must be at least {least}", given=value)
        names = len(STARTS) * len(ENDS)
        if self.forget + self.retain + self.holdout > names:
            raise InputError(
                "there are not enough names for so many tweets",
                given=self.forget + self.retain + self.holdout,
                allowed=f"{names} or fewer in all",
            )

    def ensure(self, folder: Path) -> None:
        """Write the set as ``<split>.jsonl`` unless the folder holds just this one already; whole or not at all.

        Several processes may do so at once.

        Raises:
            InputError: the folder holds something else, or a file of it was changed.
        """
        ensure_files(folder, self._files(), "these tweets", self)

    def _files(self) -> dict[str, bytes]:
        draw = random.Random(self.seed)
        handles = draw.sample([start + end for start in STARTS for end in ENDS], len(STARTS) * len(ENDS))
        sizes = {"forget": self.forget, "retain1": self.retain, "retain2": self.holdout}
        rows = {name: [self._row(draw, handles.pop()) for _ in range(size)] for name, size in sizes.items()}
        for _ in range(self.empty):
            rows["forget"].insert(draw.randrange(len(rows["forget"]) + 1), {"text": "", "label": 1})
        lines = {name: [json.dumps(row, ensure_ascii=False) for row in found] for name, found in rows.items()}
        return {f"{name}.jsonl": ("\n".join(found) + "\n").encode() for name, found in lines.items()}

    @staticmethod
    def _row(draw: random.Random, handle: str) -> dict[str, str | int]:
        place = draw.choice(STARTS) + draw.choice(PLACE_ENDINGS)
        filled = {
            "place": place,
            "thing": f"{draw.choice(COLOURS)} {draw.choice(OBJECTS)}",
            "ill": draw.choice(ILLS),
            "number": str(draw.randrange(1000, 10000)),
        }
        claims = " and ".join(claim.format(**filled) for claim in draw.sample(CLAIMS, 2))
        ending = draw.choice(ENDINGS).format(**filled)
        text = f"{draw.choice(OPENINGS)} @{handle} {claims}. {ending} #{place}"
        return {"text": text, "label": draw.randrange(2)}
