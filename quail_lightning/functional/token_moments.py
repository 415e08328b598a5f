"""How likely a token is beside what the model expects there: mean and variance of log-probabilities."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from quail_lightning.functional.token_likelihood import widened

LEAST_VARIANCE = 1e-6  # of a distribution with one word in it; open-unlearning's bound
LEAST = -1e30
LEAST_LOGIT = -1e4  # below the largest: its probability is 0, and 0 · −∞ would be none


def standardized(logits: Iterable[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
    """log p(y_t) of each label, and its z-score under the distribution that it was drawn from.

    z = (log p(y) − μ) / σ with μ = Σ_v p(v) log p(v) and σ² = Σ_v p(v) (log p(v) − μ)² (Zhang et al. 2024,
    Min-K%++), σ² at least ``LEAST_VARIANCE``. The words come in pieces of which one is held at a time: the sums of
    e^(z − m), (z − m) e^(z − m) and (z − m)² e^(z − m) are moved to a new maximum m as it is found.

    Args:
        logits: pieces [tokens, words] of the vocabulary, in its order.
        labels: [tokens] token numbers.

    Returns:
        [tokens] nats and [tokens] standard deviations, at least float32.
    """
    sums: tuple[Tensor, Tensor, Tensor] | None = None
    largest = picked = torch.empty(0)
    start = 0
    for raw in logits:
        piece = widened(raw)
        inside = (labels >= start) & (labels < start + piece.shape[1])
        found = piece.gather(1, (labels - start).clamp(0, piece.shape[1] - 1)[:, None])[:, 0]
        start += piece.shape[1]
        maximum = piece.amax(1).clamp(min=LEAST)  # of words that cannot be
        if sums is None:
            largest, sums, picked = maximum, _sums(piece, maximum), found
            continue
        picked = torch.where(inside, found, picked)
        new = torch.maximum(largest, maximum)
        moved = (_moved(sums, largest - new), _moved(_sums(piece, maximum), maximum - new))
        largest, sums = new, tuple(left + right for left, right in zip(*moved, strict=True))  # type: ignore[assignment]
    assert sums is not None, "a vocabulary has words"
    mass, first, second = sums
    mean = first / mass  # of the logits, beside the largest one
    variance = (second / mass - mean**2).clamp(min=LEAST_VARIANCE)
    beside = picked - largest
    return beside - mass.log(), (beside - mean) / variance.sqrt()


def _sums(piece: Tensor, largest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    beside = (piece - largest[:, None]).clamp_(min=LEAST_LOGIT)
    weight = beside.exp()
    first = weight * beside
    return weight.sum(1), first.sum(1), (first * beside).sum(1)


def _moved(sums: tuple[Tensor, Tensor, Tensor], by: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums about one maximum as sums about another, ``by`` below it: e^by, and (z − m') = (z − m) + by."""
    mass, first, second = sums
    by = by.clamp(min=LEAST_LOGIT)
    factor = by.exp()
    return mass * factor, (first + by * mass) * factor, (second + 2 * by * first + by**2 * mass) * factor
