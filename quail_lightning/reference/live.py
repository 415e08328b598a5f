"""A second, frozen model that is asked anew in every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from quail_lightning.data.batch import TokenBatch
from quail_lightning.functional.head import Head
from quail_lightning.reference.building import token_likelihoods, window_likelihood
from quail_lightning.reference.protocol import Arithmetic, FrozenOutputs, Request, Side, Sizes
from quail_lightning.run.processes import Processes

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LiveReference:
    """Keep the target in memory: one more model and one more forward pass a step, and exactly the arithmetic of
    the live logits (same batch, same kernels), so that the hinge is exactly flat at step 0."""

    kept_in: Path | None = None

    def __init__(self) -> None:
        self._requests: Mapping[Side, Request] = {}
        self._target: PreTrainedModel | None = None
        self._head: Head | None = None
        self._arithmetic: Arithmetic | None = None

    def check(self, requests: Mapping[Side, Request], sizes: Sizes, dtype: torch.dtype) -> None:
        """Nothing is stored beside the model itself."""

    def prepare(
        self,
        requests: Mapping[Side, Request],
        target: Callable[[], PreTrainedModel],
        identity: Mapping[str, str],
        arithmetic: Arithmetic,
        processes: Processes,
    ) -> None:
        """Copy the target; each process has its own. Arguments as in ``Reference``."""
        self._requests, self._arithmetic = dict(requests), arithmetic
        self._target = arithmetic.copy(target()).requires_grad_(False).eval()
        self._head = arithmetic.head(self._target).cast(arithmetic.dtype)

    def outputs(self, side: Side, batch: TokenBatch) -> FrozenOutputs:
        """What was asked for about the windows of a batch."""
        assert self._target is not None
        assert self._arithmetic is not None
        assert self._head is not None
        request, head = self._requests[side], self._head
        ids = batch.input_ids.to(self._arithmetic.device)
        with torch.no_grad():
            final, layers = self._arithmetic.forward(self._target, ids, request.layers)
            likelihood = None
            if "likelihood" in request.frozen:
                likelihood = window_likelihood(token_likelihoods(final, ids, head), batch.labels.to(ids.device))
        hidden = final[:, :-1].flatten(0, 1).to(head.weight.dtype)
        return FrozenOutputs(
            rows=(lambda rows: head.logits(hidden[rows])) if "logits" in request.frozen else None,
            likelihood=likelihood,
            layers=layers if "layers" in request.frozen else {},
        )
