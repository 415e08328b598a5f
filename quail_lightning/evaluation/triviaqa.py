"""Fac: token F1 of short answers, SQuAD-normalized, against the best of the accepted ones."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quail_lightning.data.hub import hub_rows
from quail_lightning.data.located import Located, wrong_form
from quail_lightning.data.text_files import read_records

HUB_NAME = "mandarjoshi/trivia_qa"
HUB_CONFIG = "rc.nocontext"  # the questions without their documents; its test split has no answers
SHOTS = 6
NEW_TOKENS = 32
STOPS = ("\n",)
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class ShortAnswer:
    """A question and every answer that counts as right; the first stands in the worked examples."""

    question: str
    answers: tuple[str, ...]


def normalized(text: str) -> list[str]:
    """The words that are compared: lower case, no ASCII punctuation, no articles (Rajpurkar et al. 2016)."""
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def token_f1(answers: Sequence[str], response: str) -> float:
    """Best F1 of the response's words against any of the answers'.

    Returns:
        fraction in [0, 1]. Where either side is left without a word: 1 if both are, else 0.
    """
    return max(_f1(normalized(answer), normalized(response)) for answer in answers)


def question_prompts(questions: Sequence[ShortAnswer], examples: Sequence[ShortAnswer]) -> list[str]:
    """Each question after the worked examples, ending in ``Answer:``."""
    shots = "".join(f"Question: {pair.question}\nAnswer: {pair.answers[0]}\n\n" for pair in examples)
    return [f"{shots}Question: {asked.question}\nAnswer:" for asked in questions]


def truncate_answer(response: str) -> str:
    """The response's first line that is not empty."""
    return response.strip().partition("\n")[0].strip()


def read_short_answers(source: str) -> list[ShortAnswer]:
    """Questions of TriviaQA from the hub, or of a ``.json`` or ``.jsonl`` file.

    A record holds ``question`` and ``answer`` (a string, or an object with ``value`` and ``aliases`` as TriviaQA
    has) or ``answers`` (a list of strings, as RWKU's excerpt has).

    Args:
        source: a file, or ``mandarjoshi/trivia_qa``: its validation questions after six of its training ones.

    Raises:
        InputError: no such file or record, with file and line; or the hub cannot be reached.
    """
    if source == HUB_NAME:
        local = "and name a .json or .jsonl file of its records by utility.factual"
        shots = hub_rows(source, HUB_CONFIG, f"train[:{SHOTS}]", local)
        rows = [*shots, *hub_rows(source, HUB_CONFIG, "validation", local)]
        return [_short_answer(Located(f"{source}, row {number}", row)) for number, row in enumerate(rows)]
    return [_short_answer(found) for found in read_records(Path(source).expanduser(), ("question",))]


def _short_answer(found: Located) -> ShortAnswer:
    record: Any = found.record if isinstance(found.record, dict) else {}
    given = record.get("answers", record.get("answer"))
    if isinstance(given, dict):
        given = [given.get("value"), *given.get("aliases", [])]
    answers = [given] if isinstance(given, str) else given
    question = record.get("question")
    if (
        not isinstance(question, str)
        or not isinstance(answers, list)
        or not answers
        or not all(isinstance(answer, str) for answer in answers)
    ):
        raise wrong_form(found, "objects with the string question, and answer or answers")
    return ShortAnswer(question, tuple(answers))


def _f1(answer: Sequence[str], response: Sequence[str]) -> float:
    if not answer or not response:
        return float(not answer and not response)
    common = sum((Counter(answer) & Counter(response)).values())
    return 2 * common / (len(answer) + len(response))
