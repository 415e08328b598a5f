"""A file is parsed once, though a run asks for it to check it, to tell models apart and to cut windows."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache, wraps
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")
KEPT = 16  # files, the last ones that were asked for


def parsed_once(parse: Callable[..., Found]) -> Callable[..., Found]:
    """Decorates a function of a path and hashable arguments; its value must not be changed by who is given it.

    A file that was written anew meanwhile is parsed anew.
    """

    @lru_cache(maxsize=KEPT)
    def remembered(identity: Hashable, path: Path, *arguments: Hashable) -> Found:
        return parse(path, *arguments)

    @wraps(parse)
    def once(path: Path, *arguments: Hashable) -> Found:
        try:
            found = path.stat()
        except OSError:
            return parse(path, *arguments)  # which says what is wrong
        identity = (path.absolute(), found.st_ino, found.st_size, found.st_mtime_ns)
        return remembered(identity, path, *arguments)

    return once
