"""The metrics' names as tables print them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class MetricLabel:
    """How a metric is shown.

    Attributes:
        label: column heading.
        unit: of value and interval; empty for a plain fraction.
        better: which way is good for an unlearned model; ``none`` where the value says nothing by itself.
    """

    label: str
    unit: str
    better: Literal["down", "up", "zero", "one", "none"]

    @property
    def heading(self) -> str:
        """Label with its arrow, such as ``M1 VerMem ↓``."""
        arrow = {"down": " ↓", "up": " ↑", "zero": " → 0", "one": " → 1", "none": ""}[self.better]
        return self.label + arrow


METRICS: Mapping[str, MetricLabel] = MappingProxyType(
    {
        "verbmem_forget": MetricLabel("M1 VerMem", "× 100", "down"),
        "knowmem_forget": MetricLabel("M2 KnowMem", "× 100", "down"),
        "privleak": MetricLabel("M3 PrivLeak", "× 100", "zero"),
        "knowmem_retain": MetricLabel("M4 KnowMem", "× 100", "up"),
        "membership_auc": MetricLabel("Membership AUC", "", "none"),
        "rwku_fb": MetricLabel("RWKU FB", "× 100", "down"),
        "rwku_qa": MetricLabel("RWKU QA", "× 100", "down"),
        "rwku_aa": MetricLabel("RWKU AA", "× 100", "down"),
        "rwku_neighbor_fb": MetricLabel("Neighbor FB", "× 100", "up"),
        "rwku_neighbor_qa": MetricLabel("Neighbor QA", "× 100", "up"),
        "label_accuracy_forget": MetricLabel("Accuracy forget", "× 100", "down"),
        "label_f1_forget": MetricLabel("F1 forget", "× 100", "down"),
        "label_auroc_forget": MetricLabel("AUROC forget", "", "down"),
        "label_accuracy_retain": MetricLabel("Accuracy retain", "× 100", "up"),
        "label_f1_retain": MetricLabel("F1 retain", "× 100", "up"),
        "label_auroc_retain": MetricLabel("AUROC retain", "", "up"),
        "utility_general": MetricLabel("Gen MMLU", "× 100", "up"),
        "utility_truthful": MetricLabel("Tru MC1", "× 100", "up"),
        "utility_factual": MetricLabel("Fac TriviaQA", "× 100", "up"),
        "utility_fluency": MetricLabel("Flu entropy", "bits", "up"),
        "question_f1": MetricLabel("Questions F1", "× 100", "up"),
        "perplexity": MetricLabel("Perplexity", "", "down"),
        "nll_forget": MetricLabel("NLL forget", "nats/token", "up"),
        "nll_retain": MetricLabel("NLL retain", "nats/token", "down"),
        "recovery_verbmem_forget": MetricLabel("Recovery M1", "", "zero"),
        "recovery_knowmem_forget": MetricLabel("Recovery M2", "", "zero"),
        "delivered_forgetting": MetricLabel("Delivered forget", "", "one"),
        "delivered_forgetting_capped": MetricLabel("Delivered capped", "", "one"),
        "delivered_retain": MetricLabel("Delivered retain", "", "none"),
    }
)
"""Metric name → label. All but the survival ratios, the last five, come from the suite."""
