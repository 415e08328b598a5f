"""Checkpoints from which a killed run goes on: how they lie on disk, and how they are found."""

from quail_lightning.run.training_state.folders import (
    FOLDER,
    Checkpoint,
    checkpoints_in,
    last_checkpoint,
    newest_run,
)
from quail_lightning.run.training_state.manifest import DamagedError, verify, write_manifest
from quail_lightning.run.training_state.random_states import random_states, restore_random_states
from quail_lightning.run.training_state.tensors_and_json import SafetensorsIO

__all__ = [
    "FOLDER",
    "Checkpoint",
    "DamagedError",
    "SafetensorsIO",
    "checkpoints_in",
    "last_checkpoint",
    "newest_run",
    "random_states",
    "restore_random_states",
    "verify",
    "write_manifest",
]
