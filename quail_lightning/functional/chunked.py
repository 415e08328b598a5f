"""Losses on the output head that never hold all logits at once.

The logits of a step, [batch · time, vocabulary], are often larger than anything else in it. Here the tokens are
processed in chunks: forward keeps one number a token and function; backward computes each chunk's logits again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from quail_lightning.functional.head import Head

Rows = Callable[[slice], Tensor]
"""Slice of the tokens → [n, vocabulary] logits of the frozen target, without gradient."""

LOGIT_BYTES = {"cpu": 2**24, "cuda": 2**28}  # of one chunk: near a CPU's caches; large products on a GPU
FEWEST_TOKENS, MOST_TOKENS = 64, 4096  # fewer read the whole head for too little work


class TokenFunction(Protocol):
    """A number per token from its logits, differentiable in them."""

    def __call__(self, logits: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
        """[n, vocabulary], [n], [n, vocabulary] or None → [n]."""
        ...


def chunk_tokens(vocabulary: int, width: int, device_type: str = "cpu") -> int:
    """Tokens a chunk: its logits take about ``LOGIT_BYTES``, and no fewer than an eighth of the width, so that
    reading the head [vocabulary, width] for every chunk stays cheap beside the product.
    """
    fitting = LOGIT_BYTES.get(device_type, LOGIT_BYTES["cuda"]) // (4 * vocabulary)
    return min(max(fitting, width // 8, FEWEST_TOKENS), MOST_TOKENS)


def head_terms(
    hidden: Tensor,
    labels: Tensor,
    head: Head,
    functions: Sequence[TokenFunction],
    reference: Rows | None = None,
    *,
    dtype: torch.dtype | None = None,
    tokens: int | None = None,
) -> tuple[Tensor, ...]:
    """Per-token functions of the logits ``head.logits(hidden)``, without ever holding those of all tokens.

    Differentiable once, in ``hidden`` and the head's weight (which may be tied to the embedding) and bias. The
    head's gradient is summed in float32 whatever the dtype of the product.

    Args:
        hidden: [batch, time, width] after the final norm.
        labels: [batch, time] aligned: ``hidden[b, t]`` predicts ``labels[b, t]``.
        head: the output head.
        functions: what to compute; all are computed from the same logits.
        reference: the target's logits of the flattened tokens, if a function reads them.
        dtype: of the matrix products; None: the head's own. The head is cast once, not once a chunk.
        tokens: a chunk; None: by ``chunk_tokens``.

    Returns:
        For each function [batch, time], at least float32.
    """
    compute = dtype or head.weight.dtype
    flat = hidden.reshape(-1, hidden.shape[-1])
    work = _Work(
        labels.reshape(-1),
        tuple(functions),
        reference,
        compute,
        tokens or chunk_tokens(len(head.weight), flat.shape[1], flat.device.type),
        head._replace(weight=head.weight.detach(), bias=None),
    )
    with torch.autocast(flat.device.type, enabled=False):  # the dtype is what was asked for
        values: tuple[Tensor, ...] = _HeadTerms.apply(flat, head.weight, head.bias, work)  # type: ignore[no-untyped-call]  # torch
    return tuple(value.view(labels.shape) for value in values)


class _Work:
    """What stays the same between the two passes and takes no gradient."""

    def __init__(
        self,
        labels: Tensor,
        functions: tuple[TokenFunction, ...],
        reference: Rows | None,
        compute: torch.dtype,
        chunk: int,
        head: Head,
    ) -> None:
        self.labels, self.functions, self.reference = labels, functions, reference
        self.compute, self.chunk, self.head = compute, chunk, head

    def chunks(self) -> Iterator[slice]:
        count = len(self.labels)
        return (slice(start, min(start + self.chunk, count)) for start in range(0, count, self.chunk))

    def values(self, product: Tensor, bias: Tensor | None, rows: slice) -> list[Tensor]:
        logits = self.head._replace(bias=bias).finish(product)
        reference = None if self.reference is None else self.reference(rows)
        return [function(logits, self.labels[rows], reference) for function in self.functions]


class _HeadTerms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, work: _Work) -> tuple[Tensor, ...]:
        ctx.work = work
        ctx.save_for_backward(hidden, weight, bias)
        cast = weight.to(work.compute)
        parts = [work.values(hidden[rows].to(work.compute) @ cast.T, bias, rows) for rows in work.chunks()]
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # Lightning calls backward within the training step's autocast, which is not that of the forward pass
        with torch.autocast(gradients[0].device.type, enabled=False):
            return _HeadTerms._gradients(ctx, *gradients)

    @staticmethod
    def _gradients(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        work: _Work = ctx.work
        hidden, weight, bias = ctx.saved_tensors
        cast = weight.to(work.compute)
        wants_hidden, wants_weight, wants_bias, _ = ctx.needs_input_grad
        summed = torch.float64 if weight.dtype == torch.float64 else torch.float32
        of_hidden = torch.empty_like(hidden) if wants_hidden else None
        of_weight = torch.zeros_like(weight, dtype=summed) if wants_weight else None
        of_bias = torch.zeros_like(bias, dtype=summed) if wants_bias else None
        for rows in work.chunks():
            states = hidden[rows].to(work.compute)
            with torch.enable_grad():
                product = (states @ cast.T).requires_grad_()
                leaf = None if bias is None else bias.detach().requires_grad_()
                values = work.values(product, leaf, rows)
                inputs = [product] if leaf is None else [product, leaf]
                found = torch.autograd.grad(values, inputs, [gradient[rows] for gradient in gradients])
            if of_hidden is not None:
                of_hidden[rows] = (found[0] @ cast).to(hidden.dtype)
            if of_weight is not None:
                _add_product(of_weight, found[0].T, states)
            if of_bias is not None:
                of_bias += found[1]
        return (
            of_hidden,
            None if of_weight is None else of_weight.to(weight.dtype),
            None if of_bias is None else of_bias.to(bias.dtype),
            None,
        )


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left @ right``, in place where the dtypes agree."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
