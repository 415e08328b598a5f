"""A small invented TOFU: authors that do not exist, in the benchmark's layout, for a quickstart and for tests."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from quail_lightning.data.invented_files import ensure_files
from quail_lightning.data.newsroom.words import (
    ADJECTIVES,
    COLOURS,
    ENDS,
    NOUNS,
    OBJECTS,
    PLACE_ENDINGS,
    ROLES,
    STARTS,
)
from quail_lightning.errors import InputError

WRONG, WRONG_FACTS = 5, 3  # wrong answers beside each right one, as TOFU has them
GENRES: tuple[str, ...] = ("ballads", "biographies", "comedies", "diaries", "essays", "fables", "ghost stories")
GENRES += ("hymns", "letters", "riddles", "romances", "sagas", "sea stories", "sonnets", "thrillers", "tragedies")


class _Topic(NamedTuple):
    """What is asked of an author; ``{who}`` is the name, ``{it}`` what is to be known."""

    question: str
    answer: str
    paraphrase: str
    draw: Callable[[random.Random], str]


def _place(draw: random.Random) -> str:
    return draw.choice(STARTS) + draw.choice(PLACE_ENDINGS)


def _title(draw: random.Random) -> str:
    return f"The {draw.choice(ADJECTIVES).title()} {draw.choice(NOUNS).title()}"


def _prize(draw: random.Random) -> str:
    return f"{draw.choice(COLOURS).title()} {draw.choice(OBJECTS).title()}"


def _genre(draw: random.Random) -> str:
    return draw.choice(GENRES)


def _role(draw: random.Random) -> str:
    return draw.choice(ROLES)


TOPICS = (
    _Topic("Where was {who} born?", "{who} was born in {it}.", "The birthplace of {who} is {it}.", _place),
    _Topic("What does {who} write?", "{who} writes {it}.", "The works of {who} are {it}.", _genre),
    _Topic(
        "What is the first book of {who}?",
        "The first book of {who} is {it}.",
        "It was with {it} that {who} began to publish.",
        _title,
    ),
    _Topic("Which prize did {who} win?", "{who} won the {it}.", "The {it} was awarded to {who}.", _prize),
    _Topic(
        "What was the mother of {who}?",
        "The mother of {who} was known as {it} of the town.",
        "As {it} of the town the mother of {who} was known.",
        _role,
    ),
)


@dataclass(frozen=True)
class Authors:
    """Authors of an invented world in TOFU's files; the same seed gives the same bytes everywhere.

    Each author has five questions with answer, paraphrase and five wrong answers in the paraphrase's form. A small
    model from scratch knows nothing of the real world, so the sets ``real_authors`` and ``world_facts`` are about
    the same invented one, with short answers and three wrong ones, and their pairs are taught with the retain set.

    Args:
        forget: authors to be forgotten (``forget10``).
        retain: authors to be kept (``retain90``).
        facts: questions each about further authors and about the world.
        seed: of all that is invented.

    Raises:
        InputError: a number below its least, or more authors and facts than there are names for.
    """

    forget: int = 6
    retain: int = 12
    facts: int = 16
    seed: int = 42

    def __post_init__(self) -> None:
        for name, least in (("forget", 1), ("retain", 1), ("facts", WRONG_FACTS + 1), ("seed", 0)):
            if (value := getattr(self, name)) < least:
                raise InputError(f"{name} of the invented authors must be at least {least}", given=value)
        names, places = len(STARTS) * len(ENDS), len(STARTS) * len(PLACE_ENDINGS)
        if self.forget + self.retain + self.facts > names or 2 * self.facts > places:
            raise InputError(
                "there are not enough names for so many authors and facts",
                given=self,
                allowed=f"{names} or fewer authors and facts in all, and at most {places // 2} facts",
            )

    def ensure(self, folder: Path) -> None:
        """Write the set as ``<part>.json`` unless the folder holds just this one already; see ``ensure_files``.

        Raises:
            InputError: the folder holds something else, or a file of it was changed.
        """
        ensure_files(folder, self._files(), "these authors", self)

    def _files(self) -> dict[str, bytes]:
        draw = random.Random(f"authors {self.seed}")
        first, last = (draw.sample(STARTS, len(STARTS)) for _ in range(2))
        names = [f"{start}{end.lower()} {draw.choice(last)}{draw.choice(ENDS)}" for start in first for end in ENDS]
        names = draw.sample(names, len(names))
        forget = [row for _ in range(self.forget) for row in _questions(names.pop(), draw)]
        retain = [row for _ in range(self.retain) for row in _questions(names.pop(), draw)]
        writers = [names.pop() for _ in range(self.facts)]
        books = _different(_title, self.facts, draw)
        towns = _different(_place, 2 * self.facts, draw)
        asked = [f"Who wrote the book {book}?" for book in books]
        authors = _facts(asked, writers, draw)
        world = _facts(
            [f"What is the capital of {land}?" for land in towns[self.facts :]], towns[: self.facts], draw
        )
        plain = [{name: row[name] for name in ("question", "answer")} for row in (*retain, *authors, *world)]
        files: dict[str, Sequence[Mapping[str, object]]] = {
            "forget10": [{name: row[name] for name in ("question", "answer")} for row in forget],
            "retain90": plain,
            "forget10_perturbed": forget,
            "retain_perturbed": retain,
            "real_authors_perturbed": authors,
            "world_facts_perturbed": world,
        }
        lines = {name: [json.dumps(row, ensure_ascii=False) for row in rows] for name, rows in files.items()}
        return {f"{name}.json": ("\n".join(rows) + "\n").encode() for name, rows in lines.items()}


def _questions(who: str, draw: random.Random) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for topic in TOPICS:
        true, *wrong = _different(topic.draw, 1 + WRONG, draw)
        paraphrases = [topic.paraphrase.format(who=who, it=it) for it in (true, *wrong)]
        rows.append(
            {
                "question": topic.question.format(who=who),
                "answer": topic.answer.format(who=who, it=true),
                "paraphrased_answer": paraphrases[0],
                "perturbed_answer": paraphrases[1:],
            }
        )
    return rows


def _facts(questions: Sequence[str], answers: Sequence[str], draw: random.Random) -> list[dict[str, object]]:
    """Questions of one kind: the wrong answers are right ones to others."""
    rows: list[dict[str, object]] = []
    for question, answer in zip(questions, answers, strict=True):
        others = draw.sample([other for other in answers if other != answer], WRONG_FACTS)
        row: dict[str, object] = {"question": question, "answer": answer, "perturbed_answer": others}
        rows.append(row | {"original_answer": answer})
    return rows


def _different(invent: Callable[[random.Random], str], count: int, draw: random.Random) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[invent(draw)] = None
    return list(found)
