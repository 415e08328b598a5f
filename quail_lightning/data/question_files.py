"""A user's own files of questions with right and wrong answers; errors name file and line."""

from __future__ import annotations

from pathlib import Path

from quail_lightning.data.answered_records import PARAPHRASE, strings, wrong_answers
from quail_lightning.data.located import Located
from quail_lightning.data.overlap import comparable
from quail_lightning.data.parsed_once import parsed_once
from quail_lightning.data.questions import AnsweredQuestion
from quail_lightning.data.tables import DELIMITERS
from quail_lightning.data.text_files import read_records
from quail_lightning.errors import InputError

WRONG, TOFU_WRONG = "wrong", "perturbed_answer"
COLUMNS = ("question", "answer", PARAPHRASE, WRONG, TOFU_WRONG)
FEWEST = 2  # records that an interval takes

Placed = tuple[tuple[str, AnsweredQuestion], ...]
"""Questions, each with the place where it stands."""


@parsed_once
def read_answered(path: Path) -> Placed:
    """The questions of a file of records: a JSON list, JSON lines, CSV or Parquet.

    Fields: ``question`` and ``answer``; where there are any, ``wrong`` answers (TOFU's ``perturbed_answer`` is the
    same), and ``paraphrased_answer``, the right one in other words. ``wrong`` is a list of strings, or the text of
    one; any other text is a single wrong answer. Null, or an empty cell of a CSV file, is no field. White space
    around a text is left out, so that right and wrong answers differ in their words alone.

    Args:
        path: of the file.

    Raises:
        InputError: as ``read_records``; a record of another form; a wrong answer that is the right one or another
            wrong one but for capitals and white space; a question that stands there twice. With file and line,
            never with the text.
    """
    found: dict[str, tuple[str, AnsweredQuestion]] = {}
    for row in read_records(path):
        asked = _answered(row, path.suffix.lower() in DELIMITERS)
        key = _key(asked.question)
        if key in found:
            raise InputError(
                f"{row.place}: the question stands in {found[key][0]} already",
                remedy="Remove one of them: a question counts once",
            )
        found[key] = row.place, asked
    return tuple(found.values())


def check_apart(forget: Placed, retain: Placed) -> None:
    """Refuse a question that is to be forgotten and kept.

    Raises:
        InputError: naming both places of the first, and how many there are.
    """
    wanted = {_key(asked.question): place for place, asked in forget}
    both = [(wanted[key], place) for place, asked in retain if (key := _key(asked.question)) in wanted]
    if both:
        raise InputError(
            f"{both[0][1]}: the question is to be kept, and in {both[0][0]} to be forgotten",
            given=f"{len(both)} such questions",
            remedy="Remove each from one of the two files",
        )


def check_enough(questions: Placed, file: str) -> None:
    """Refuse fewer questions than an interval takes: of one record there is none, and no verdict.

    Raises:
        InputError: one question, or one with wrong answers.
    """
    with_wrong = [place for place, asked in questions if asked.wrong]
    if len(questions) < FEWEST:
        raise InputError(
            f"{file} holds a single question, of which no interval can be had", remedy="Add at least one"
        )
    if 0 < len(with_wrong) < FEWEST:
        raise InputError(
            f"{with_wrong[0]}: the only one of {len(questions)} questions with wrong answers; "
            "of one no interval can be had",
            remedy="Give wrong answers to at least one other question, or to none",
        )


def _answered(row: Located, is_table: bool) -> AnsweredQuestion:
    question, answer = (text.strip() for text in strings(row, ("question", "answer")))
    nothing = (None, "") if is_table else (None,)
    record = {name: row.record[name] for name in COLUMNS if row.record.get(name) not in nothing}
    row = Located(row.place, record)
    paraphrase = strings(row, (PARAPHRASE,))[0].strip() if PARAPHRASE in record else None
    if WRONG in record and TOFU_WRONG in record:
        raise InputError(f"{row.place}: {WRONG} and {TOFU_WRONG} are two names of one field", remedy="Give one")
    names = [name for name in (WRONG, TOFU_WRONG) if name in record]
    wrong = tuple(text.strip() for name in names for text in _wrong(row, name))
    _check_different(row.place, [answer, *filter(None, [paraphrase])], wrong)
    return AnsweredQuestion(question, answer, paraphrase, wrong)


def _wrong(row: Located, name: str) -> tuple[str, ...]:
    """A text that does not begin as a list is one answer."""
    given = row.record[name]
    if isinstance(given, str) and given.strip() and not given.strip().startswith("["):
        return (given,)
    return wrong_answers(row, name)


def _check_different(place: str, right: list[str], wrong: tuple[str, ...]) -> None:
    if {_key(text) for text in right} & {_key(text) for text in wrong}:
        raise InputError(f"{place}: a wrong answer is the right one", remedy="Remove it, or write another one")
    if len({_key(text) for text in wrong}) < len(wrong):
        raise InputError(f"{place}: two of the wrong answers are the same", remedy="Remove one of them")


def _key(text: str) -> str:
    return comparable(text).casefold()
