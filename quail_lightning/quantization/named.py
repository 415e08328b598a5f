"""A precision's name is the stem of a file below ``configs/quantizer``."""

from __future__ import annotations

from argparse import ArgumentError
from pathlib import Path
from typing import Any

import yaml

from quail_lightning.configuration.bounded_yaml import read_yaml
from quail_lightning.configuration.files import find_config, shipped_names
from quail_lightning.errors import InputError, lacks
from quail_lightning.quantization.familiar_names import suggestion
from quail_lightning.quantization.protocol import Quantizer


def available_precisions() -> list[str]:
    """Names that ``load_quantizer`` takes: the shipped ones and those below ``configs/quantizer`` here."""
    own = [path.stem for path in Path("configs/quantizer").glob("*.yaml")]
    return sorted({*own, *(Path(name).stem for name in shipped_names("quantizer"))})


def load_quantizer(name: str) -> Quantizer:
    """The quantizer of a precision such as ``bf16``, ``nf4`` or ``uniform4-group64``.

    Args:
        name: stem of ``configs/quantizer/<name>.yaml``, which holds ``class_path`` and ``init_args``.

    Raises:
        InputError: no such precision, a file that names no quantizer or arguments it does not take, or a
            package that is not installed.
    """
    known = available_precisions()
    try:
        path = find_config(f"quantizer/{name}.yaml")
    except InputError:
        raise InputError(
            "no such precision",
            given=name,
            allowed=", ".join(known),
            remedy=suggestion(name, known) or f"Or write configs/quantizer/{name}.yaml",
        ) from None
    return _built(path)


def _built(path: Path) -> Quantizer:
    from jsonargparse import ArgumentParser

    from quail_lightning.configuration.import_gate import close_gate

    close_gate()
    parser = ArgumentParser(exit_on_error=False)
    try:
        described = read_yaml(path)
        # Not add_argument(type=Quantizer), which imports transformers to compare signatures: seconds.
        quantizer_class = _named_class(described, path)
        parser.add_class_arguments(quantizer_class)
        arguments = parser.parse_object(described.get("init_args") or {})
    except (ArgumentError, TypeError, yaml.YAMLError) as problem:
        raise InputError(
            f"{path} does not describe a quantizer: {problem}",
            allowed="class_path of a quantizer, and init_args that its constructor takes",
        ) from problem
    found = quantizer_class(**arguments.as_dict())
    if lacking := lacks(found, Quantizer):
        raise InputError(
            f"{described['class_path']} of {path} is no quantizer: it lacks {', '.join(lacking)}",
            allowed="a class that keeps quail_lightning.quantization.protocol.Quantizer",
        )
    return found


def _named_class(described: object, path: Path) -> type[Any]:
    if not isinstance(described, dict) or "class_path" not in described:
        raise TypeError("it has no class_path")
    if unknown := described.keys() - {"class_path", "init_args"}:
        raise TypeError(f"it holds {', '.join(map(str, sorted(unknown)))} beside class_path and init_args")
    from quail_lightning.configuration.import_gate import class_in

    return class_in(path, described["class_path"])
