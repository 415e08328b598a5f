"""Membership attacks, MUSE's and further ones: from token log-probabilities to the AUC of each pair of splits."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from torch import Tensor

from quail_lightning.evaluation.privleak import auc, min_k, shortest_text

PERCENTS = (5, 10, 20, 30, 40, 50, 60)
ATTACKS = ("PPL", "PPL/lower", "PPL/zlib", *(f"Min-{percent}%" for percent in PERCENTS))
PLUS_PLUS = tuple(f"Min-{percent}%++" for percent in PERCENTS)
GRADIENT, REFERENCE = "Gradient norm", "Reference"
FURTHER = (*PLUS_PLUS, GRADIENT, REFERENCE)
"""Attacks that MUSE's logs do not hold."""

REPORTED = "Min-40%"
"""The attack that M3 is made of."""

SPLITS = ("forget", "retain", "holdout")

Scores = Mapping[str, float]  # attack → score of one text; an attack that the text is too short for is absent


def attack_scores(
    text: str, likelihoods: Tensor, lowered: Tensor, z_scores: Tensor | None = None
) -> dict[str, float]:
    """Scores of one text, low where the model has memorized it (Shi et al. 2024; MUSE's names and forms).

    Args:
        text: as given.
        likelihoods: [n] log-probabilities of its tokens, nats, at least one.
        lowered: [m] those of the lower-cased text, at least one.
        z_scores: [n] of its tokens among all words, see ``functional.token_moments``; None leaves Min-K%++ out.

    Returns:
        attack → score. ``PPL`` is the mean token NLL in nats (the published key; not its exponential),
        ``PPL/lower`` its ratio to the lower-cased text's, ``PPL/zlib`` nats per byte of the compressed text,
        ``Min-K%`` see ``min_k``; ``Min-K%++`` (Zhang et al. 2024) is the same of z-scores. A Min-K % for which the
        text is too short is left out.
    """
    nll = float(-likelihoods.double().mean())
    scores = {
        "PPL": nll,
        "PPL/lower": nll / float(-lowered.double().mean()),
        "PPL/zlib": nll / len(zlib.compress(text.encode("utf-8"))),
    }
    for percent in PERCENTS:
        if len(likelihoods) >= shortest_text(percent / 100):
            scores[f"Min-{percent}%"] = min_k(likelihoods, percent / 100)
            if z_scores is not None:
                scores[f"Min-{percent}%++"] = min_k(z_scores, percent / 100)
    return scores


def attack_aucs(scores: Mapping[str, Sequence[Scores]]) -> tuple[dict[str, float], list[str]]:
    """AUC of every ordered pair of splits and every attack, named as in MUSE's ``auc.json``.

    ``forget_holdout_Min-40%`` takes holdout as positive and forget as negative, on the negated scores: 0 where
    the forget set is memorized and the holdout is not.

    Args:
        scores: split → scores of its texts; splits may be missing.

    Returns:
        The AUCs, fractions, and a note for each one that is left out because some text has no finite score.
    """
    columns: dict[tuple[str, str], list[float]] = {}
    notes = []
    known = {attack for rows in scores.values() for row in rows for attack in row}
    attacks = (*ATTACKS, *(attack for attack in FURTHER if attack in known))
    for split, attack in product(SPLITS, attacks):
        rows = scores.get(split, ())
        values = [row[attack] for row in rows if attack in row and np.isfinite(row[attack])]
        if rows and len(values) == len(rows):
            columns[split, attack] = values
        elif rows:
            notes.append(f"{attack}: {len(rows) - len(values)} of {len(rows)} {split} texts have no score")
    aucs = {}
    for negative, positive, attack in product(SPLITS, SPLITS, attacks):
        if (negative, attack) in columns and (positive, attack) in columns:
            above, below = columns[positive, attack], columns[negative, attack]
            aucs[f"{negative}_{positive}_{attack}"] = auc(-np.array(above), -np.array(below))
    return aucs, notes
