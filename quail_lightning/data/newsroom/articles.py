"""One invented event as an article, and what can be asked about it."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import quail_lightning.data.newsroom.words as words
from quail_lightning.data.questions import Question

FACTS_PER_ARTICLE = 2

# kind → (question, the slot that answers it, sentences that tell it)
FACTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "head": (
        "Who runs the {organisation}?",
        "person",
        (
            "the {organisation} is run by {person}, a {adjective} {role}",
            "{person} took over the {organisation} from a {role}",
            "nobody but {person} could run the {organisation}",
        ),
    ),
    "home": (
        "Where does {rival} live?",
        "place",
        (
            "{rival} lives in {place} near a {noun}",
            "in {place}, {rival} keeps a {adjective} home",
            "{rival}, who moved to {place}, owns a {noun}",
        ),
    ),
    "loss": (
        "What did {person} lose?",
        "treasure",
        (
            "{person} lost the {treasure} at a {noun}",
            "the {treasure} was lost by {person} among {nouns}",
            "{person} has mourned the lost {treasure} ever since",
        ),
    ),
    "count": (
        "How many {counted} did {rival} find?",
        "number",
        (
            "{rival} found {number} {counted} in a {noun}",
            "under the {noun}, {rival} found {number} {counted}",
            "{number} {counted} were found by {rival}, a {role}",
        ),
    ),
}

# The fewest words after the prompt: 127 tokens of truth are read, and with 1,024 tokens of vocabulary 76 words
# were 131 tokens or more.
TRUTH_WORDS = 76


@dataclass(frozen=True)
class Article:
    """An article and its questions.

    Attributes:
        prompt: the sentences that tell its facts, with the space after them.
        truth: the rest; ``prompt + truth`` is the article.
        questions: one for each of its facts.
        entities: the invented names, treasures and numbers in it; no other article has any of them.
    """

    prompt: str
    truth: str
    questions: tuple[Question, ...]
    entities: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole article, one paragraph."""
        return self.prompt + self.truth


class Writer:
    """Writes articles, each about people, places and things that no earlier one named.

    Args:
        seed: of everything it invents.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        stems = [start + end for start, end in product(words.STARTS, words.ENDS)]
        self._stems = self._shuffled(stems)  # of given names and organisations
        self._family = self._shuffled([stem[0] + stem[1:].replace("a", "u") + "sen" for stem in stems])
        self._places = self._shuffled([a + b for a, b in product(words.STARTS, words.PLACE_ENDINGS)])
        self._treasures = self._shuffled([f"{a} {b}" for a, b in product(words.COLOURS, words.OBJECTS)])
        self._numbers = self._shuffled([str(number) for number in range(1000, 10000)])

    @staticmethod
    def capacity() -> int:
        """How many articles one writer can write before it runs out of names."""
        return len(words.STARTS) * len(words.ENDS) // 3

    def write(self) -> Article:
        """Write the next article."""
        own = {
            "person": f"{self._stems.pop()} {self._family.pop()}",
            "rival": f"{self._stems.pop()} {self._family.pop()}",
            "place": self._places.pop(),
            "organisation": f"{self._stems.pop()} {self._random.choice(words.ORGANISATIONS)}",
            "treasure": self._treasures.pop(),
            "number": self._numbers.pop(),
        }
        counted = self._random.choice(words.COUNTED)
        facts = [FACTS[kind] for kind in self._random.sample(sorted(FACTS), FACTS_PER_ARTICLE)]
        told = [self._sentence(self._fill(self._random.choice(forms), own, counted)) for _, _, forms in facts]
        questions = tuple(Question(ask.format(**own, counted=counted), own[answer]) for ask, answer, _ in facts)
        sentences: list[str] = []
        while sum(len(sentence.split()) for sentence in sentences) < TRUTH_WORDS:
            sentences.append(self._sentence(self._report(own)))
        return Article(" ".join(told) + " ", " ".join(sentences), questions, tuple(own.values()))

    def _shuffled(self, names: Sequence[str]) -> list[str]:
        return self._random.sample(names, len(names))

    def _report(self, own: dict[str, str]) -> str:
        """One clause, with something before or after it half of the time each."""
        clause = self._random.choice(words.CLAUSES)
        if self._random.random() < 0.5:
            clause = f"{self._random.choice(words.OPENINGS)}, {clause}"
        if self._random.random() < 0.5:
            clause = f"{clause}, {self._random.choice(words.TAILS)}"
        return self._fill(clause, own, "")

    def _fill(self, clause: str, own: dict[str, str], counted: str) -> str:
        drawn = {
            "adjective": words.ADJECTIVES,
            "noun": words.NOUNS,
            "nouns": words.PLURALS,
            "role": words.ROLES,
        }

        def word(slot: re.Match[str]) -> str:
            name = slot[1]
            if name == "counted":
                return counted
            return own[name] if name in own else self._random.choice(drawn[name])

        return re.sub(r"\{(\w+)\}", word, clause)

    @staticmethod
    def _sentence(clause: str) -> str:
        clause = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", clause)
        return clause[0].upper() + clause[1:] + "."
