"""The inverted hinge loss of Cha et al. 2024."""

from __future__ import annotations

import torch
from torch import Tensor

from quail_lightning.functional.token_likelihood import IGNORED


def inverted_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """1 + p(y) − max over v ≠ y of p(v): bounded between 0 and 2, unlike gradient ascent.

    "Towards Robust and Parameter-Efficient Knowledge Unlearning for LLMs", Eq. 4. It moves probability from the
    true token to the most likely other one, and its gradient fades once that one leads by far.

    Args:
        logits: [..., vocabulary], aligned with ``labels``.
        labels: [...]; where ``IGNORED``, the value is meaningless and 0.

    Returns:
        [...] at least float32.
    """
    if logits.dtype != torch.float64:
        logits = logits.float()
    real = labels != IGNORED
    probabilities = logits.softmax(dim=-1)
    index = labels.clamp(min=0).unsqueeze(-1)
    true = probabilities.gather(-1, index).squeeze(-1)
    best_other = probabilities.scatter(-1, index, 0.0).amax(dim=-1)
    return (1 + true - best_other) * real
