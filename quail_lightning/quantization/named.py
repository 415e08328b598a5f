"""A precision's name is the stem of a file below ``configs/quantizer``."""

from __future__ import annotations

from pathlib import Path

from quail_lightning.configuration.files import find_config, shipped_names
from quail_lightning.configuration.instances import instance_of
from quail_lightning.errors import InputError
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
    found: Quantizer = instance_of(path, Quantizer, "a quantizer")
    return found
