"""What a record says of a question with right and wrong answers: TOFU's, or a user's own."""

from __future__ import annotations

from collections.abc import Sequence

from quail_lightning.data.located import Located, wrong_form
from quail_lightning.data.text_lists import list_of_strings
from quail_lightning.errors import InputError

PARAPHRASE = "paraphrased_answer"


def strings(row: Located, names: Sequence[str]) -> list[str]:
    """These fields of a record.

    Raises:
        InputError: one is missing, no string or empty; with the place.
    """
    record = row.record if isinstance(row.record, dict) else {}
    values = [record.get(name) for name in names]
    if not all(isinstance(value, str) and value.strip() for value in values):
        raise wrong_form(row, f"objects with the strings {', '.join(names)}, none of them empty")
    return [str(value) for value in values]


def wrong_answers(row: Located, name: str) -> tuple[str, ...]:
    """A field that is a list of wrong answers, or a list's text, which is read where it is one in one way only.

    Raises:
        InputError: it is no list, an empty one, or holds what is no text; with the place.
    """
    given = row.record.get(name)
    wrong = list_of_strings(given) if isinstance(given, str) else given
    entries = wrong if isinstance(wrong, list) else []
    if not entries or not all(isinstance(each, str) and each.strip() for each in entries):
        allowed = "a list of strings, none of them empty (or such a list as JSON or Python text)"
        raise InputError(
            f"{row.place}: {name} is no list of wrong answers",
            given="a text that cannot be read as one in one way only" if isinstance(given, str) else None,
            allowed=allowed,
        )
    return tuple(entries)
