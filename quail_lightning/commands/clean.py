"""`quail clean`: list, and with ``--yes`` remove, what private text can be read back from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from quail_lightning.commands.leftovers import KINDS, leftovers
from quail_lightning.errors import InputError, RunError
from quail_lightning.reference.cached import FOLDER
from quail_lightning.storage.disk_room import size_text
from quail_lightning.storage.locks import hold

PLACES = ("logs", FOLDER)
Kinds = Literal["reference-cache", "evaluations", "responses", "training-checkpoints"]


def add_arguments(parser: Any) -> None:
    """Declare the verb's options."""
    parser.add_argument("folders", nargs="*", type=str, help=f"where to look; default: {' and '.join(PLACES)}")
    parser.add_argument("--kinds", nargs="+", type=Kinds, default=list(KINDS), help="what to look for")
    parser.add_argument("--yes", action="store_true", help="remove what is listed; without it nothing is removed")


def run(arguments: Any) -> None:
    """Carry the verb out."""
    named = [Path(folder) for folder in arguments.folders]
    if missing := [str(folder) for folder in named if not folder.is_dir()]:
        raise InputError("there is no such folder", given=missing)
    places = named or [Path(place) for place in PLACES]
    found = leftovers(places, arguments.kinds)
    if not found:
        print(f"Nothing of this program's from which text can be read back lies below {_joined(places)}.")
        return
    in_use: dict[str, None] = {}
    for left in found:
        others = f", beside {left.foreign} files of others, which stay" if left.foreign else ""
        line = f"{size_text(left.size):>10}  {left.folder}  ({left.kind}{others})"
        if arguments.yes:
            try:
                hold(left.lock, str(left.folder))
            except InputError as problem:
                in_use[problem.fact] = None
                line = f"in use   {line}"
            else:
                left.remove()
                line = f"removed  {line}"
        print(line)
    if not arguments.yes:
        total = size_text(sum(left.size for left in found))
        print(f"{total} in all. Nothing was removed: add --yes to remove it.")
    elif in_use:
        raise RunError(f"not removed: {'; '.join(in_use)}", remedy="Wait until it has ended, then run this again")


def _joined(places: list[Path]) -> str:
    return ", ".join(map(str, places))
