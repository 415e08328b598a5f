"""Questions with one right and three wrong answers: the shipped general ones, or a user's own file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quail_lightning.data.located import Located, wrong_form
from quail_lightning.data.parsed_once import parsed_once
from quail_lightning.data.text_files import read_records
from quail_lightning.errors import InputError

SHIPPED = "shipped"
SHIPPED_FILE = Path(__file__).with_name("general_questions") / "questions.jsonl"
WRONG = 3  # answers beside the right one: who guesses is right one time in four, in every file
FORM = "objects with the strings question and answer, and with wrong, a list of three strings, none of them empty"


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question and what may be answered.

    Attributes:
        question: as it is put.
        answer: the right one.
        wrong: the three others.
    """

    question: str
    answer: str
    wrong: tuple[str, ...]

    @property
    def options(self) -> tuple[str, ...]:
        """All four, the right one first; scoring by likelihood shows the model no order."""
        return (self.answer, *self.wrong)


def read_choices(source: str) -> tuple[ChoiceQuestion, ...]:
    """The questions of a file of records with ``question``, ``answer`` and ``wrong``.

    Args:
        source: ``shipped``: ``general_questions/questions.jsonl``, whose ``PROVENANCE.md`` says what it holds; or
            a ``.json`` or ``.jsonl`` file.

    Raises:
        InputError: no such file, a record of another form, two options that are the same but for capitals, or a
            question that stands there twice; with file and line, never with the text.
    """
    return _parsed(SHIPPED_FILE if source == SHIPPED else Path(source).expanduser())


@parsed_once
def _parsed(path: Path) -> tuple[ChoiceQuestion, ...]:
    found: dict[str, tuple[str, ChoiceQuestion]] = {}  # question without its capitals → place, question
    for row in read_records(path):
        asked = _choice(row)
        key = asked.question.casefold()
        if key in found:
            raise InputError(
                f"{row.place}: the question stands in {found[key][0]} already",
                remedy="Remove one of them: a question counts once",
            )
        found[key] = row.place, asked
    return tuple(asked for _, asked in found.values())


def _choice(found: Located) -> ChoiceQuestion:
    record = found.record if isinstance(found.record, dict) else {}
    question, answer, wrong = (record.get(name) for name in ("question", "answer", "wrong"))
    if not isinstance(wrong, list) or len(wrong) != WRONG:
        raise wrong_form(found, FORM)
    texts = [text.strip() if isinstance(text, str) else "" for text in (question, answer, *wrong)]
    if not all(texts):
        raise wrong_form(found, FORM)
    if len({text.casefold() for text in texts[1:]}) <= WRONG:
        raise InputError(
            f"{found.place}: two of the answers are the same", remedy="Give one right answer and three other ones"
        )
    return ChoiceQuestion(texts[0], texts[1], tuple(texts[2:]))
