"""Forget terms that learn what a model would say without the true token."""

from __future__ import annotations

import math

from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.functional.distillation import lowered_distillation, similar_label_likelihood
from quail_lightning.functional.token_likelihood import mean_over_real
from quail_lightning.objectives.term import Needs, TermInputs, of_target


def _without_true_token(logits: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
    return lowered_distillation(logits, labels, logits, math.inf)


class CrossEntropyUnlearning:
    """CE-U: learns the model's own distribution without the true token (Yang 2025, Cross Entropy Unlearning).

    −Σ_k q_k log p_k with q = softmax(z, z_true = −∞), made anew in each step without gradient. Bounded below, and
    its gradient p − q fades with the true token's probability. That the authors leave out an answer's first token
    is a matter of labels and not done here.
    """

    short = "ceu"
    needs = Needs(tokens=(_without_true_token,))

    def loss(self, inputs: TermInputs) -> Tensor:
        """Mean over the real tokens, in nats."""
        return mean_over_real(inputs.tokens[0], inputs.labels)


class AdjustedDistillation:
    """UNDIAL: learns the frozen target's distribution with the true token's logit lowered (Dong et al. 2024).

    −Σ_k q_k log p_k with q = softmax(z_target − β · onehot(true token)). The goal stands still, so that training
    converges; the least loss is q's entropy.

    Args:
        strength: β in logits, open-unlearning's 10; larger leaves less of the true token.
    """

    short = "undial"

    def __init__(self, strength: float = 10.0) -> None:
        if not 0 < strength < math.inf:
            raise InputError("UNDIAL's strength must be a positive number of logits", given=strength)
        self.strength = strength

    @property
    def needs(self) -> Needs:
        """The cross-entropy of every token, which reads the target's logits."""
        return Needs(tokens=(self._distillation,), frozen=frozenset({"logits"}))

    def loss(self, inputs: TermInputs) -> Tensor:
        """Mean over the real tokens, in nats."""
        return mean_over_real(inputs.tokens[0], inputs.labels)

    def _distillation(self, logits: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
        return lowered_distillation(logits, labels, of_target(reference, "UNDIAL"), self.strength)


def _similar_label(logits: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
    return similar_label_likelihood(logits, labels, of_target(reference, "the similar labels"))


class SimilarLabels:
    """Q-MUL's similar labels: learns the most probable wrong token (Tong et al. 2025).

    "Robust Machine Unlearning for Quantized Neural Networks via Adaptive Gradient Reweighting with Similar Labels"
    gives each image the wrong class most alike to the model. Here each token of the forget text becomes the
    one that the frozen target scores highest beside the true one, so that labels stand still while they are
    learned. The gradient reweighting is not here: separate steps are clipped each by itself.
    """

    short = "similar"
    needs = Needs(tokens=(_similar_label,), frozen=frozenset({"logits"}))

    def loss(self, inputs: TermInputs) -> Tensor:
        """Mean negative log-likelihood of the similar labels, in nats a token."""
        return -mean_over_real(inputs.tokens[0], inputs.labels)
