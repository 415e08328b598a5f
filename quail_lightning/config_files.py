"""Where a config file is found: where the user stands, then among the shipped ones."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from quail_lightning.errors import InputError


def shipped_folder() -> Path:
    """The folder of shipped configs: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find_config(name: str) -> Path:
    """Resolve ``news.yaml`` or ``method/ga_gdr.yaml`` from any folder.

    A path that exists as given wins; then ``configs/`` where the user stands; then the shipped configs.

    Raises:
        InputError: naming every folder that was searched and the nearest existing names.
    """
    places = [Path(), Path("configs"), shipped_folder()]
    for place in places:
        candidate = place / name
        if candidate.is_file():
            return candidate
    known = shipped_names()
    close = get_close_matches(name, known, n=3) or known
    raise InputError(
        f"no config file {name!r} in {', '.join(str(place.absolute()) for place in places)}",
        allowed=", ".join(close),
        remedy="Name an existing file, or write one (the shipped ones are examples)",
    )


def shipped_names(under: str = "") -> list[str]:
    """Names of the shipped configs below ``under``, as ``find_config`` takes them."""
    folder = shipped_folder()
    return sorted(path.relative_to(folder).as_posix() for path in (folder / under).rglob("*.yaml"))
