"""A parser that says which option a misspelt one may have meant."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

QUOTED_OR_OPTION = re.compile(r"['\"]([\w.]+)['\"]|--([\w.]+)|[Uu]nrecognized arguments: ([\w.]+)")


class SuggestingParser(LightningArgumentParser):
    """LightningArgumentParser whose errors name the nearest known key and end with exit status 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        hint = self._suggestion(message)
        raise super().error(f"{message}\n{hint}" if hint else message, ex)  # type: ignore[func-returns-value]

    def _suggestion(self, message: str) -> str:
        known = self._known_keys()
        for match in QUOTED_OR_OPTION.finditer(message):
            given = next(group for group in match.groups() if group)
            if given in known:
                continue
            # the last part decides: `init_args` and the section's name are right in most misspellings
            names = {key.rsplit(".", 1)[-1]: key for key in sorted(known, reverse=True)}
            close = get_close_matches(given, known, n=1, cutoff=0.8)
            close = close or [names[name] for name in get_close_matches(given.rsplit(".", 1)[-1], names, n=1)]
            if close:
                return f"Did you mean {close[0]!r}?"
        return ""

    def _known_keys(self) -> set[str]:
        """All option names of this parser and of the subclasses its options were given."""
        keys: set[str] = set()
        for action in self._actions:
            keys.add(action.dest)
            for _, subparser in (getattr(action, "choices", None) or {}).items() if _is_subcommands(action) else ():
                keys |= subparser._known_keys()
        return keys | self._class_arguments()

    def _class_arguments(self) -> set[str]:
        import inspect

        from quail_lightning.data.muse import MuseDataModule

        return {f"data.{name}" for name in inspect.signature(MuseDataModule).parameters}


def _is_subcommands(action: Any) -> bool:
    return isinstance(getattr(action, "choices", None), dict)
