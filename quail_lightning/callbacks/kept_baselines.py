"""What was measured of the target and the retrained model, kept for other runs: it is the same in all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from quail_lightning.attacks import Texts
from quail_lightning.evaluation.checkpoints import checkpoint_digests, described_precision
from quail_lightning.evaluation.finished import FinishedMetrics
from quail_lightning.evaluation.precision import Precision
from quail_lightning.run.processes import current_processes
from quail_lightning.storage.locks import hold
from quail_lightning.storage.privacy import private_folder

Stores = Mapping[str, FinishedMetrics] | None  # precision → where finished metrics are kept


def baseline_stores(
    root: str | None,
    checkpoint: str,
    target: str,
    precisions: Iterable[Precision],
    dtype: torch.dtype,
    arithmetic: str,
    calibration: Tensor | None,
    texts: Texts,
) -> Stores:
    """Precision → where a checkpoint's finished metrics are kept; None where they are not.

    With several processes nothing is kept: each would look for itself at what is finished, and another run may
    finish something between two looks.

    Args:
        root: folder of all runs that share them; None keeps nothing.
        checkpoint: that is evaluated.
        target: whose tokenizer asks.
        precisions: at which it is evaluated.
        dtype: of the 16-bit copy.
        arithmetic: in what it is computed.
        calibration: [windows, time] tokens that calibrated quantizers see.
        texts: that attacks train on.
    """
    if root is None or current_processes().world_size > 1:
        return None
    folder = Path(root)
    hold(private_folder(folder, folder), f"the folder of baselines {folder}", shared=True)
    shared = {
        "model": checkpoint_digests(checkpoint),
        "target": checkpoint_digests(target),
        "dtype": str(dtype),
        "arithmetic": arithmetic,
    }

    def tokens() -> Tensor:
        assert calibration is not None, "cut where a quantizer needs them"
        return calibration

    return {
        each.name: FinishedMetrics(folder, shared | described_precision(each, texts, tokens))
        for each in precisions
    }
