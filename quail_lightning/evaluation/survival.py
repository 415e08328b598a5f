"""Does the forgetting survive quantization? Ratios of paired differences, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from quail_lightning.errors import InputError
from quail_lightning.evaluation.intervals import (
    Floats,
    bootstrap_mean,
    bootstrap_of_means,
    bootstrap_ratio,
    of_bounds,
    quotient,
)
from quail_lightning.evaluation.metrics import MEMBERSHIP_AUCS, labels
from quail_lightning.run.results import Estimate, Measure, Undefined

ROUNDING = 1e-3  # nats a token: the NLLs of one model by one process and by two differ less


def recovery(
    unlearned_quantized: Measure,
    unlearned_16bit: Measure,
    target_quantized: Measure,
    target_16bit: Measure | None = None,
) -> Measure:
    """How much of the forgotten came back: (M_uq − M_u16) / (M_tq − M_u16), for M1 and M2.

    0: nothing came back. 1: the quantized unlearned model knows as much as the equally quantized target.

    Args:
        unlearned_quantized: M of the unlearned model at the format (M_uq), with per-record scores.
        unlearned_16bit: at 16 bits (M_u16), over the same records.
        target_quantized: the target at the format (M_tq), over the same records.
        target_16bit: the target at 16 bits; decides whether anything was forgotten at all. Without it only the
            denominator is evaluated.

    Returns:
        fraction with its paired bootstrap interval. Undefined where the target's lead over the unlearned model,
        at 16 bits or at the format, is not above zero by its interval.

    Raises:
        InputError: the measures do not hold scores of the same records.
    """
    given = [unlearned_quantized, unlearned_16bit, target_quantized]
    series = _paired([*given, target_16bit] if target_16bit is not None else given)
    if isinstance(series, Undefined):
        return series
    unlearned_q, unlearned_16, target_q = series[:3]
    if target_16bit is not None and not _above_zero(series[3] - unlearned_16):
        return Undefined("target and unlearned model do not differ at 16 bits: nothing was forgotten")
    if not _above_zero(target_q - unlearned_16):
        return Undefined("the quantized target knows no more than the unlearned model at 16 bits")
    return bootstrap_ratio(unlearned_q - unlearned_16, target_q - unlearned_16)


def recovery_capped(
    unlearned_quantized: Measure,
    unlearned_16bit: Measure,
    target_quantized: Measure,
    target_16bit: Measure,
    retrained_quantized: Measure,
    retrained_16bit: Measure,
    *,
    attacked: bool = False,
) -> Measure:
    """``recovery`` beyond ignorance: what the equally precise retrained model scores too has not come back.

    (max(M_uq, M_rq) − max(M_u16, M_r16)) / (M_tq − max(M_u16, M_r16)). A destroyed model that returns to what one
    scores that never saw the text has brought nothing back: published GA_GDR, 0.0 → 25.0 with the retrained model
    at 20.8 and the target at 34.2, gives 0.31 where ``recovery`` gives 0.73. The maxima are of the means: a single
    answer may be right by chance.

    Args:
        unlearned_quantized: M_uq, with per-record scores.
        unlearned_16bit: M_u16, over the same records.
        target_quantized: M_tq.
        target_16bit: decides, as for ``recovery``, whether anything was forgotten at all.
        retrained_quantized: of the retrained model at the format (M_rq), over the same records.
        retrained_16bit: at 16 bits (M_r16).
        attacked: the format comes after an attack, which may teach the retrained model something, too. What it
            then scores (M_rq) is no return either: both maxima are also over M_rq.

    Returns:
        as ``recovery``; undefined also where the target knows no more than the retrained model.

    Raises:
        InputError: the measures do not hold scores of the same records.
    """
    bare = recovery(unlearned_quantized, unlearned_16bit, target_quantized, target_16bit)
    given = [unlearned_quantized, unlearned_16bit, target_quantized, retrained_quantized, retrained_16bit]
    series = _paired(given)
    if isinstance(bare, Undefined):
        return bare
    if isinstance(series, Undefined):
        return series
    if not _above_zero(series[2] - series[4]):
        return Undefined("the quantized target knows no more than the retrained model")
    return bootstrap_of_means(series, partial(_beyond_ignorance, attacked))


def _beyond_ignorance(attacked: bool, u_q: Floats, u_16: Floats, t_q: Floats, r_q: Floats, r_16: Floats) -> Floats:
    start = np.maximum(u_16, np.maximum(r_16, r_q) if attacked else r_16)
    lead = t_q - start
    return quotient(np.maximum(u_q, r_q) - start, np.maximum(lead, 0))


def membership_return(
    unlearned_quantized: Measure,
    unlearned_16bit: Measure,
    target_quantized: Measure,
    target_16bit: Measure,
    retrained_quantized: Measure,
    retrained_16bit: Measure,
    *,
    attacked: bool = False,
) -> Measure:
    """``recovery_capped`` of a membership AUC, which is the lower the more a model gives away.

    (min(A_u16, A_r16) − min(A_uq, A_rq)) / (min(A_u16, A_r16) − A_tq). An AUC is no mean over records: the
    interval is the widest that those of the AUCs allow.

    Args:
        unlearned_quantized: A_uq.
        unlearned_16bit: A_u16.
        target_quantized: A_tq.
        target_16bit: decides whether there was anything to forget.
        retrained_quantized: A_rq.
        retrained_16bit: A_r16.
        attacked: see ``recovery_capped``.

    Returns:
        fraction; undefined where the 16-bit target's interval does not lie below the unlearned model's (nothing
        was forgotten that this attack could tell), or the quantized target's not below the retrained model's.
    """
    given = (unlearned_quantized, unlearned_16bit, target_quantized, retrained_quantized, retrained_16bit)
    for measure in (*given, target_16bit):
        if isinstance(measure, Undefined):
            return measure
    known = [measure for measure in given if isinstance(measure, Estimate)]
    assert isinstance(target_16bit, Estimate)
    if target_16bit.high >= known[1].low:
        return Undefined("by this attack target and unlearned model do not differ at 16 bits")
    if known[2].high >= known[4].low:
        return Undefined("by this attack the quantized target does not differ from the retrained model")

    def returned(*areas: Floats) -> Floats:
        return _beyond_ignorance(attacked, *(-area for area in areas))

    return of_bounds(known, returned)


def kept_forgetting(
    unlearned_quantized: Measure,
    unlearned_16bit: Measure,
    target_16bit: Measure,
    retrained_quantized: Measure | None = None,
    retrained_16bit: Measure | None = None,
    *,
    attacked: bool = False,
) -> Measure:
    """Share of the 16-bit rise in NLL that quantization leaves: 1 − max(0, N_u16 − N_uq) / (N_u16 − N_t16).

    Only a fall of the unlearned model's own NLL counts as return, so what quantization does to the target decides
    nothing. With the retrained model given, every N_u is first capped, window by window, at the equally precise
    retrained model's: what is unlikelier than to a model that never saw it is forgotten, no more.

    Args:
        unlearned_quantized: NLLs of the forget windows at the format (N_uq), nats per token, with their scores.
        unlearned_16bit: at 16 bits (N_u16), over the same windows.
        target_16bit: of the target (N_t16).
        retrained_quantized: of the retrained model at the format; None, like the next: nothing is capped.
        retrained_16bit: of the retrained model at 16 bits.
        attacked: the format comes after an attack, which may teach the retrained model something, too: N_u16 is
            capped at what that has afterwards as well.

    Returns:
        fraction, at most 1, with its paired bootstrap interval; undefined where the interval of the (capped) rise
        is not wholly above zero: then nothing was forgotten.

    Raises:
        InputError: the measures do not hold scores of the same windows.
    """
    given = [unlearned_quantized, unlearned_16bit, target_16bit]
    caps = [cap for cap in (retrained_quantized, retrained_16bit) if cap is not None]
    series = _paired([*given, *caps] if len(caps) == 2 else given)
    if isinstance(series, Undefined):
        return series
    quantized, whole, target = series[:3]
    if len(caps) == 2:
        whole = np.minimum(whole, np.minimum(series[3], series[4]) if attacked else series[4])
        quantized = np.minimum(quantized, series[3])
        if attacked and not _above_zero(np.minimum(series[3], series[4]) - target):
            return Undefined("after the attack the retrained model knows as much as the target did")
    if not _above_zero(whole - target, ROUNDING):
        return Undefined("the NLL did not rise at 16 bits beyond its interval: nothing was forgotten")
    return bootstrap_of_means([whole - quantized, whole - target], _left)


def _left(fall: Floats, rise: Floats) -> Floats:
    return 1 - quotient(np.maximum(fall, 0), np.maximum(rise, 0))


def delivered_forgetting(
    unlearned_quantized: Measure,
    target_quantized: Measure,
    unlearned_16bit: Measure,
    target_16bit: Measure,
    retrained_16bit: Measure | None = None,
) -> Measure:
    """Share of the 16-bit NLL rise that is there after quantization: (N_uq − N_tq) / (N_u16 − N_t16).

    1: the forgetting survives. 0: quantization rolled it back. On retain windows the same ratio tells what
    quantization does to the utility lost.

    NLL has no upper bound, so one window that was driven far beyond ignorance can carry the ratio. With the
    retrained model given, every NLL is first capped, window by window, at the retrained model's: what is
    unlikelier than to a model that never saw it counts as forgotten, no more. The target is capped as well, so
    that a window which the retrained model finds easier than the target does counts 0 on both sides of the
    fraction.

    Args:
        unlearned_quantized: NLLs of the unlearned model at the format (N_uq), nats per token, with per-window
            scores.
        target_quantized: of the target at the format (N_tq), over the same windows.
        unlearned_16bit: of the unlearned model at 16 bits (N_u16).
        target_16bit: of the target at 16 bits (N_t16).
        retrained_16bit: of the retrained model at 16 bits; None: nothing is capped.

    Returns:
        fraction with its paired bootstrap interval; undefined where the interval of the (capped) 16-bit rise
        contains zero, or comes within rounding of it.

    Raises:
        InputError: the measures do not hold scores of the same windows.
    """
    given = [unlearned_quantized, target_quantized, unlearned_16bit, target_16bit]
    series = _paired([*given, retrained_16bit] if retrained_16bit is not None else given)
    if isinstance(series, Undefined):
        return series
    if retrained_16bit is not None:
        series = [np.minimum(values, series[4]) for values in series[:4]]
    unlearned_q, target_q, unlearned_16, target_16 = series
    rise = bootstrap_mean(unlearned_16 - target_16)
    if isinstance(rise, Undefined):
        return rise
    if rise.low <= ROUNDING and rise.high >= -ROUNDING:
        return Undefined(
            "the 16-bit NLL rise is within its interval, or rounding, of zero "
            f"({rise.low:.3g} … {rise.high:.3g} nats per token)"
        )
    return bootstrap_ratio(unlearned_q - target_q, unlearned_16 - target_16)


def survival_measures(
    unlearned_quantized: Mapping[str, Measure],
    unlearned_16bit: Mapping[str, Measure],
    target_quantized: Mapping[str, Measure],
    target_16bit: Mapping[str, Measure],
    retrained_quantized: Mapping[str, Measure] | None = None,
    retrained_16bit: Mapping[str, Measure] | None = None,
    *,
    attacked: bool = False,
) -> dict[str, Measure]:
    """All ratios for every metric that the models have, under the names of ``METRICS``.

    Args:
        unlearned_quantized: metric name → measure, as the suite returns them.
        unlearned_16bit: likewise, and so on; all over the same records.
        target_quantized: at the format.
        target_16bit: at 16 bits.
        retrained_quantized: at the format; without it, what is capped is absent or bare.
        retrained_16bit: at 16 bits.
        attacked: the format comes after an attack.

    Raises:
        InputError: the measures do not hold scores of the same records.
    """
    four = (unlearned_quantized, unlearned_16bit, target_quantized, target_16bit)
    retrained = (retrained_quantized or {}, retrained_16bit or {})
    measures: dict[str, Measure] = {}
    for name in (name for name, label in labels(unlearned_quantized).items() if label.pairs):
        if all(name in metrics for metrics in four):
            given = [metrics[name] for metrics in four]
            measures[f"recovery_{name}"] = recovery(*given)
            if all(name in metrics for metrics in retrained):
                caps = [metrics[name] for metrics in retrained]
                measures[f"recovery_{name}_capped"] = recovery_capped(*given, *caps, attacked=attacked)
    for name in MEMBERSHIP_AUCS:
        if all(name in metrics for metrics in (*four, *retrained)):
            six = [metrics[name] for metrics in (*four, *retrained)]
            measures[f"recovery_{name}_capped"] = membership_return(*six, attacked=attacked)
    for name, ratio in (("nll_forget", "delivered_forgetting"), ("nll_retain", "delivered_retain")):
        if all(name in metrics for metrics in four):
            unlearned_q, unlearned_16, target_q, target_16 = (metrics[name] for metrics in four)
            measures[ratio] = delivered_forgetting(unlearned_q, target_q, unlearned_16, target_16)
            if name == "nll_forget":
                retrained_q, retrained_16 = (metrics.get(name) for metrics in retrained)
                measures["kept_forgetting"] = kept_forgetting(
                    unlearned_q, unlearned_16, target_16, retrained_q, retrained_16, attacked=attacked
                )
                if retrained_16 is not None:
                    measures[f"{ratio}_capped"] = delivered_forgetting(
                        unlearned_q, target_q, unlearned_16, target_16, retrained_16
                    )
    return measures


def _paired(measures: list[Measure]) -> list[Floats] | Undefined:
    """[n] scores of each measure, or the reason of the first that has none."""
    series = []
    for measure in measures:
        if isinstance(measure, Undefined):
            return measure
        series.append(np.array(measure.scores))
    lengths = [len(values) for values in series]
    if len(set(lengths)) != 1 or lengths[0] == 0:
        raise InputError(
            "a paired comparison needs per-record scores of the same records",
            given=lengths,
            remedy="Evaluate every model with the same records and the same limits",
        )
    return series


def _above_zero(differences: Floats, beyond: float = 0.0) -> bool:
    mean = bootstrap_mean(differences)
    return isinstance(mean, Estimate) and mean.low > beyond
