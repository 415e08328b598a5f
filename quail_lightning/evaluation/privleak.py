"""M3, privacy leakage: can an attacker tell that the forget set was trained on, or that it was forgotten?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchmetrics import Metric

from quail_lightning.errors import InputError
from quail_lightning.evaluation.intervals import percentile_interval, resample_weights
from quail_lightning.evaluation.record_order import in_record_order
from quail_lightning.run.results import Estimate, Measure, Undefined

FEWEST, LEAST_AUC = 50, 0.2  # texts of both sides, and a retrained AUC, from which PrivLeak means something
FLOOR = 0.01
FRACTION = 0.4  # Min-40 %, MUSE's choice for the reported figure

PUBLISHED_AUC_RETRAIN: Mapping[str, float] = MappingProxyType(
    {"muse-bench/muse-news_target": 0.4772, "muse-bench/muse-books_target": 0.5393}
)
"""Min-40 % AUC (holdout against forget) of MUSE's own retrained models, by the target they belong to.

They hold for MUSE's 7B models alone. Another model, another size or a target that was trained anew has its own
retrained AUC, which must be measured: PrivLeak against a foreign constant means nothing. Keys are lower-case."""


def published_auc_retrain(target: str | None) -> float | None:
    """The published AUC_retrain, where it may serve; None where it must be measured.

    Args:
        target: where the target came from, as its provenance names it. Only MUSE's own repositories count
            (``muse-bench/MUSE-News_target``); a local path proves nothing about what it holds.
    """
    return None if target is None else PUBLISHED_AUC_RETRAIN.get(target.casefold())


def min_k(log_likelihoods: Tensor, fraction: float = FRACTION) -> float:
    """Min-K % score of a text: the negated mean of its lowest ⌊fraction·n⌋ token log-probabilities.

    Shi et al. 2024, as MUSE computes it. Low for a text that the model has memorized.

    Args:
        log_likelihoods: [n] nats.
        fraction: share of the tokens, in (0, 1].

    Returns:
        nats.

    Raises:
        InputError: ⌊fraction·n⌋ is 0.
    """
    count = int(len(log_likelihoods) * fraction)
    if count == 0:
        raise InputError(
            f"a text of {len(log_likelihoods)} tokens is too short for Min-{100 * fraction:g} %",
            allowed=f"at least {shortest_text(fraction)} tokens",
            remedy="Leave the text out",
        )
    return float(-log_likelihoods.double().sort().values[:count].mean())


def shortest_text(fraction: float = FRACTION) -> int:
    """Tokens (without BOS) that a text must have for Min-K % to take at least one of them."""
    count = 1
    while int(count * fraction) == 0:
        count += 1
    return count


def auc(positive_scores: ArrayLike, negative_scores: ArrayLike) -> float:
    """Share of (positive, negative) pairs in which the positive scores higher, ties counting one half.

    Args:
        positive_scores: [p], at least one.
        negative_scores: [n], at least one.

    Returns:
        fraction in [0, 1], exact.
    """
    return float(_wins(positive_scores, negative_scores).mean())


def membership_auc(forget: ArrayLike, holdout: ArrayLike, resamples: int = 9_999, seed: int = 0) -> Measure:
    """AUC of holdout (positive) against forget (negative) on the negated Min-K % scores.

    A memorized forget set has the lower scores, so the higher negated ones, and drives the AUC to 0; one that
    is strangely unlikely drives it to 1.

    Args:
        forget: [f] Min-K % scores, nats.
        holdout: [h] likewise.
        resamples: of the bootstrap, which draws forget and holdout texts each by themselves.
        seed: of its own generator.

    Returns:
        fraction with its interval, n the texts of both; undefined where a side is empty or not finite.
    """
    positive, negative = -_floats(holdout), -_floats(forget)
    for name, values in (("holdout", positive), ("forget", negative)):
        if values.size == 0:
            return Undefined(f"no {name} texts")
        broken = int((~np.isfinite(values)).sum())
        if broken:
            return Undefined(f"{broken} of {values.size} {name} texts have no finite score")
    wins = _wins(positive, negative)
    replicates = [
        ((upper @ wins) * lower).sum(axis=1)
        for upper, lower in resample_weights([positive.size, negative.size], resamples, seed)
    ]
    low, high = percentile_interval(np.concatenate(replicates))
    return Estimate(float(wins.mean()), positive.size + negative.size, low, high)


def privleak(auc_model: float, auc_retrain: float) -> float:
    """(AUC − AUC_retrain) / AUC_retrain × 100 (MUSE Eq. 3): 0 like retraining, −100 where all is remembered.

    Args:
        auc_model: of the unlearned model, fraction.
        auc_retrain: of the retrained model, fraction in (0, 1].

    Raises:
        InputError: ``auc_retrain`` lies outside (0, 1].
    """
    if not 0 < auc_retrain <= 1:
        raise InputError(
            "AUC_retrain must lie in (0, 1]", given=auc_retrain, remedy="Measure it on the retrained model"
        )
    return (auc_model - auc_retrain) / auc_retrain * 100


def privleak_measure(auc_model: Measure, auc_retrain: float | Estimate) -> Measure:
    """PrivLeak × 100 with an interval that carries the uncertainty of both AUCs.

    The interval of the ratio is made from those of its parts by MOVER-R (Donner and Zou 2012); a constant
    AUC_retrain, a number, counts as exact.

    The figure carries a caution, and tables show the AUC in its place, below ``FEWEST`` texts, at an AUC_retrain
    under ``LEAST_AUC``, by which PrivLeak divides, and at one too uncertain for a ratio to have bounds: then the
    interval is the widest that both AUCs allow, down to an AUC_retrain of ``FLOOR``. Undefined where the AUC is,
    and where AUC_retrain is 0.
    """
    if isinstance(auc_model, Undefined):
        return auc_model
    if not isinstance(auc_retrain, Estimate):
        auc_retrain = Estimate(auc_retrain, 0, auc_retrain, auc_retrain)
    if auc_retrain.value == 0:
        return Undefined("the retrained model's AUC is 0")
    cautions = []
    if auc_model.n < FEWEST:
        cautions.append(f"{auc_model.n} texts, fewer than {FEWEST}")
    if auc_retrain.value < LEAST_AUC:
        cautions.append(f"the retrained model's AUC is {auc_retrain.value:.2f}, less than {LEAST_AUC}")
    if 0 < auc_retrain.low <= auc_retrain.high < 2 * auc_retrain.value:
        low, high = _ratio_interval(auc_model, auc_retrain)
    else:
        low, high = auc_model.low / auc_retrain.high, auc_model.high / max(auc_retrain.low, FLOOR)
        cautions.append(
            f"the retrained model's AUC lies anywhere from {auc_retrain.low:.2f} to {auc_retrain.high:.2f}"
        )
    value, caution = privleak(auc_model.value, auc_retrain.value), "; ".join(cautions)
    return replace(auc_model, value=value, low=100 * (low - 1), high=100 * (high - 1), caution=caution)


def _ratio_interval(above: Estimate, below: Estimate) -> tuple[float, float]:
    """Bounds of above / below from the bounds of both; those of ``below`` lie between 0 and twice its value."""
    product = above.value * below.value
    under, over = (bound * (2 * below.value - bound) for bound in (below.high, below.low))
    low = product - math.sqrt(max(0.0, product**2 - above.low * (2 * above.value - above.low) * under))
    high = product + math.sqrt(max(0.0, product**2 - above.high * (2 * above.value - above.high) * over))
    return low / under, high / over


class MembershipAUC(Metric):
    """AUC of the membership attack over Min-K % scores, reducible across processes.

    ``compute`` gives the scalar that a logger takes; ``estimate`` gives the measure with its interval.

    Args:
        sync_on_compute: gather the processes' scores; every process must then call.
    """

    full_state_update = False
    is_differentiable = False
    forget: list[Tensor] | Tensor
    forget_index: list[Tensor] | Tensor
    holdout: list[Tensor] | Tensor
    holdout_index: list[Tensor] | Tensor

    def __init__(self, sync_on_compute: bool = True) -> None:
        super().__init__(sync_on_compute=sync_on_compute)
        # one dtype for all states: torchmetrics fills in an empty tensor of it for a process without texts
        self.set_dtype(torch.float64)
        for name in ("forget", "forget_index", "holdout", "holdout_index"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, split: str, scores: Sequence[float], index: Sequence[int]) -> None:
        """Take in the scores of some texts.

        Args:
            split: ``forget`` or ``holdout``.
            scores: Min-K % score of each text, nats.
            index: number of each text within its split.
        """
        assert split in ("forget", "holdout")
        assert len(scores) == len(index)
        getattr(self, split).append(torch.tensor(scores, dtype=torch.float64, device=self.device))
        getattr(self, f"{split}_index").append(torch.tensor(index, dtype=torch.float64, device=self.device))

    def compute(self) -> Tensor:
        """The AUC, fraction; NaN where a side has no text."""
        forget, holdout = self._scores()
        if not len(forget) or not len(holdout):
            return torch.tensor(torch.nan)
        return torch.tensor(auc(-holdout.numpy(), -forget.numpy()), dtype=torch.float64)

    def estimate(self) -> Measure:
        """The AUC, fraction, with its interval."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self.sync_on_compute):
            forget, holdout = self._scores()
        return membership_auc(forget.numpy(), holdout.numpy())

    def _scores(self) -> tuple[Tensor, Tensor]:
        return (
            in_record_order(self.forget_index, self.forget),
            in_record_order(self.holdout_index, self.holdout),
        )


def _floats(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64).reshape(-1)


def _wins(positive: ArrayLike, negative: ArrayLike) -> NDArray[np.float64]:
    """[p, n]: 1 where the positive scores higher, ½ where they tie, 0 elsewhere."""
    above, below = _floats(positive)[:, None], _floats(negative)[None, :]
    return (above > below) + 0.5 * (above == below)
