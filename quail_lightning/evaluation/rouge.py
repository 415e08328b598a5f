"""ROUGE-L F1, the score of M1, M2 and M4, and the other ROUGE scores that MUSE logs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchmetrics import Metric

from quail_lightning.evaluation.benchmark_log import Response
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.evaluation.record_order import in_record_order
from quail_lightning.run.results import Measure

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


ROUGE_SCORES = ("rougeL", "rougeL_recall", "rouge1", "rouge1_recall")
"""What MUSE logs of each response: F1 and recall of the longest common subsequence and of single words."""


@cache
def _scorer(*kinds: str) -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(kinds), use_stemmer=False)


def rougeL_f1(truth: str, response: str) -> float:
    """ROUGE-L F1 of a response against the truth, without stemming (Lin 2004; MUSE's scorer).

    Words are runs of letters and digits, lower-cased. With L the length of the longest common subsequence,
    P = L / response words, R = L / truth words, F1 = 2PR / (P + R).

    Returns:
        fraction in [0, 1]; 0 where either text has no word.
    """
    return float(_scorer("rougeL").score(truth, response)["rougeL"].fmeasure)


def rouge_scores(truth: str, response: str) -> dict[str, float]:
    """Every score that MUSE logs, by the names of ``ROUGE_SCORES``; fractions.

    An empty response shares no word with the truth, so all its scores are 0: it is counted, not dropped.
    """
    scores = _scorer("rougeL", "rouge1").score(truth, response)
    return {
        name: float(getattr(scores[name.removesuffix("_recall")], "recall" if "recall" in name else "fmeasure"))
        for name in ROUGE_SCORES
    }


def rouge_measure(rows: Sequence[Response]) -> Measure:
    """Mean ROUGE-L F1 × 100 of responses, each counted whole, with its interval and the scores in their order."""
    metric = RougeLF1(sync_on_compute=False)
    metric.update([row.response for row in rows], [row.truth for row in rows], range(len(rows)))
    return metric.estimate()


class RougeLF1(Metric):
    """Mean ROUGE-L F1 × 100 over records, reducible across processes.

    ``compute`` gives the scalar that a logger takes; ``estimate`` gives the measure with n, interval and
    per-record scores. (torchmetrics refuses a frozen dataclass as what ``compute`` returns.)

    Args:
        sync_on_compute: gather the processes' records; every process must then call.
    """

    full_state_update = False
    is_differentiable = False
    scores: list[Tensor] | Tensor
    index: list[Tensor] | Tensor

    def __init__(self, sync_on_compute: bool = True) -> None:
        super().__init__(sync_on_compute=sync_on_compute)
        # one dtype for both states: torchmetrics fills in an empty tensor of it for a process without records
        self.set_dtype(torch.float64)
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("index", default=[], dist_reduce_fx="cat")

    def update(self, responses: Sequence[str], truths: Sequence[str], index: Sequence[int]) -> None:
        """Score some records.

        Args:
            responses: what the model said.
            truths: the reference of each, in the same order.
            index: number of each record within its set.
        """
        scores = [100 * rougeL_f1(truth, response) for truth, response in zip(truths, responses, strict=True)]
        assert len(scores) == len(index)
        assert isinstance(self.scores, list)
        assert isinstance(self.index, list)
        self.scores.append(torch.tensor(scores, dtype=torch.float64, device=self.device))
        self.index.append(torch.tensor(index, dtype=torch.float64, device=self.device))

    def compute(self) -> Tensor:
        """The mean, × 100; NaN without records."""
        return in_record_order(self.index, self.scores).mean()

    def estimate(self) -> Measure:
        """The mean, × 100, with its interval; ``scores`` in the records' order."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self.sync_on_compute):
            return bootstrap_mean(in_record_order(self.index, self.scores).numpy())
