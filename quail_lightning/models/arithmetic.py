"""In which dtype this machine multiplies: 16-bit products only where the device has instructions for them.

What is stored and what computes are two decisions. A checkpoint, an exported copy and a bfloat16 weight stay 16
bits wide; where the device only emulates such products (a CPU with AVX2 alone takes 30 to 90 times as long), the
same values are held in float32 while they are multiplied. Everything that multiplies asks ``compute_dtype``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import cache
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import torch

from quail_lightning.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OVERRIDE = "QUAIL_ARITHMETIC"
"""Environment variable: ``float32`` computes in float32 everywhere, ``stored`` in the stored dtype everywhere."""

Precision = Literal["bf16-mixed", "32-true"]
"""Lightning's name of a training step's arithmetic: autocast to bfloat16, or float32 products."""


def compute_dtype(stored: torch.dtype, device: torch.device | str) -> torch.dtype:
    """The dtype in which weights that are stored in ``stored`` are multiplied on ``device``.

    Raises:
        InputError: the environment variable holds neither ``float32`` nor ``stored``.
    """
    if stored not in (torch.bfloat16, torch.float16) or multiplies_natively(stored, torch.device(device).type):
        return stored
    return torch.float32


def training_precision(device: torch.device | str) -> Precision:
    """``trainer.precision`` where none is given: autocast to bfloat16 if the device has its products."""
    return "bf16-mixed" if multiplies_natively(torch.bfloat16, torch.device(device).type) else "32-true"


def device_type(accelerator: object) -> str:
    """The type of device that Lightning will train on, where ``trainer.accelerator`` is ``accelerator``."""
    if accelerator == "cpu" or not torch.accelerator.is_available():
        return "cpu"
    return torch.accelerator.current_accelerator().type  # type: ignore[union-attr]


def emulation_notice(precision: object, device: torch.device | str) -> str | None:
    """One line where products that were asked for in bfloat16 are emulated: what it costs, and the remedy."""
    if precision != "bf16-mixed" or training_precision(device) == "bf16-mixed":
        return None
    return (
        "note: this device has no instructions for bfloat16 products, so bf16-mixed may take 10 to 30 times as "
        "long as float32; leave the precision out, or set 32-true"
    )


def hold_for_computing(model: PreTrainedModel, device: torch.device | str) -> PreTrainedModel:
    """Hold a 16-bit model's weights in ``compute_dtype``, in place, for as long as it is trained.

    Each weight that is widened keeps what it is stored in as ``stored_dtype``; its values are those of that dtype,
    and an optimizer that steps on it rounds to it again (``unlearning.stored_weights``).
    """
    for parameter in model.parameters():
        stored = parameter.dtype
        wide = compute_dtype(stored, device)
        if wide != stored:
            parameter.data = parameter.data.to(wide)
            parameter.stored_dtype = stored  # type: ignore[attr-defined]
    return model


def arithmetic_name(stored: torch.dtype, device: torch.device | str) -> str:
    """How results name it: ``bfloat16``, or ``float32 (weights stored as bfloat16)``."""
    stored_name, name = (str(dtype).removeprefix("torch.") for dtype in (stored, compute_dtype(stored, device)))
    return name if name == stored_name else f"{name} (weights stored as {stored_name})"


def multiplies_natively(dtype: torch.dtype, device_type: str) -> bool:
    """Whether a device of this type has instructions for products of a 16-bit dtype.

    torch answers for CUDA and, through oneDNN and the processor's own flags, for x86 and ARM; where it gives no
    answer one product is timed, once in a process.
    """
    chosen = os.environ.get(OVERRIDE, "")
    if chosen not in ("", "float32", "stored"):
        raise InputError(
            f"the environment variable {OVERRIDE} names an arithmetic", given=chosen, allowed="float32, stored"
        )
    return chosen == "stored" if chosen else _has_instructions(dtype, device_type)


@cache
def _has_instructions(dtype: torch.dtype, device_type: str) -> bool:
    if device_type == "meta":
        return True  # nothing is computed there
    if device_type == "cuda":
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        answered = _cpu_answer(dtype)
        if answered is not None:
            return answered
    return _is_as_fast_as_float32(dtype, torch.device(device_type))


def _cpu_answer(dtype: torch.dtype) -> bool | None:
    """What torch says of the processor; None where it says nothing."""
    name = "bf16" if dtype == torch.bfloat16 else "fp16"
    asked = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", None)
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if asked is None or not capabilities:
        return None
    if capabilities.get("architecture") != "x86_64":
        return bool(asked())
    # oneDNN says yes from plain AVX-512 on, which emulates; the flags know nothing of what limits oneDNN
    return bool(asked()) and any(capabilities.get(f"{unit}_{name}", False) for unit in ("avx512", "amx"))


def _is_as_fast_as_float32(dtype: torch.dtype, device: torch.device) -> bool:
    """Times a small product in both dtypes; emulation is at least ten times slower, so noise decides nothing."""

    def seconds(of: torch.dtype) -> float:
        left, right = (torch.ones(256, 256, dtype=of, device=device) for _ in range(2))
        found = []
        for _ in range(4):
            start = time.perf_counter()
            float((left @ right).sum())  # waits for the device
            found.append(time.perf_counter() - start)
        return median(found[1:])

    return seconds(dtype) < 3 * seconds(torch.float32)
