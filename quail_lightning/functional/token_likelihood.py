"""Log-likelihood of the true tokens under causal logits."""

from __future__ import annotations

import torch
from torch import Tensor

IGNORED = -100  # label of a position that no loss counts (the convention of transformers)


def token_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """log f(y_t | x, y_<t) of each label.

    Args:
        logits: [..., vocabulary], already aligned: ``logits[i]`` predicts ``labels[i]``.
        labels: [...], ``IGNORED`` where no token is to be predicted.

    Returns:
        [...] natural logarithms, at least float32, 0 where the label is ``IGNORED``.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    flat = torch.nn.functional.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return -flat.view(labels.shape)


def log_likelihood(logits: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
    """``token_log_likelihood`` as a function of one chunk of tokens; the target is not looked at."""
    return token_log_likelihood(logits, labels)


def mean_over_real(values: Tensor, labels: Tensor) -> Tensor:
    """Mean of ``values`` [...] over the positions whose label is a real token; 0 where there are none."""
    real = labels != IGNORED
    return (values * real).sum() / real.sum().clamp(min=1)
