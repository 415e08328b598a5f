"""Log-likelihood of the true tokens under causal logits."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

IGNORED = -100  # label of a position that no loss counts (the convention of transformers)

Unit = Literal["tokens", "windows", "positions"]
"""What a mean is over: predicted tokens, windows, or positions of hidden states; see ``counted``."""


def widened(logits: Tensor) -> Tensor:
    """At least float32, in which losses are computed whatever multiplied."""
    return logits if logits.dtype == torch.float64 else logits.float()


def token_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """log f(y_t | x, y_<t) of each label.

    Args:
        logits: [..., vocabulary], already aligned: ``logits[i]`` predicts ``labels[i]``.
        labels: [...], ``IGNORED`` where no token is to be predicted.

    Returns:
        [...] natural logarithms, at least float32, 0 where the label is ``IGNORED``.
    """
    flat = torch.nn.functional.cross_entropy(
        widened(logits).flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return -flat.view(labels.shape)


def log_likelihood(logits: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
    """``token_log_likelihood`` as a function of one chunk of tokens; the target is not looked at."""
    return token_log_likelihood(logits, labels)


def counted(labels: Tensor, unit: Unit = "tokens") -> Tensor:
    """Which entries count under a mask of labels.

    ``tokens``: those with a real label. ``windows``: those with a real token. ``positions``: hidden states whose
    own token is real; the first, which nothing predicts, counts as the second does. So a window that is padded on
    the right counts as it would alone, and without a mask every entry does.

    Worked: labels [7, −100, 5] of the tokens after the first → tokens 1 and 3; the window; positions 0, 1 and 3.

    Args:
        labels: [..., time − 1], ``IGNORED`` where nothing is to be predicted.
        unit: what is counted.

    Returns:
        bool: [..., time − 1] for tokens, [...] for windows, [..., time] for positions.
    """
    real = labels != IGNORED
    if unit == "windows":
        return real.any(dim=-1)
    return real if unit == "tokens" else torch.cat([real[..., :1], real], dim=-1)


def mean_over_real(values: Tensor, labels: Tensor, unit: Unit = "tokens") -> Tensor:
    """Mean of ``values``, shaped like ``counted``, over the entries that count; 0 where none does."""
    real = counted(labels, unit)
    return (values * real).sum() / real.sum().clamp(min=1)
