"""Every membership attack that MUSE logs, from token log-probabilities to the AUC of each pair of splits."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from torch import Tensor

from quail_lightning.evaluation.privleak import auc, min_k, shortest_text

PERCENTS = (5, 10, 20, 30, 40, 50, 60)
ATTACKS = ("PPL", "PPL/lower", "PPL/zlib", *(f"Min-{percent}%" for percent in PERCENTS))
REPORTED = "Min-40%"
"""The attack that M3 is made of."""

SPLITS = ("forget", "retain", "holdout")

Scores = Mapping[str, float]  # attack → score of one text; an attack that the text is too short for is absent


def attack_scores(text: str, likelihoods: Tensor, lowered: Tensor) -> dict[str, float]:
    """Scores of one text, low where the model has memorized it (Shi et al. 2024; MUSE's names and forms).

    Args:
        text: as given.
        likelihoods: [n] log-probabilities of its tokens, nats, at least one.
        lowered: [m] those of the lower-cased text, at least one.

    Returns:
        attack → score. ``PPL`` is the mean token NLL in nats (the published key; not its exponential),
        ``PPL/lower`` its ratio to the lower-cased text's, ``PPL/zlib`` nats per byte of the compressed text,
        ``Min-K%`` see ``min_k``. A Min-K % for which the text is too short is left out.
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
    for split, attack in product(SPLITS, ATTACKS):
        rows = scores.get(split, ())
        values = [row[attack] for row in rows if attack in row and np.isfinite(row[attack])]
        if rows and len(values) == len(rows):
            columns[split, attack] = values
        elif rows:
            notes.append(f"{attack}: {len(rows) - len(values)} of {len(rows)} {split} texts have no score")
    aucs = {}
    for negative, positive, attack in product(SPLITS, SPLITS, ATTACKS):
        if (negative, attack) in columns and (positive, attack) in columns:
            above, below = columns[positive, attack], columns[negative, attack]
            aucs[f"{negative}_{positive}_{attack}"] = auc(-np.array(above), -np.array(below))
    return aucs, notes
