"""Lightning's Trainer as most tests want it: on the CPU, silent, writing nothing, without validation."""

from typing import Any

from lightning.pytorch import Trainer

PLAIN: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
}


def plain_trainer(**options: Any) -> Trainer:
    """A Trainer with these options, for the rest ``PLAIN``."""
    return Trainer(**PLAIN | options)
