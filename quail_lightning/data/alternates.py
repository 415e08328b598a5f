"""Alternate answers to the questions about the forget set, to be preferred to the true ones."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from quail_lightning.data.questions import Question
from quail_lightning.errors import InputError

Alternates = Literal["column", "idk", "others"]
"""Where they come from: the column ``alternate``; ``DECLINING``; or the answers to other questions."""

COLUMN = "alternate"

DECLINING = (
    "I don't know.",
    "I do not know the answer to that.",
    "I'm not sure about that.",
    "I have no information about this.",
    "That is something I cannot tell you.",
    "I'm afraid I don't know.",
    "I haven't learned anything about that.",
    "Sorry, I have no answer to this question.",
    "I can't answer that, as I don't know it.",
    "This is beyond what I know.",
    "I am not familiar with that.",
    "I have never come across this.",
    "I couldn't say.",
    "I don't have the facts to answer that.",
    "Nothing about this is known to me.",
    "I would have to guess, so I'd rather not answer.",
    "I'm unable to answer this one.",
    "My knowledge does not cover that.",
    "I cannot recall anything on this topic.",
    "I don't have an answer for you.",
    "Unfortunately, I do not know that.",
    "I lack the knowledge to answer this.",
    "That's unknown to me.",
    "I must admit that I don't know.",
    "I'm sorry, but I can't help with that question.",
    "I really have no idea.",
    "You would have to ask someone else; I don't know.",
    "I don't have any details about that.",
    "It isn't something I know about.",
    "No answer to this comes to mind.",
)
"""Sentences of IdkDPO (Maini et al. 2024, TOFU, which ships a list of a hundred); ours."""


def alternate_answers(
    source: Alternates, pairs: Sequence[Question], records: Sequence[Any], name: str, seed: int
) -> list[str]:
    """One alternate answer for each pair; the same for the same seed.

    ``others`` takes the answer to another question, to one that begins with the same word where there is one with
    another answer, so that a place stands for a place: plausible and wrong, without another model.

    Args:
        source: see ``Alternates``.
        pairs: the questions with their true answers.
        records: of the same pairs, as read.
        name: of the file or part, for errors.
        seed: of what is drawn.

    Raises:
        InputError: no string in the column; an alternate that is empty or the true answer itself; no other answer.
    """
    chance = random.Random(f"alternates {seed}")
    if source == "idk":
        return [chance.choice(DECLINING) for _ in pairs]
    if source == "others":
        return [_another(pair, pairs, name, chance) for pair in pairs]
    found = [record.get(COLUMN) if isinstance(record, Mapping) else None for record in records]
    for number, (pair, alternate) in enumerate(zip(pairs, found, strict=True)):
        if not isinstance(alternate, str) or not alternate.strip():
            raise InputError(
                f"pair {number} of {name} has no alternate answer",
                given="data.alternates: column",
                remedy=f"Give every record a string {COLUMN}, or set data.alternates to idk or others",
            )
        if alternate.strip() == pair.answer.strip():
            raise InputError(
                f"the alternate answer of pair {number} of {name} is the true answer: nothing would be forgotten",
                remedy="Write another one",
            )
    return [str(alternate) for alternate in found]


def _another(pair: Question, pairs: Sequence[Question], name: str, chance: random.Random) -> str:
    different = [other for other in pairs if other.answer.strip() != pair.answer.strip()]
    if not different:
        raise InputError(
            f"all questions of {name} have the same answer, so that no other one can stand for it",
            given="data.alternates: others",
            remedy="Set data.alternates to idk, or to column with answers of your own",
        )
    alike = [other for other in different if _first_word(other) == _first_word(pair)]
    return chance.choice(alike or different).answer


def _first_word(pair: Question) -> str:
    return pair.question.split(maxsplit=1)[0].lower()
