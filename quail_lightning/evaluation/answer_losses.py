"""How likely a model finds right and wrong answers, and TOFU's measures of that for one set of questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quail_lightning.evaluation.intervals import Floats, bootstrap_mean
from quail_lightning.run.results import Measure

SETS = ("forget", "retain", "real_authors", "world_facts")
WITH_OPTIONS = SETS[2:]  # probability is of the true answer among the wrong ones
PROBABILITY, ROUGE, TRUTH_RATIO = "answer_probability", "answer_rouge", "truth_ratio"
LOG_RATIO = "log_truth_ratio_forget"
NEW_TOKENS = 200  # of a greedy answer, as TOFU's scripts have it


@dataclass(frozen=True)
class AnswerLosses:
    """What a model finds likely as the answer to one question, ℓ: mean NLL, nats a token of an answer.

    Attributes:
        answer: of the true answer.
        paraphrase: of the true answer in other words; where a set has none, of the answer itself.
        wrong: of each wrong answer; none where the question has none.
    """

    answer: float
    paraphrase: float
    wrong: tuple[float, ...]


def measure_name(kind: str, of: str) -> str:
    """``answer_probability_forget``, ...: a kind of measure and a set."""
    return f"{kind}_{of}"


def probabilities(rows: Sequence[AnswerLosses], with_options: bool) -> Floats:
    """exp(−ℓ(answer)); with options exp(−ℓ(answer)) / (exp(−ℓ(answer)) + Σ exp(−ℓ(wrong))).

    Args:
        rows: of one set.
        with_options: as for real authors and world facts, whose questions all have wrong answers.

    Returns:
        [n], fractions.
    """
    true = np.exp(-np.array([row.answer for row in rows]))
    if not with_options:
        return true
    return np.array(
        [own / (own + np.exp(-np.array(row.wrong)).sum()) for own, row in zip(true, rows, strict=True)]
    )


def log_ratios(rows: Sequence[AnswerLosses]) -> Floats:
    """log R = mean of ℓ(wrong) − ℓ(paraphrase), [n] nats: the mean is of the losses, not of probabilities.

    Args:
        rows: each with a wrong answer.
    """
    return np.array([np.mean(row.wrong) - row.paraphrase for row in rows], dtype=np.float64)


def truth_ratio_scores(rows: Sequence[AnswerLosses], of_forget: bool) -> Floats:
    """Of R = exp(``log_ratios``): min(R, 1/R) of the forget set, max(0, 1 − 1/R) of any other; [n], fractions.

    The first is 1 where paraphrase and wrong answers are equally likely: the truth does not stand out. The second
    is 1 where the truth is much the likelier.
    """
    with np.errstate(over="ignore", divide="ignore"):
        ratio = np.exp(log_ratios(rows))
        return np.minimum(ratio, 1 / ratio) if of_forget else np.maximum(0, 1 - 1 / ratio)


def set_measures(of: str, rows: Sequence[AnswerLosses]) -> dict[str, Measure]:
    """Probability and, of the questions that have wrong answers, truth ratio; of the forget set also log R, of
    which forget quality is made. A set without any wrong answer has a probability alone."""
    found = {measure_name(PROBABILITY, of): bootstrap_mean(probabilities(rows, of in WITH_OPTIONS))}
    if asked := [row for row in rows if row.wrong]:
        found[measure_name(TRUTH_RATIO, of)] = bootstrap_mean(truth_ratio_scores(asked, of == "forget"))
        if of == "forget":
            found[LOG_RATIO] = bootstrap_mean(log_ratios(asked))
    return found
