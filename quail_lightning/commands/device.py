"""The device that an option names."""

from __future__ import annotations

import torch

from quail_lightning.errors import InputError


def named_device(name: str) -> torch.device:
    """Where saved models are run.

    Args:
        name: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:1``, ...

    Raises:
        InputError: no such device, or none here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError("no such device", given=name, allowed="auto, cpu, cuda or cuda:<number>") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError("models are not evaluated on such a device", given=name, allowed="auto, cpu, cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device here", given=name, allowed="auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            "there is no such CUDA device here",
            given=name,
            allowed=f"cuda:0 … cuda:{torch.cuda.device_count() - 1}",
        )
    return device
