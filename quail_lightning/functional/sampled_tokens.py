"""Tokens drawn from the model's own distribution, chunk by chunk."""

from __future__ import annotations

import torch
from torch import Tensor

from quail_lightning.functional.token_likelihood import IGNORED, token_log_likelihood, widened

DRAWS = 2**24  # exact in float32


def draws_like(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers in [0, ``DRAWS``) in the place of the real labels, drawn on the CPU: the same on every device.

    Args:
        labels: int64, ``IGNORED`` where nothing is to be predicted, which stays.
        generator: of the CPU.
    """
    drawn = torch.randint(DRAWS, labels.shape, generator=generator)
    return drawn.to(labels.device).where(labels != IGNORED, IGNORED)


def sampled_log_likelihood(logits: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
    """log p of a token drawn from p, by the inverse of its cumulative distribution.

    Args:
        logits: [..., vocabulary] of p.
        labels: [...] a token's draw, see ``draws_like``: which token it is does not depend on the chunk.
        reference: not read.

    Returns:
        [...] nats, at least float32, 0 where the label is ``IGNORED``; no gradient flows through the choice.
    """
    wide = widened(logits)
    below = wide.detach().softmax(dim=-1).cumsum(dim=-1)
    points = labels.clamp(min=0).unsqueeze(-1) / DRAWS * below[..., -1:]
    tokens = torch.searchsorted(below, points, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
    return token_log_likelihood(wide, tokens.where(labels != IGNORED, IGNORED))
