"""Where a config file is found: where the user stands, then among the shipped ones."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from quail_lightning.errors import InputError


def shipped_folder() -> Path:
    """The folder of shipped configs: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find_config(name: str) -> Path:
    """Resolve ``news.yaml`` or ``method/ga_gdr.yaml`` from any folder.

    A path that exists as given wins; then ``configs/`` where the user stands; then the shipped configs. A line
    says so where a file of the user's stands before a shipped one.

    Raises:
        InputError: naming every folder that was searched and the nearest existing names.
    """
    places = [Path(), Path("configs"), shipped_folder()]
    for place in places:
        candidate = place / name
        if candidate.is_file():
            shipped = shipped_folder() / name
            if shipped.is_file() and not candidate.samefile(shipped):
                _say_that_it_stands_before(candidate)
            return candidate
    known = shipped_names()
    close = get_close_matches(name, known, n=3) or [shipped for shipped in known if "/" not in shipped]
    if Path(name).is_dir():
        raise InputError("a config is a file, and this is a folder", given=name, allowed=", ".join(close))
    raise InputError(
        f"no config file {name!r} in {', '.join(str(place.absolute()) for place in places)}",
        allowed=", ".join(close),
        remedy="Name an existing file, or write one (the shipped ones are examples)",
    )


@cache  # once in a process
def _say_that_it_stands_before(own: Path) -> None:
    # on stderr: what --print_config writes to stdout is a config
    print(f"using {own} in the current folder instead of the shipped config of that name", file=sys.stderr)


def shipped_names(under: str = "") -> list[str]:
    """Names of the shipped configs below ``under``, as ``find_config`` takes them."""
    folder = shipped_folder()
    return sorted(path.relative_to(folder).as_posix() for path in (folder / under).rglob("*.yaml"))
