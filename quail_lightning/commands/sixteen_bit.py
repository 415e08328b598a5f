"""Checkpoints that a command changes or quantizes, and which must not be quantized already."""

from __future__ import annotations

from collections.abc import Sequence

from quail_lightning.conversion.deployed import refuse_deployed
from quail_lightning.conversion.located import located, sources_of
from quail_lightning.errors import InputError
from quail_lightning.evaluation.lineage import stored_format


def located_sixteen_bit(names: Sequence[str]) -> list[str]:
    """The folders, or names on the hub, that checkpoints' names mean (``located``), none of them quantized.

    Raises:
        InputError: one is quantized already, which of a GGUF file of this program is seen before it is converted.
    """
    for name, source in sources_of(names).items():
        if source.name == name:
            refuse_deployed(source.header)
    found = located(names)
    for name in found:
        if stored_format(name) is not None:
            raise InputError("the model is quantized already", given=name, remedy="Name the 16-bit checkpoint")
    return found
