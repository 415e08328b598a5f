"""A parser whose errors are short and say which option a misspelt one may have meant."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from inspect import signature
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from quail_lightning.command_line.argument_errors import one_line
from quail_lightning.configuration.import_gate import close_gate, refusals

OPTION = re.compile(r"--([\w.]+)")
KEY = re.compile(r"(?:[Kk]ey|option) ['\"]([\w.]+)['\"]")
PLACE = re.compile(r"^( *)(?:- )?Parser key \"([\w.]+)\":", re.MULTILINE)
CLASS_ARGUMENT = re.compile(r"class_path '([\w.]+)\.(\w+)':\s+Option '(\w+)' is not accepted")


ABSENT_CLASS = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
MISSING = re.compile(r"arguments are required|Parser key \"model\.target\":\s+Expected.*None|is required")
EXAMPLES = {
    "fit": (
        "quail fit --config quickstart.yaml  (needs nothing: it makes its own target)",
        "quail fit --config own.yaml --model.target DIR --data.forget forget.txt --data.retain retain.txt",
    ),
    "validate": ("quail validate --config quickstart.yaml --model.start DIR",),
    "test": ("quail test --config quickstart.yaml --model.start DIR",),
    "finetune": (
        "quail finetune --config finetune/news.yaml --out checkpoints/news/target",
        "quail finetune --config finetune/news.yaml --sets retain --out checkpoints/news/retrained",
    ),
    "alternates": ("quail alternates TARGET --data.forget my.jsonl --out with_alternates.jsonl",),
    "analyze": ("quail analyze --reference TARGET --model UNLEARNED",),
    "convert": ("quail convert model.gguf --out checkpoints/model",),
    "quantize": ("quail quantize DIR --to awq4 --out DIR-awq4",),
    "push": ("quail push logs/news/latest/model my-account/my-model --dry-run",),
    "evaluate": ("quail evaluate DIR --benchmark muse-news --precisions bf16 nf4",),
    "folds": ("quail folds --config folds/quickstart_sust.yaml",),
    "sweep": ("quail sweep --config quickstart.yaml --space sweep/quickstart.yaml --trials 8",),
}
"""Verb → commands that show what it needs."""


class SuggestingParser(ArgumentParser):
    """A parser that answers an unknown key with the nearest known one and exit status 2.

    Attributes:
        verb: of the command line; a parser that Lightning makes is told it afterwards.
    """

    verb = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # an abbreviation that is accepted is a misspelling that is not noticed
        super().__init__(*args, **{"allow_abbrev": False} | kwargs)
        close_gate()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        if refusal := next((found for found in refusals if str(found) in message), None):
            place = _place(message[: message.index(str(refusal))])
            print(f"error: {place}: {refusal}", file=sys.stderr)
            raise SystemExit(2)
        # the usage of `fit` fills three screens and would push the error out of sight
        called = f"quail {self.verb}" if self.verb else self.prog
        suggestion = self._suggestion(message)
        lines = [f"error: {one_line(message).rstrip('.')}.{suggestion} All options: {called} --help"]
        if MISSING.search(message):
            lines = [f"error: {_missing(message)}", *(f"  {line}" for line in EXAMPLES.get(self.verb, ()))]
        print("\n".join(lines), file=sys.stderr)
        raise SystemExit(2)

    def _suggestion(self, message: str) -> str:
        """The known key nearest to the first unknown one, where jsonargparse does not name it itself."""
        if "Did you mean" in message:
            return ""
        if absent := ABSENT_CLASS.search(message):
            module, unknown = absent.groups()
            close = get_close_matches(unknown, dir(sys.modules.get(module)), n=1)
            return f" Did you mean '{module}.{close[0]}'?" if close else ""
        if misspelt := CLASS_ARGUMENT.search(message):
            module, name, unknown = misspelt.groups()
            known = set(signature(getattr(sys.modules[module], name)).parameters)
        else:
            known = set(self._keys())
            given = [*OPTION.findall(message), *KEY.findall(message)]
            unknown = next((key for key in given if key not in known), "")
        close = get_close_matches(unknown, known, n=1)
        return f" Did you mean {close[0]!r}?" if close else ""

    def _keys(self) -> Iterator[str]:
        """Every key of this parser and of its subcommands, whose configs the parent checks."""
        for action in self._actions:
            yield action.dest
            if isinstance(action.choices, dict):
                for subparser in action.choices.values():
                    yield from subparser._keys()


def _missing(message: str) -> str:
    if "model.target" in message:
        return "no model is named: model.target is the checkpoint that knows the forget set. For example:"
    return f"{' '.join(message.split())}. For example:"


def _place(message: str) -> str:
    """The keys, from the outermost to the innermost, below which jsonargparse's message stands at its end."""
    keys: dict[int, str] = {}  # indentation → key
    for match in PLACE.finditer(message):
        keys = {depth: key for depth, key in keys.items() if depth < len(match[1])} | {len(match[1]): match[2]}
    return ": ".join(keys.values()) or "config"
