"""Loading libraries without the garbage collector."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from quail_lightning.terminal import step


@contextmanager
def loading_libraries() -> Iterator[None]:
    """While modules are imported the collector rests, and it never looks at what they made.

    torch and transformers make a million objects that live as long as the process. Looking for garbage among them
    takes a third of the time of importing them, and a second at the process's end.

    What exists at the end is never freed by the collector, unless nothing had to be loaded: for a program's
    beginning, before it makes a model.
    """
    with step("loading libraries"):
        was_enabled, modules = gc.isenabled(), len(sys.modules)
        gc.disable()
        try:
            yield
        finally:
            if len(sys.modules) > modules:
                gc.freeze()
            if was_enabled:
                gc.enable()
