"""Negative preference optimization."""

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
