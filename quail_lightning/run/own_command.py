"""This program as a command of its own process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from quail_lightning.configuration.allowed_code import FLAG, is_code_allowed


def own_command(arguments: Sequence[str]) -> list[str]:
    """What starts ``quail`` with these arguments, by the same interpreter and with the same rights to run code."""
    allowed = [FLAG] if is_code_allowed() else []
    # -P: Python's own start would import from the current folder, which may be a colleague's
    safe = [] if Path(__file__).parents[2] == Path.cwd() else ["-P"]
    return [sys.executable, *safe, "-m", "quail_lightning", *arguments, *allowed]
