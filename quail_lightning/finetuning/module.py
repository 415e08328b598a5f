"""Plain causal-LM training, one step of it: targets, retrained models, relearning."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.functional.masking import labels_of, token_numbers, without_common_padding
from quail_lightning.functional.token_likelihood import mean_over_real, token_log_likelihood

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Optimization:
    """How a model is trained on windows. The defaults are MUSE's for targets and retrained models.

    Attributes:
        epochs: passes over the windows.
        learning_rate: peak of the schedule.
        batch_size: windows a step.
        schedule: ``constant``, or ``cosine``: linear warm-up over a tenth of the steps, then a cosine to 0.
        clip_norm: largest gradient norm; None does not clip.
        stop_at_nll: end as soon as the mean NLL of the last epoch's worth of steps is this low, nats a token;
            for targets that are to know their text only in part. None trains all epochs.
        weight_decay: AdamW's, decoupled, of matrices alone; biases and norms do not decay.
    """

    epochs: int = 5
    learning_rate: float = 1e-5
    batch_size: int = 2
    schedule: Literal["constant", "cosine"] = "constant"
    clip_norm: float | None = 1.0
    stop_at_nll: float | None = None
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "batch_size"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be positive", given=getattr(self, name))
        if not 0 <= self.weight_decay < math.inf:
            raise InputError("weight_decay must be a finite number of at least 0", given=self.weight_decay)


class FinetuningModule(LightningModule):
    """Next-token training with AdamW; of question–answer pairs what ``data.loss_on`` says.

    Args:
        model: a causal language model with float32 weights.
        optimization: see there.
    """

    def __init__(self, model: PreTrainedModel, optimization: Optimization) -> None:
        super().__init__()
        self.model, self.optimization = model, optimization
        self._recent: deque[float] = deque()

    def on_fit_start(self) -> None:
        self.model.train()

    def on_train_start(self) -> None:
        self._recent = deque(maxlen=int(self.trainer.num_training_batches))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        windows = without_common_padding(batch[0])
        logits = self.model(input_ids=token_numbers(windows), use_cache=False).logits
        labels = labels_of(windows)[:, 1:]
        loss = -mean_over_real(token_log_likelihood(logits[:, :-1], labels), labels)
        self.log("NLL", loss, prog_bar=True)
        self._recent.append(loss.item())
        goal = self.optimization.stop_at_nll
        if goal is not None and len(self._recent) == self._recent.maxlen and fmean(self._recent) <= goal:
            self.trainer.should_stop = True
        return loss

    def configure_optimizers(self) -> Any:
        flat = [parameter for parameter in self.parameters() if parameter.ndim < 2]
        matrices = [parameter for parameter in self.parameters() if parameter.ndim >= 2]
        decayed: dict[str, Any] = {"params": matrices, "weight_decay": self.optimization.weight_decay}
        groups = [decayed, {"params": flat}] if flat else [decayed]
        optimizer = torch.optim.AdamW(groups, lr=self.optimization.learning_rate, weight_decay=0.0)
        if self.optimization.schedule == "constant":
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = max(1, steps // 10)

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
