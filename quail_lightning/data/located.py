"""Records with the place where they stand, and what an error may say of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from quail_lightning.errors import InputError

FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,24}")  # what looks like a name rather than a text


class Located(NamedTuple):
    """A record and where it stands, such as ``my.jsonl, line 3``."""

    place: str
    record: Any


def shape_of(record: Any) -> object:
    """Type, length and field names of a record: never its content, which may be what is to be forgotten."""
    if isinstance(record, dict):
        names = sorted(name for name in record if isinstance(name, str) and FIELD_NAME.fullmatch(name))
        return names + [f"{len(record) - len(names)} other fields"] * (len(names) < len(record))
    if isinstance(record, str | list):
        return f"a {type(record).__name__} of length {len(record)}"
    return "null" if record is None else f"a value of type {type(record).__name__}"


def wrong_form(found: Located, wanted: str) -> InputError:
    """The refusal of a record: place, shape and what was wanted."""
    return InputError(f"{found.place} has the wrong form", given=shape_of(found.record), allowed=wanted)


def check_characters(found: Located) -> Located:
    """The record, whose strings are text.

    Raises:
        InputError: one of them holds a lone surrogate (as JSON can escape one) or a NUL.
    """
    for text in _strings(found.record):
        if "\0" in text:
            raise InputError(f"{found.place} holds a NUL character", remedy="Remove it: it is no text")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{found.place} holds half of a surrogate pair (character {error.start} of {len(text)}), which "
                "stands for no character",
                remedy="Write the text again from its source, as UTF-8",
            ) from None
    return found


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _strings(name)
            yield from _strings(item)
