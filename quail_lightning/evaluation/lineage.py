"""Which model was made from which, as far as their folders say it, and what each is evaluated at for that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from quail_lightning.conversion.deployed import noted_of_file
from quail_lightning.evaluation.precision import UNQUANTIZED, Precision, as_stored, named_precision, widest
from quail_lightning.models.checkpoint import evaluated_dtype, load_config, read_provenance
from quail_lightning.quantization import available_precisions
from quail_lightning.quantization.stored_formats import float_format


@dataclass(frozen=True)
class Plan:
    """What is evaluated, and compared with what.

    Attributes:
        precisions: model → at what, in the order of tables.
        sixteen_bits: what the other precisions are compared with.
        targets: unlearned or deployed model → the target it was made from.
        origins: deployed model → the 16-bit model that it was quantized from.
        notes: what cannot be compared, and why.
    """

    precisions: Mapping[str, Sequence[Precision]]
    sixteen_bits: Precision
    targets: Mapping[str, str]
    origins: Mapping[str, str]
    notes: tuple[str, ...]


def plan_of(models: Sequence[str], retrained: str | None, precisions: Sequence[Precision]) -> Plan:
    """At what every model is evaluated: what was asked for, and what the comparisons need besides.

    A checkpoint that is quantized already is loaded as it is, at its own format only; its 16-bit origin, the
    target and the retrained model are evaluated at what it is compared with.

    Args:
        models: as they were named; a target first.
        retrained: trained without the forget set, or None.
        precisions: that were asked for.

    Raises:
        InputError: no such checkpoint.
    """
    formats = {model: stored_format(model) for model in models}
    deployed = {model: name for model, name in formats.items() if name is not None}
    origins = {model: found for model in deployed if (found := _origin(model, models)) is not None}
    whole = [model for model in models if model not in deployed]
    targets = _targets([*whole, *deployed], retrained) if whole else {}
    sixteen = widest(precisions)
    at: list[Precision] = list(precisions)
    compared = [sixteen]
    if targets:
        there = {each.config for each in precisions if not each.attacks}
        known = [name for name in dict.fromkeys(deployed.values()) if name in available_precisions()]
        extra = [named_precision(name, dtype=sixteen.dtype) for name in known if name not in there]
        at = [sixteen, *(each for each in precisions if each is not sixteen)]
        compared = [*at, *extra]
    chosen: dict[str, Sequence[Precision]] = {}
    if retrained is not None:
        chosen[retrained] = at if retrained in models and not targets else compared
    for model in models:
        if model in deployed:
            # a GGUF file's values are loaded in the dtype that its origin's copy holds them in
            dtype = torch.bfloat16 if noted_of_file(model) is None else sixteen.dtype
            chosen[model] = [as_stored(deployed[model], dtype)]
        elif model not in chosen:
            chosen[model] = compared if model in targets.values() else at
    for model in origins.values():
        chosen.setdefault(model, [sixteen])
    notes = [
        f"{model} is {name} already; the 16-bit model it came from is not at hand: nothing is said of survival."
        for model, name in deployed.items()
        if model not in origins
    ]
    notes += [
        f"{model} was made to be evaluated as {evaluated}, and is evaluated as {sixteen.name} here, its formats "
        f"made from that: name {evaluated} among the precisions."
        for model in whole
        if (evaluated := UNQUANTIZED.get(evaluated_dtype(model) or sixteen.dtype)) not in (None, sixteen.name)
    ]
    return Plan(chosen, sixteen, targets, origins, tuple(notes))


def _targets(models: Sequence[str], retrained: str | None) -> dict[str, str]:
    """Model → the target it was made from: as its provenance says, or else the first one named."""
    found = {}
    for model in models:
        if model in (models[0], retrained):
            continue
        made_from = Path(str(_noted(model).get("target"))).resolve()
        found[model] = next((each for each in models if Path(each).resolve() == made_from), models[0])
    return found


def stored_format(model: str) -> str | None:
    """The deployment format that a checkpoint's weights are stored in; None where they are 16 or 32 bits wide.

    That is the precision by which this program made it, or else what its config says: ``nf4``, ``fp4``, ``int8``,
    ``nvfp4``, ``mxfp4`` and ``fp8`` are named like the quantizers whose format they are. The conversion of a GGUF
    file that this program wrote has the file's precision, however wide its weights are stored now; that of another
    program's file has none, since there the file is the base.

    Raises:
        InputError: no such checkpoint.
    """
    if (in_file := noted_of_file(model)) is not None:
        return str(in_file["quantized"]["precision"])
    config: Any = getattr(load_config(model), "quantization_config", None)
    if config is None:
        return None
    made = _noted(model).get("quantized", {}).get("precision")
    if made is not None:
        return str(made)
    stored: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
    method = str(stored.get("quant_method", "quantized")).rpartition(".")[2].lower()
    if method == "bitsandbytes":
        return str(stored.get("bnb_4bit_quant_type", "fp4")) if stored.get("load_in_4bit") else "int8"
    if method == "compressed-tensors":
        return float_format(stored) or method
    bits = stored.get("bits", stored.get("w_bit"))
    return method if bits is None else f"{method}{bits}"


def _origin(model: str, named: Sequence[str]) -> str | None:
    """The 16-bit checkpoint that a quantized one was made from, if it is still there; by the name it was given."""
    made_of = _noted(model).get("quantized", {}).get("of")
    if made_of is None or not Path(str(made_of)).is_dir():
        return None
    return next((each for each in named if Path(each).resolve() == Path(str(made_of)).resolve()), str(made_of))


def _noted(model: str) -> Mapping[str, Any]:
    return noted_of_file(model) or read_provenance(Path(model)) or {}
