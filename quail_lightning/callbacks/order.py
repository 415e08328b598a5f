"""What a callback needs to stand before or after all others, in whatever order they were given."""

from __future__ import annotations

from lightning.pytorch import Callback, Trainer


def run_first(trainer: Trainer, callback: Callback) -> None:
    """Let a callback's hooks run before those of all others, from the next hook on; to be called in ``setup``."""
    _reorder(trainer, [callback, *_others(trainer, callback)])


def run_last(trainer: Trainer, callback: Callback) -> None:
    """Let a callback's hooks run after those of all others, from the next hook on; to be called in ``setup``."""
    _reorder(trainer, [*_others(trainer, callback), callback])


def _others(trainer: Trainer, callback: Callback) -> list[Callback]:
    return [each for each in trainer.callbacks if each is not callback]  # type: ignore[attr-defined]


def _reorder(trainer: Trainer, callbacks: list[Callback]) -> None:
    trainer.callbacks = callbacks  # type: ignore[attr-defined]  # a new list: Lightning walks through the old one
