"""Who's Harry Potter: the labels that a model would give if it did not know the text."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quail_lightning.data.batch import TokenBatch
from quail_lightning.errors import InputError
from quail_lightning.functional.chunked import head_terms
from quail_lightning.functional.masking import labels_of, token_numbers
from quail_lightning.functional.token_likelihood import IGNORED
from quail_lightning.models.activations import output_head
from quail_lightning.objectives import GradientDescent
from quail_lightning.reference import FrozenOutputs
from quail_lightning.terminal import Bar
from quail_lightning.unlearning.losses import Forward, term_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class GenericLabels:
    """Generic labels of the forget windows (Eldan & Russinovich 2023).

    A copy of the target is trained further on the forget set; what it now predicts more strongly is what belongs
    to the text: v_generic = v − strength · max(0, v_reinforced − v). The argmax of v_generic at each position
    takes the place of the true next token, and ``GradientDescent`` as forget term learns it. Their dictionary of
    names, made by another language model, is left out. The copy takes 16 bytes a parameter while it is trained.

    Attributes:
        epochs: of the reinforced copy, over the forget windows.
        learning_rate: of its AdamW.
        strength: α in their Eq. 1; larger moves the labels further from the text.
    """

    epochs: int = 3
    learning_rate: float = 3e-6
    strength: float = 5.0

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "strength"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} of the generic labels must be positive", given=getattr(self, name))

    def labels(
        self, target: PreTrainedModel, windows: Tensor, forward: Forward, dtype: torch.dtype, batch_size: int
    ) -> Tensor:
        """Train the copy, let it go again, and give [n, time] labels; the first of each window is its own token.

        Masked tokens stay masked, for the copy too.

        Args:
            target: on the training device; unchanged.
            windows: [n, time] of the forget set, masked as in ``functional.masking``.
            forward: the training step's.
            dtype: of the head's product.
            batch_size: windows a step.
        """
        reinforced = self._reinforced(target, windows, forward, dtype, batch_size)
        found = labels_of(windows)
        head = output_head(target)
        for start in range(0, len(windows), batch_size):
            ids = token_numbers(windows[start : start + batch_size]).to(target.device)
            with torch.no_grad():
                states = [forward(model, ids).final[:, :-1].detach() for model in (target, reinforced)]
                flat = states[1].flatten(0, 1)
                other = output_head(reinforced).cast(dtype)

                def generic(logits: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
                    assert reference is not None
                    return (logits - self.strength * (reference - logits).clamp(min=0)).argmax(dim=-1)

                (chosen,) = head_terms(
                    states[0],
                    ids[:, 1:],
                    head,
                    [generic],
                    lambda rows, flat=flat, other=other: other.logits(flat[rows]),  # type: ignore[misc]
                    dtype=dtype,
                )
            labels = found[start : start + batch_size, 1:]
            labels[:] = chosen.to(labels.device).where(labels != IGNORED, labels)
        return found

    def _reinforced(
        self, target: PreTrainedModel, windows: Tensor, forward: Forward, dtype: torch.dtype, batch_size: int
    ) -> PreTrainedModel:
        # float32 whatever the target's weights: bfloat16 would round most of these small updates away
        model = copy.deepcopy(target).float().requires_grad_(True).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.learning_rate, weight_decay=0.0)
        generator = torch.Generator().manual_seed(0)
        passes = [torch.randperm(len(windows), generator=generator) for _ in range(self.epochs)]
        steps = [windows[numbers] for order in passes for numbers in order.split(batch_size)]
        terms = {"forget": GradientDescent()}
        for chosen in Bar(steps, desc="reinforced copy"):
            learned = chosen.to(target.device)
            batch = TokenBatch(token_numbers(learned), labels_of(learned), torch.arange(len(learned)))
            term_losses(model, terms, batch, FrozenOutputs(), forward, dtype)["forget"].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return model.eval().requires_grad_(False)
