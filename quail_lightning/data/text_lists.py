"""Lists of strings that were written as text, as the hub's viewer and CSV exports do."""

from __future__ import annotations

import ast
import io
import json
import tokenize
from typing import Any


def list_of_strings(text: str) -> list[str] | None:
    """The list that a text spells as JSON or as a Python literal; None where it spells none.

    Nothing is evaluated. Strings that follow one another without a comma, as numpy prints them, are no list:
    Python would join them into one.
    """
    for read in (json.loads, _literal):
        try:
            found = read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError):
            continue
        if isinstance(found, list) and all(isinstance(each, str) for each in found):
            return found
    return None


def _literal(text: str) -> Any:
    found = ast.literal_eval(text.strip())
    tokens = tokenize.generate_tokens(io.StringIO(text.strip()).readline)
    strings = sum(token.type == tokenize.STRING for token in tokens)
    if not isinstance(found, list) or strings != len(found):
        raise ValueError("not one string an entry")
    return found
