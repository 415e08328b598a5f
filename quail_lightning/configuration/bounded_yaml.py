"""YAML as configs need it: plain values, of bounded size and depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from quail_lightning.errors import InputError

MAX_BYTES = 1_000_000  # of a file; the longest shipped config has 4,000
MAX_DEPTH = 50  # mappings and lists inside each other
MAX_VALUES = 20_000  # where every alias (*name) counts with all that it stands for
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_yaml(text: str) -> None:
    """See that a text holds no more than a config can need, before anything is built of it.

    Raises:
        yaml.YAMLError: it is no YAML, too large or too deep, or an alias makes it so.
    """
    if len(text) > MAX_BYTES:
        raise yaml.YAMLError(f"it is longer than {MAX_BYTES:,} characters")
    if len(text) <= MAX_DEPTH and "*" not in text:
        return  # most single values of a config: they can break no bound
    sizes: dict[str, int | None] = {}  # anchor → values below it; None while they are read
    open_nodes: list[tuple[str | None, int]] = []  # anchor, values before it
    values = 0
    for event in yaml.parse(text, Loader=_Loader):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(anchor or "", 0)
            if size is None:
                raise yaml.YAMLError(f"the alias *{anchor} stands inside what it stands for")
            values += size
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            if anchor:
                sizes[anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((anchor, values))
            values += 1
            if anchor:
                sizes[anchor] = None
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = values - before
        if len(open_nodes) > MAX_DEPTH:
            raise yaml.YAMLError(f"it is nested deeper than {MAX_DEPTH} levels")
        if values > MAX_VALUES:
            raise yaml.YAMLError(f"it holds more than {MAX_VALUES:,} values, counted where each alias (*) stands")


def load_yaml(text: str) -> Any:
    """The values of a YAML text; no tag of it builds an object.

    Raises:
        yaml.YAMLError: see ``check_yaml``.
    """
    check_yaml(text)
    try:
        return yaml.load(text, Loader=_Loader)
    except ValueError as error:  # a number of 5,000 digits, the 30th of February
        raise yaml.YAMLError(str(error)) from error


def read_yaml(path: Path) -> Any:
    """The values of a YAML file.

    Raises:
        yaml.YAMLError: see ``check_yaml``; or it is no text.
    """
    return load_yaml(config_text(path))


def config_text(path: Path) -> str:
    """The text of a config file.

    Raises:
        yaml.YAMLError: it is too long, or no UTF-8.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise yaml.YAMLError(f"it is longer than {MAX_BYTES:,} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise yaml.YAMLError(f"it is no UTF-8 text ({error.reason} at byte {error.start})") from None


def check_config(path: Path) -> None:
    """See that a config file is YAML of bounded size that holds options.

    Raises:
        InputError: naming the file.
    """
    try:
        found = load_yaml(config_text(path))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"the config {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        what = "is empty" if found is None else "holds no options"
        raise InputError(f"the config {path} {what}", allowed="sections with options, as in model: {alpha: 5}")
