"""How much a response repeats itself: what is left of a model that was driven too far often does nothing else."""

from __future__ import annotations

N = 4


def repetition(response: str) -> float:
    """Share × 100 of a text's word 4-grams that stand in it before (seq-rep-4; Welleck et al. 2020, section 6.1).

    0 for a text of fewer than four words.
    """
    words = response.split()
    grams = [tuple(words[start : start + N]) for start in range(len(words) - N + 1)]
    return 100 * (1 - len(set(grams)) / len(grams)) if grams else 0.0
