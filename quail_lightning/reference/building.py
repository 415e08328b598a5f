"""What is taken from the target: its hidden states, likelihoods and layers' outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from quail_lightning.functional.chunked import head_terms
from quail_lightning.functional.head import Head
from quail_lightning.functional.masking import token_numbers
from quail_lightning.functional.token_likelihood import counted, log_likelihood
from quail_lightning.reference.kinds import Kind
from quail_lightning.reference.protocol import Arithmetic, Request, Side

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def token_likelihoods(final: Tensor, input_ids: Tensor, head: Head) -> Tensor:
    """[batch, time − 1] log f of each token but the first, in nats.

    Args:
        final: [batch, time, width] final hidden states.
        input_ids: [batch, time] the tokens.
        head: in the dtype of the product.
    """
    (values,) = head_terms(final[:, :-1], input_ids[:, 1:], head, (log_likelihood,))
    return values


def window_likelihood(tokens: Tensor, labels: Tensor) -> Tensor:
    """[batch] log f(y|x), nats a window: the sum over the tokens that a step predicts of it.

    Args:
        tokens: [batch, time − 1] log f of each.
        labels: [batch, time] the step's, which may ignore some.
    """
    return (tokens * counted(labels[:, 1:])).sum(dim=-1)


class Source(NamedTuple):
    """Where a cache's arrays come from.

    Attributes:
        model: the target; where it is sharded, ``arithmetic`` alone reads it.
        head: the target's, in the dtype of the product.
        kind: what is kept of the logits.
        arithmetic: the training step's.
    """

    model: PreTrainedModel
    head: Head
    kind: Kind
    arithmetic: Arithmetic

    def shard(
        self, side: Side, request: Request, rows: range, advance: Callable[[int], object]
    ) -> dict[str, Tensor]:
        """The arrays of some windows of a set.

        Args:
            side: the set.
            request: what is read of it.
            rows: its windows that are wanted.
            advance: called with the number of windows after each batch.

        Returns:
            ``side.name`` → [windows, ...] in main memory.
        """
        arrays: dict[str, Tensor] = {}
        size = self.arithmetic.batch_size
        for start in range(rows.start, rows.stop, size):
            ids = token_numbers(request.windows[start : min(start + size, rows.stop)]).to(self.arithmetic.device)
            place = slice(start - rows.start, start - rows.start + len(ids))
            for name, part in self._batch(request, ids).items():
                if start == rows.start:
                    shape = (len(rows), *part.shape[1:])
                    arrays[f"{side}.{name}"] = torch.empty(shape, dtype=part.dtype, device="cpu")
                arrays[f"{side}.{name}"][place] = part
            advance(len(ids))
        return arrays

    def _batch(self, request: Request, ids: Tensor) -> dict[str, Tensor]:
        final, layers = self.arithmetic.forward(self.model, ids, request.layers)
        found = {}
        if "logits" in request.frozen:
            found[self.kind.name] = self.kind.kept(final[:, :-1], self.head)
        if "likelihood" in request.frozen:
            found["likelihood"] = token_likelihoods(final, ids, self.head)
        if "layers" in request.frozen:
            found |= {f"layer{layer}": layers[layer] for layer in request.layers}
        return found


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without gradients; its own mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
