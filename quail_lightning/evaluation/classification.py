"""Which of two classes does the model name? Accuracy, macro-F1 and AUROC of label likelihoods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from quail_lightning.data.questions import LabelledTexts
from quail_lightning.evaluation.intervals import Floats, bootstrap_mean, percentile_interval, resample_weights
from quail_lightning.inference.encoding import encode
from quail_lightning.inference.likelihood import token_log_likelihoods
from quail_lightning.run.results import Estimate, Measure, Undefined

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RESAMPLES = 2_000  # of the AUROC, whose pairs are many: 1,700 × 1,700 for a split of the Twitter set


def label_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: LabelledTexts,
    batch_size: int | None,
    progress: Callable[[int, int], None] | None = None,
) -> Floats:
    """log p(verbalizer 1 | prompt) − log p(verbalizer 0 | prompt) of each text.

    Each prompt is encoded together with each verbalizer; what both have in common cancels, so only the tokens
    after it are summed.

    Args:
        model: a causal language model; its mode is restored afterwards.
        tokenizer: its own.
        texts: prompts and verbalizers.
        batch_size: texts in one forward pass; None: by free memory.
        progress: called after each batch with the texts done and their total.

    Returns:
        [n] nats; above 0 the model names class 1.
    """
    whole = [prompt + word for prompt in texts.prompts for word in texts.verbalizers]
    encoded = encode(tokenizer, whole)
    likelihoods = token_log_likelihoods(model, tokenizer, whole, batch_size, progress=progress)
    scores = []
    for first in range(0, len(whole), 2):
        pair = encoded[first : first + 2]
        shared = len(list(takewhile(lambda ids: ids[0] == ids[1], zip(*pair, strict=False))))
        sums = [likelihoods[first + side][shared - len(pair[side]) :].double().sum().item() for side in (0, 1)]
        scores.append(sums[1] - sums[0])
    return np.asarray(scores, dtype=np.float64)


def classification_measures(name: str, scores: ArrayLike, labels: Sequence[int]) -> dict[str, Measure]:
    """``label_accuracy_<name>``, ``label_f1_<name>`` (both × 100) and ``label_auroc_<name>`` (fraction).

    Args:
        name: of the set.
        scores: [n], see ``label_scores``; class 1 is named where the score is above 0.
        labels: [n], 0 or 1.
    """
    values, truth = np.asarray(scores, dtype=np.float64).reshape(-1), np.asarray(labels, dtype=np.int64)
    broken = int((~np.isfinite(values)).sum())
    if broken or not values.size:
        nothing = Undefined(f"{broken} of {values.size} texts have no finite score" if broken else "no texts")
        return {f"label_{kind}_{name}": nothing for kind in ("accuracy", "f1", "auroc")}
    named = (values > 0).astype(np.int64)
    return {
        f"label_accuracy_{name}": bootstrap_mean(100.0 * (named == truth)),
        f"label_f1_{name}": macro_f1(named, truth),
        f"label_auroc_{name}": auroc(values, truth),
    }


def macro_f1(named: ArrayLike, labels: ArrayLike) -> Measure:
    """Mean over the classes of 2TP / (2TP + FP + FN), × 100, with its interval.

    A class that neither stands in the labels nor was named does not count.

    Args:
        named: [n], at least one, 0 or 1.
        labels: [n], 0 or 1.
    """
    said, truth = np.asarray(named), np.asarray(labels)
    hits = np.stack([(said == c) & (truth == c) for c in (0, 1)], axis=1).astype(np.float64)
    ones = np.stack([1.0 * (said == c) + (truth == c) for c in (0, 1)], axis=1)  # 2TP + FP + FN
    every = np.full((1, said.size), 1 / said.size)
    pieces = [_mean_f1(weights @ hits, weights @ ones) for (weights,) in resample_weights([said.size])]
    low, high = percentile_interval(np.concatenate(pieces))
    return Estimate(float(_mean_f1(every @ hits, every @ ones)[0]), said.size, low, high)


def auroc(scores: ArrayLike, labels: ArrayLike) -> Measure:
    """Probability that a text of class 1 scores above one of class 0, ties counting half; fraction.

    Undefined where all texts are of one class. The interval resamples each class by itself.

    Args:
        scores: [n] finite.
        labels: [n], 0 or 1.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    positive, negative = values[truth == 1], values[truth == 0]
    if not positive.size or not negative.size:
        return Undefined("all texts are of one class")
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    replicates = [
        ((upper @ wins) * lower).sum(axis=1)
        for upper, lower in resample_weights([positive.size, negative.size], RESAMPLES)
    ]
    low, high = percentile_interval(np.concatenate(replicates))
    return Estimate(float(wins.mean()), values.size, low, high)


def _mean_f1(hits: Floats, ones: Floats) -> Floats:
    """[r, 2] weighted TP and 2TP + FP + FN → [r] mean F1 × 100 over the classes that occur."""
    occurs = ones > 0
    f1 = np.divide(2 * hits, ones, out=np.zeros_like(hits), where=occurs)
    return np.asarray(100 * f1.sum(axis=1) / occurs.sum(axis=1))
