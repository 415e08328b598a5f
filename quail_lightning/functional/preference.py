"""Preference optimization: direct, negative and simple."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus


def negative_preference(log_likelihood: Tensor, reference: Tensor, beta: float) -> Tensor:
    """NPO of each sequence: −2/β · log σ(−β · log(f(y|x) / f_target(y|x))).

    Zhang et al. 2024, as used in "Catastrophic Failure ..."; the ratio is that of whole sequences. Its gradient
    is that of gradient ascent times 2·σ(β · log-ratio): 1 at the start, falling to 0 as the sequence is
    forgotten. At 2,047 tokens and β 0.1 a rise of 0.02 nats a token brings it to 0.03.

    Args:
        log_likelihood: [batch] log f(y|x) of the model being unlearned, nats a sequence.
        reference: [batch] log f_target(y|x); no gradient flows into it.
        beta: inverse temperature, 0.1 in the paper.

    Returns:
        [batch]; 2/β · log 2 where both agree, towards 0 as the sequence is forgotten.
    """
    return 2 / beta * softplus(beta * (log_likelihood - reference.detach()))


def simple_preference(mean_log_likelihood: Tensor, beta: float, margin: float) -> Tensor:
    """SimNPO of each sequence: −2/β · log σ(−β/|y| · log f(y|x) − γ).

    Fan et al. 2024, "Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning". Its
    gradient is that of gradient ascent on the mean times 2·σ(β/|y| · log f(y|x) + γ).

    Args:
        mean_log_likelihood: [batch] log f(y|x) / |y| of the model being unlearned, nats a token.
        beta: inverse temperature.
        margin: γ, without unit; larger forgets further.

    Returns:
        [batch], towards 0 as the sequence is forgotten.
    """
    return 2 / beta * softplus(beta * mean_log_likelihood + margin)


def direct_preference(log_ratio: Tensor, alternate_log_ratio: Tensor, beta: float) -> Tensor:
    """DPO of each pair of answers: −2/β · log σ(β · (r(y_w) − r(y_l))), r(y) = log f(y|x) − log f_target(y|x).

    Rafailov et al. 2023, Eq. 7, times 2/β as in the code of AltPO (Mekala et al. 2024) and open-unlearning:
    without y_w it is NPO, and weights beside it mean what they mean there.

    Args:
        log_ratio: [batch] r(y_l) of the answer to be forgotten, nats.
        alternate_log_ratio: [batch] r(y_w) of the answer to be learned in its place, nats.
        beta: inverse temperature.

    Returns:
        [batch]; 2/β · log 2 where both ratios agree, towards 0 as the alternate wins.
    """
    return 2 / beta * softplus(beta * (log_ratio - alternate_log_ratio))
