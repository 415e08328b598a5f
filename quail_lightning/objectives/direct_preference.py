"""Direct preference optimization as a forget term."""

from __future__ import annotations

import math

from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.functional.preference import direct_preference
from quail_lightning.functional.token_likelihood import counted, log_likelihood, mean_over_real
from quail_lightning.objectives.term import Needs, TermInputs, of_target


class DirectPreference:
    """DPO: prefers an alternate answer to the true one, each compared with the target (Rafailov et al. 2023).

    What the alternates are makes the method (``data.alternates``): sentences that decline make IdkDPO (Maini et
    al. 2024, TOFU), plausible other answers AltPO (Mekala et al. 2024), whose code has this very loss.

    Args:
        beta: inverse temperature, 0.1 in all three papers; larger stops earlier.
        per_token: use the mean log-likelihood of an answer's tokens instead of their sum, so that its length does
            not matter. Not the papers'; β then wants to be larger, by about the tokens of an answer.
    """

    short = "dpo"
    needs = Needs(tokens=(log_likelihood,), frozen=frozenset({"likelihood"}), mean_over="windows", alternate=True)

    def __init__(self, beta: float = 0.1, per_token: bool = False) -> None:
        if not 0 < beta < math.inf:
            raise InputError("DPO's beta must be positive and finite", given=beta)
        self.beta, self.per_token = beta, per_token

    def loss(self, inputs: TermInputs) -> Tensor:
        """Mean over the pairs whose true answer holds a real token."""
        forgotten = self._log_ratio(inputs)
        if inputs.alternate is None:
            raise InputError(
                "DPO compares each answer with an alternate one, and the data gives none",
                remedy="Set data.alternates, such as idk",
            )
        pairs = direct_preference(forgotten, self._log_ratio(inputs.alternate), self.beta)
        return mean_over_real(pairs, inputs.labels, "windows")

    def _log_ratio(self, inputs: TermInputs) -> Tensor:
        ratio = inputs.tokens[0].sum(dim=-1) - of_target(inputs.frozen_likelihood, "DPO").detach()
        return ratio / counted(inputs.labels).sum(dim=-1).clamp(min=1) if self.per_token else ratio
