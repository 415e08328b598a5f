"""Tables that fit the terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.table import Table

REDIRECTED = 120  # columns where the output is no terminal and COLUMNS is not set
ANY = 10_000  # columns that no table needs

Column = TypeVar("Column")


def output_console() -> Console:
    """Standard output, as wide as the terminal."""
    console = Console()
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(width=REDIRECTED)


def fitting_tables(
    make: Callable[[Sequence[Column], str], Table], columns: Sequence[Column], title: str, width: int
) -> Iterator[Table]:
    """Tables of as many columns each as fit the width, one at least; no figure is cut off.

    Args:
        make: gives the table of some of the columns, whatever names its rows included, under a title.
        columns: all of them.
        title: of the first table; the others say that they continue it.
        width: of the output, columns of text.
    """
    console, taken = Console(width=ANY), list[Column]()
    for column in columns:
        if taken and console.measure(make([*taken, column], title)).maximum > width:
            yield make(taken, title)
            taken, title = [], f"{title.removesuffix(', continued')}, continued"
        taken.append(column)
    yield make(taken, title)
