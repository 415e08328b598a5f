"""Whether what a config or a checkpoint names may run code of its own: only with ``--allow-code``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from quail_lightning.errors import InputError

FLAG = "--allow-code"
"""Counts on the command line alone; a config or a variable of the environment cannot give it."""

_allowed = False


def is_code_allowed() -> bool:
    """Whether the user gave ``--allow-code``."""
    return _allowed


@contextmanager
def code_allowed(yes: bool = True) -> Iterator[None]:
    """Inside, code is allowed or not."""
    global _allowed
    before, _allowed = _allowed, yes
    try:
        yield
    finally:
        _allowed = before


def code_refused(fact: str, given: object) -> InputError:
    """The refusal of what would run code."""
    return InputError(
        fact,
        given=given,
        remedy=f"Where you trust whoever wrote it, add {FLAG} to the command line (docs/reliability.md)",
    )
