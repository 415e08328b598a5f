"""A file that describes one object: ``class_path`` and the ``init_args`` that its constructor takes."""

from __future__ import annotations

from argparse import ArgumentError
from pathlib import Path
from typing import Any

import yaml

from quail_lightning.configuration.bounded_yaml import read_yaml
from quail_lightning.errors import InputError, lacks


def instance_of(path: Path, protocol: type, kind: str) -> Any:
    """The object that a file describes.

    Args:
        path: of the file.
        protocol: that the object keeps.
        kind: what it is called in errors, with its article: ``a quantizer``.

    Raises:
        InputError: it names no such class, or arguments that the class does not take, or a package that is not
            installed; or what the class itself refuses.
    """
    from jsonargparse import ArgumentParser

    from quail_lightning.configuration.import_gate import close_gate

    close_gate()
    name = kind.partition(" ")[2]
    parser = ArgumentParser(exit_on_error=False)
    try:
        described = read_yaml(path)
        # Not add_argument(type=protocol), which imports transformers to compare signatures: seconds.
        named = _named_class(described, path)
        parser.add_class_arguments(named)
        arguments = parser.parse_object(described.get("init_args") or {})
    except (ArgumentError, TypeError, yaml.YAMLError) as problem:
        raise InputError(
            f"{path} does not describe {kind}: {problem}",
            allowed=f"class_path of {kind}, and init_args that its constructor takes",
        ) from problem
    found = named(**arguments.as_dict())
    if lacking := lacks(found, protocol):
        raise InputError(
            f"{described['class_path']} of {path} is no {name}: it lacks {', '.join(lacking)}",
            allowed=f"a class that keeps {protocol.__module__}.{protocol.__qualname__}",
        )
    return found


def _named_class(described: object, path: Path) -> type[Any]:
    if not isinstance(described, dict) or "class_path" not in described:
        raise TypeError("it has no class_path")
    if unknown := described.keys() - {"class_path", "init_args"}:
        raise TypeError(f"it holds {', '.join(map(str, sorted(unknown)))} beside class_path and init_args")
    from quail_lightning.configuration.import_gate import class_in

    return class_in(path, described["class_path"])
