"""What TOFU (Maini et al. 2024) makes of the figures of its four sets: model utility and forget quality."""

from __future__ import annotations

from collections.abc import Mapping
from math import comb

import numpy as np

from quail_lightning.evaluation.answer_losses import LOG_RATIO, PROBABILITY, ROUGE, SETS, TRUTH_RATIO, measure_name
from quail_lightning.evaluation.intervals import Floats, percentile_interval, resample_weights
from quail_lightning.run.results import Estimate, Measure, Undefined

KEPT = SETS[1:]  # what model utility is made of
UTILITY, QUALITY = "model_utility", "forget_quality"
SIGNIFICANT = 0.05  # below it TOFU calls two models different


def utility_parts() -> list[str]:
    """The nine measures of model utility."""
    return [measure_name(kind, of) for of in KEPT for kind in (ROUGE, PROBABILITY, TRUTH_RATIO)]


def model_utility(measures: Mapping[str, Measure]) -> Measure | None:
    """Harmonic mean of the nine; 0 as soon as one of them is 0, and None where one was not measured.

    The interval is a bootstrap of all records: those of a set are drawn together for its three measures.
    """
    given = [measures.get(name) for name in utility_parts()]
    if any(measure is None for measure in given):
        return None
    series = []
    for name, measure in zip(utility_parts(), given, strict=True):
        if not isinstance(measure, Estimate):
            return Undefined(f"{name} has no value")
        series.append(np.array(measure.scores))
    sizes = [len(series[3 * number]) for number in range(len(KEPT))]
    if any(len(values) != sizes[number // 3] for number, values in enumerate(series)):
        return Undefined("the measures of a set are of different questions")
    replicates = np.concatenate(
        [
            _harmonic(np.stack([weights[number // 3] @ values for number, values in enumerate(series)]))
            for weights in resample_weights(sizes)
        ]
    )
    value = _harmonic(np.array([[values.mean()] for values in series]))
    return Estimate(float(value[0]), sum(sizes), *percentile_interval(replicates))


def forget_quality(unlearned: Measure, retrained: Measure) -> Measure:
    """p-value of the two-sample Kolmogorov–Smirnov test between two models' R of the forget set.

    Near 1: nothing tells the two apart. Below 0.05 they differ; which way, the p-value does not say. It falls with
    the number of records: figures of different numbers do not compare.

    Args:
        unlearned: ``log_truth_ratio_forget`` of the model in question, with its scores.
        retrained: of the model that was never trained on the forget set.

    Returns:
        The p-value (fraction), exact where scipy has it so, with a bootstrap interval of its large-sample form.
        A resample repeats records and so differs a little more: the interval lies low, and is widened to hold the
        value. Undefined where a model has no finite ratios, or no outcome of so few records could differ.
    """
    from scipy.stats import ks_2samp, kstwo

    for measure in (unlearned, retrained):
        if isinstance(measure, Undefined):
            return Undefined(f"no truth ratios: {measure.reason}")
    assert isinstance(unlearned, Estimate)
    assert isinstance(retrained, Estimate)
    sides = [np.exp(np.array(each.scores)) for each in (unlearned, retrained)]
    if smallest := too_few(*map(len, sides)):
        return Undefined(smallest)
    value = float(ks_2samp(*sides).pvalue)
    pooled = np.concatenate(sides)
    order = np.argsort(pooled, kind="stable")
    last = np.append(np.diff(pooled[order]) > 0, True)  # of equal ratios
    first = len(sides[0])
    apart = []
    for drawn in _drawn_together(*map(len, sides)):
        signed = np.concatenate([drawn[0], -drawn[-1]], axis=1)[:, order]
        apart.append(np.abs(signed.cumsum(axis=1)[:, last]).max(axis=1))
    counted = round(first * len(sides[1]) / len(pooled))
    distances, places = np.unique(np.clip(np.concatenate(apart), 0, 1).round(12), return_inverse=True)
    low, high = percentile_interval(kstwo.sf(distances, counted)[places])
    return Estimate(value, min(map(len, sides)), min(low, value), max(high, value))


def too_few(first: int, second: int) -> str:
    """Why a KS test of so many records cannot tell anything; empty where it can.

    The smallest p-value of n against m records is 2 / C(n + m, n): with four each 0.029, with three each 0.1.
    """
    if not first or not second or 2 / comb(first + second, first) >= SIGNIFICANT:
        return (
            f"{first} and {second} records are too few for the KS test: "
            f"no outcome would be below {SIGNIFICANT}; four of each are the least"
        )
    return ""


def derived_measures(
    measures: Mapping[str, Measure], retrained: Mapping[str, Measure] | None
) -> dict[str, Measure]:
    """Model utility and, beside an equally precise retrained model, forget quality; empty for other benchmarks.

    Args:
        measures: of one model at one precision.
        retrained: of the retrained model; None: there is none.
    """
    found: dict[str, Measure] = {}
    if (utility := model_utility(measures)) is not None:
        found[UTILITY] = utility
    if LOG_RATIO in measures and LOG_RATIO in (retrained or {}):
        assert retrained is not None
        found[QUALITY] = forget_quality(measures[LOG_RATIO], retrained[LOG_RATIO])
    return found


def _harmonic(parts: Floats) -> Floats:
    """[nine, r] → [r]."""
    with np.errstate(divide="ignore"):
        return len(parts) / (1 / parts).sum(axis=0)


def _drawn_together(first: int, second: int) -> list[list[Floats]]:
    """Resamples of both sides: of the same records where both have as many, each by itself otherwise."""
    return list(resample_weights([first] if first == second else [first, second]))
