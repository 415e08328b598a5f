"""Relearning: a few steps of training, on some of what was forgotten or on text that has nothing to do with it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from quail_lightning.attacks.protocol import PreTrainedModel, Progress, Texts
from quail_lightning.errors import InputError, check_choice
from quail_lightning.finetuning import Hardware, Optimization, train
from quail_lightning.models.arithmetic import training_precision
from quail_lightning.models.casting import Cast, as_deployed, copy_with, default_rounding

Source = Literal["forget", "retain", "general"]


class Relearn:
    """Trains a copy on windows of text by the step that makes targets and retrained models (``finetuning``).

    The attacker holds float32 master weights and AdamW's moments; the result is cast to the dtype of what was
    deployed, stochastically where that has 16 bits, so that small updates arrive in the mean.

    Args:
        steps: optimizer steps; or
        epochs: passes over the attacker's windows. Exactly one of the two.
        source: ``forget``: text that was to be forgotten; ``retain``, ``general`` (public-domain text of the
            package): benign relearning, on text that has nothing to do with it.
        share: of the source's windows that the attacker has, in (0, 1]: ⌈share · n⌉ of them, drawn by the seed.
        learning_rate: of AdamW, constant.
        batch_size: windows a step.
        clip_norm: largest gradient norm; None does not clip.
        seed: of the windows drawn, of their order and of dropout.

    Raises:
        InputError: steps and epochs, or neither; a number outside its bounds.
    """

    version = 1
    bits_in_memory = 8 * 16  # float32 weights, gradients and two moments

    def __init__(
        self,
        steps: int | None = None,
        epochs: int | None = None,
        source: Source = "forget",
        share: float = 1.0,
        learning_rate: float = 1e-5,
        batch_size: int = 2,
        clip_norm: float | None = 1.0,
        seed: int = 42,
    ) -> None:
        if (steps is None) == (epochs is None):
            raise InputError(
                "relearn: the attack ends after so many steps or epochs, exactly one of the two",
                given={"steps": steps, "epochs": epochs},
            )
        for name, value in {"steps": steps, "epochs": epochs}.items():
            if value is not None and value < 1:
                raise InputError(f"relearn: {name} must be at least 1", given=value)
        if not 0 < share <= 1:
            raise InputError("relearn: share must lie in (0, 1]", given=share, remedy="0.2 is a fifth of the text")
        if clip_norm is not None and not clip_norm > 0:
            raise InputError("relearn: clip_norm must be positive, or null", given=clip_norm)
        check_choice("relearn: source", source, ("forget", "retain", "general"))
        self.steps, self.source, self.share, self.seed = steps, source, share, seed
        self.optimization = Optimization(
            epochs=epochs or 1, learning_rate=learning_rate, batch_size=batch_size, clip_norm=clip_norm
        )

    @property
    def reads(self) -> tuple[str, ...]:
        """The source."""
        return (self.source,)

    def targets(self, model: PreTrainedModel) -> list[str]:
        """See ``Attack.targets``: all weights."""
        return [name for name, _ in model.named_parameters()]

    def attack(self, model: PreTrainedModel, texts: Texts, progress: Progress | None = None) -> PreTrainedModel:
        """See ``Attack.attack``."""
        windows = drawn(texts[self.source], self.share, self.seed)
        batches = math.ceil(len(windows) / self.optimization.batch_size)
        total = self.steps or self.optimization.epochs * batches
        device, dtype = model.device, model.dtype
        hardware = Hardware(device.type, 1 if device.index is None else [device.index])
        callbacks = [] if progress is None else [_Steps(progress, total)]
        with _trainable_within(), isolate_rng():
            torch.manual_seed(self.seed)
            trained = copy_with(model, lambda _, weight: weight.to(torch.float32, copy=True)).requires_grad_()
            precision = training_precision(device)
            given = (trained, windows, self.optimization, precision, self.seed, hardware, callbacks)
            train(*given, alone=True, steps=self.steps)
            torch.nn.Module.to(trained, device)
            cast = Cast(dtype, default_rounding(dtype), self.seed)
            return as_deployed(trained if dtype == torch.float32 else copy_with(trained, cast), dtype)


def drawn(windows: Tensor, share: float, seed: int) -> Tensor:
    """⌈share · n⌉ of the windows, in their order, the same for every model.

    Args:
        windows: [n, time].
        share: in (0, 1].
        seed: of the draw.
    """
    count = math.ceil(share * len(windows))
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))
    return windows[order[:count].sort().values]


class _Steps(Callback):
    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total = progress, total

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._progress(trainer.global_step, self._total)


@contextmanager
def _trainable_within() -> Iterator[None]:
    """Gradients, whatever the evaluation around it has switched off; a Trainer that leaves no trace."""
    rank = getattr(rank_zero_only, "rank", None)  # which a Trainer that works alone sets to 0
    told = logging.getLogger("lightning.pytorch")  # of devices and limits, once for each attack and model
    level = told.level
    told.setLevel(logging.WARNING)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        told.setLevel(level)
        rank_zero_only.rank = rank  # type: ignore[attr-defined]  # a function's own attribute
