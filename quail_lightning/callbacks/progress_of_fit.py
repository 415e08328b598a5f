"""How far a fit has come, in the words of Lightning's loops, which have no public names for it."""

from __future__ import annotations

from lightning.pytorch import Trainer


def trained_steps(trainer: Trainer) -> int:
    """Batches that were trained on: the step by which Lightning draws its own curves."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped  # private: global_step counts optimizer steps


def is_epoch_over(trainer: Trainer) -> bool:
    """Whether all batches of the epoch are done; false where max_steps ended it before."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()  # private: the only one that asks the loader


def is_training_over(trainer: Trainer) -> bool:
    """Whether a limit of steps or time has ended the training inside the epoch."""
    return trainer.fit_loop.epoch_loop._is_training_done  # private: the limits themselves are several
