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
        short: its name in a verdict.
        role: what the verdict takes it for: ``knowledge`` of the forget set, ``utility``, or a ``sign`` by which
            an attacker can see that something was removed.
    """

    label: str
    unit: str
    better: Literal["down", "up", "zero", "one", "none"]
    short: str = ""
    role: Literal["knowledge", "utility", "sign"] | None = None

    @property
    def heading(self) -> str:
        """Label with its arrow, such as ``M1 VerMem ↓``."""
        arrow = {"down": " ↓", "up": " ↑", "zero": " → 0", "one": " → 1", "none": ""}[self.better]
        return self.label + arrow


KNOWN: Mapping[str, MetricLabel] = MappingProxyType(
    {
        "verbmem_forget": MetricLabel("M1 VerMem", "× 100", "down", "M1", "knowledge"),
        "knowmem_forget": MetricLabel("M2 KnowMem", "× 100", "down", "M2", "knowledge"),
        "rwku_fb": MetricLabel("RWKU FB", "× 100", "down", "FB", "knowledge"),
        "rwku_qa": MetricLabel("RWKU QA", "× 100", "down", "QA", "knowledge"),
        "rwku_aa": MetricLabel("RWKU AA", "× 100", "down", "AA", "knowledge"),
        "label_accuracy_forget": MetricLabel("Accuracy forget", "× 100", "down", "accuracy", "knowledge"),
    }
)
"""Scores of what is known of the forget set, which pair for recovery."""

METRICS: Mapping[str, MetricLabel] = MappingProxyType(
    {
        "verbmem_forget": KNOWN["verbmem_forget"],
        "knowmem_forget": KNOWN["knowmem_forget"],
        "privleak": MetricLabel("M3 PrivLeak", "× 100", "zero"),
        "knowmem_retain": MetricLabel("M4 KnowMem", "× 100", "up", "M4", "utility"),
        "membership_auc": MetricLabel("Membership AUC", "", "none", "membership AUC", "sign"),
        "repetition_forget": MetricLabel("Repetition", "× 100", "none", "repetition", "sign"),
        "rwku_fb": KNOWN["rwku_fb"],
        "rwku_qa": KNOWN["rwku_qa"],
        "rwku_aa": KNOWN["rwku_aa"],
        "rwku_neighbor_fb": MetricLabel("Neighbor FB", "× 100", "up", "neighbour FB", "utility"),
        "rwku_neighbor_qa": MetricLabel("Neighbor QA", "× 100", "up", "neighbour QA", "utility"),
        "label_accuracy_forget": KNOWN["label_accuracy_forget"],
        "label_f1_forget": MetricLabel("F1 forget", "× 100", "down"),
        "label_auroc_forget": MetricLabel("AUROC forget", "", "down"),
        "label_accuracy_retain": MetricLabel("Accuracy retain", "× 100", "up", "retain accuracy", "utility"),
        "label_f1_retain": MetricLabel("F1 retain", "× 100", "up"),
        "label_auroc_retain": MetricLabel("AUROC retain", "", "up"),
        "utility_general": MetricLabel("Gen MMLU", "× 100", "up", "Gen", "utility"),
        "utility_truthful": MetricLabel("Tru MC1", "× 100", "up", "Tru", "utility"),
        "utility_factual": MetricLabel("Fac TriviaQA", "× 100", "up", "Fac", "utility"),
        "utility_fluency": MetricLabel("Flu entropy", "bits", "up", "Flu", "utility"),
        "question_f1": MetricLabel("Questions F1", "× 100", "up", "questions", "utility"),
        "perplexity": MetricLabel("Perplexity", "", "down", "perplexity", "utility"),
        "nll_forget": MetricLabel("NLL forget", "nats/token", "up", "NLL", "knowledge"),
        "nll_retain": MetricLabel("NLL retain", "nats/token", "down", "retain NLL", "utility"),
        **{
            f"recovery_{name}": MetricLabel(f"Recovery {known.short}", "", "zero") for name, known in KNOWN.items()
        },
        **{
            f"recovery_{name}_capped": MetricLabel(f"Came back {known.short}", "", "zero")
            for name, known in KNOWN.items()
        },
        "kept_forgetting": MetricLabel("Kept NLL", "", "one"),
        "delivered_forgetting": MetricLabel("Delivered forget", "", "one"),
        "delivered_forgetting_capped": MetricLabel("Delivered capped", "", "one"),
        "delivered_retain": MetricLabel("Delivered retain", "", "none"),
    }
)
"""Metric name → label. All but the survival ratios, from the first recovery on, come from the suite."""
