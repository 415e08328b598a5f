"""The checkpoints that a config names, where some are GGUF files: everything below sees the converted folders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from quail_lightning.conversion.located import sources_of

KEYS = (
    "model.target",
    "model.start",
    "model.retrained",
    "evaluation.retrained",
    "best.retrained",
    "data.init_args.tokenizer",
)
"""Where a config names a checkpoint; those of the data and of ``best`` are linked to the others."""


class NamedCheckpoints:
    """What a config names, and what it means.

    Args:
        section: the verb's part of the config.

    Raises:
        InputError: see ``sources_of``; nothing is converted yet.
    """

    def __init__(self, section: Any) -> None:
        self._section = section
        named = {key: section.get(key) for key in KEYS}
        self._named = {key: name for key, name in named.items() if isinstance(name, str)}
        self._sources = sources_of(self._named.values())

    @contextmanager
    def as_folders(self) -> Iterator[None]:
        """Inside, the config names the folders of conversions, which need not be there yet.

        Outside it keeps what the user wrote, which is what is saved with the run.
        """
        folders = {name: str(source.folder) for name, source in self._sources.items() if source.name == name}
        changed = {key: name for key, name in self._named.items() if name in folders}
        for key, name in changed.items():
            self._section[key] = folders[name]
        try:
            yield
        finally:
            for key, name in changed.items():
                self._section[key] = name

    def convert(self) -> None:
        """Convert what is not converted yet.

        Raises:
            InputError: see ``convert_gguf``.
        """
        for source in self._sources.values():
            source.convert()
