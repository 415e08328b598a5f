"""Negative preference optimization as a forget term."""

from __future__ import annotations

import math

from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.functional.preference import negative_preference
from quail_lightning.functional.token_likelihood import counted, log_likelihood, mean_over_real
from quail_lightning.objectives.term import Needs, TermInputs, of_target


class NegativePreference:
    """NPO: gradient ascent that stops by itself as a sequence is forgotten (Zhang et al. 2024).

    With windows of 2,048 tokens it stops very early: the ratio is that of whole sequences, and a rise of 0.02
    nats a token takes its weight from 1 to 0.03. Beside a retain term it then hardly forgets. At the start its
    gradient is a window's tokens (2,047) times that of GA, which is a mean over tokens: the α of the papers' NPO
    runs, whose code averaged, weighs the retain term far less here.

    Args:
        beta: inverse temperature; the papers' 0.1. Larger stops earlier.
        per_token: use the mean log-likelihood of a window's tokens instead of their sum, so that the window's
            length no longer matters. Not the papers'; β then wants to be some hundred times larger.
    """

    short = "npo"
    needs = Needs(tokens=(log_likelihood,), frozen=frozenset({"likelihood"}), mean_over="windows")

    def __init__(self, beta: float = 0.1, per_token: bool = False) -> None:
        if not 0 < beta < math.inf:
            raise InputError("NPO's beta must be positive and finite", given=beta)
        self.beta, self.per_token = beta, per_token

    def loss(self, inputs: TermInputs) -> Tensor:
        """Mean over the windows that hold a real token."""
        likelihood, reference = inputs.tokens[0].sum(dim=-1), of_target(inputs.frozen_likelihood, "NPO")
        if self.per_token:
            count = counted(inputs.labels).sum(dim=-1).clamp(min=1)
            likelihood, reference = likelihood / count, reference / count
        return mean_over_real(negative_preference(likelihood, reference, self.beta), inputs.labels, "windows")
