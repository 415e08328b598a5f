"""What a run took from the target and from θ_o before its first step, kept for the run that goes on with it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from quail_lightning.data.protocol import data_of
from quail_lightning.data.text_digests import TEXTS
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import weights_digest
from quail_lightning.unlearning.module import UnlearningModule
from quail_lightning.unlearning.provenance import description
from quail_lightning.unlearning.saliency import SaliencyMap

# windows are compared in place of texts; a run that goes on starts from its checkpoint
NOT_COMPARED = ("made_by", "versions", "measured_steps", "salient_modules", TEXTS, "start_sha256")


def preparation(module: UnlearningModule) -> dict[str, Any]:
    """Saliency map, generic labels and measured steps, as tensors, dictionaries and numbers."""
    found = module.saliency_map
    return {
        "saliency": None if found is None else {"scores": found.scores, "threshold": found.threshold},
        "labels": module.generic_targets,
        "measured_steps": module.measured_steps,
        "hinge": _measured(module),
    }


def restore_preparation(module: UnlearningModule, kept: Mapping[str, Any]) -> None:
    """Put what was kept in the place of what was prepared anew, which other hardware may have rounded differently.

    Raises:
        InputError: other modules are salient than those that were trained; their optimizer states fit no others.
    """
    if kept["saliency"] is not None:
        old = SaliencyMap(kept["saliency"]["scores"], kept["saliency"]["threshold"])
        if module.saliency_map is None or set(old.salient) != set(module.saliency_map.salient):
            raise InputError(
                "the saliency map of the checkpoint names other modules than the one made now",
                remedy="Resume with the same target and data, on the same kind of hardware",
            )
        module.saliency_map = old
    module.generic_targets = kept["labels"]
    module.measured_steps = dict(kept["measured_steps"])
    for name, value in kept["hinge"].items():
        setattr(module.hinge, name, value)


def origin(module: UnlearningModule, processes: int) -> dict[str, Any]:
    """What decides a run beyond the number of its epochs; a run goes on only with the same."""
    data = data_of(module.trainer)
    described = {name: value for name, value in description(module).items() if name not in NOT_COMPARED}
    return described | {
        "target_sha256": weights_digest(module.target),
        "reference": type(module.reference).__qualname__,
        "micro_batch_size": module.micro_batch_size,
        "loss_chunk": module.loss_chunk,
        "gradient_checkpointing": module.gradient_checkpointing,
        "windows_sha256": {name: _digest(windows) for name, windows in data.served.trained._asdict().items()},
        "batch_size": data.batch_size,
        "seed": data.seed,
        "precision": str(module.trainer.precision),
        "processes": processes,
    }


def _measured(module: UnlearningModule) -> dict[str, Any]:
    """The hinge's attributes that a measurement has set."""
    if not module.measured_steps:
        return {}
    if measured := getattr(module.hinge, "measured", None):
        return {"measured": dict(measured)}
    return {"step": getattr(module.hinge, "step")}  # noqa: B009


def _digest(windows: Tensor) -> str:
    return hashlib.sha256(windows.contiguous().numpy().tobytes()).hexdigest()
