"""RWKU's probes: fill in the blank (FB), question and answer (QA), adversarial attack (AA), by ROUGE-L recall."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

NEW_TOKENS = 30  # RWKU's length of an answer
STOPS = ("\n",)  # where RWKU ends an answer


@cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


def truncate_answer(response: str) -> str:
    """The response's first line; empty where it begins with a line break, as RWKU's generation ends there."""
    return response.partition(STOPS[0])[0].strip()


def rougeL_recall(answer: str, response: str) -> float:
    """Words of the answer's longest common subsequence with the response, as a share of the answer's words.

    Words as for M1: runs of letters and digits, lower-cased. (RWKU's code takes another package, which counts each
    different word once and keeps the case.)

    Returns:
        fraction in [0, 1]; 0 for an empty response.
    """
    return float(_scorer().score(answer, response)["rougeL"].recall)
