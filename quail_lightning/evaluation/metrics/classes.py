"""Which label does the model name below a text (Twitter misinformation)?"""

from __future__ import annotations

from dataclasses import replace

from quail_lightning.data.questions import LabelledTexts
from quail_lightning.evaluation.benchmark_log import BenchmarkLog
from quail_lightning.evaluation.classification import classification_measures, label_scores
from quail_lightning.evaluation.metrics.protocol import Asked, MetricLabel, Subject
from quail_lightning.inference.encoding import encode
from quail_lightning.run.results import Measure

CHANCE = 50.0  # of two labels


class Classes:
    """Accuracy, macro-F1 (both × 100) and AUROC of label likelihoods.

    Args:
        side: ``forget`` or ``retain``; ``EvaluationRecords.<side>_labels`` holds the texts.
    """

    version = 1
    options = ("max_texts",)
    by_responses = False

    def __init__(self, side: str) -> None:
        self.name, self._side = f"{side}_labels", side
        self.reads = (self.name,)
        forget = side == "forget"
        better, role = ("down", "knowledge") if forget else ("up", "utility")
        short = "accuracy" if forget else "retain accuracy"
        self.labels = {
            f"label_accuracy_{side}": MetricLabel(
                f"Accuracy {side}",
                "× 100",
                better,  # type: ignore[arg-type]
                short,
                role,  # type: ignore[arg-type]
                "labels",
                floor=CHANCE,
            ),
            f"label_f1_{side}": MetricLabel(f"F1 {side}", "× 100", better, table="labels"),  # type: ignore[arg-type]
            f"label_auroc_{side}": MetricLabel(f"AUROC {side}", "", better, table="labels"),  # type: ignore[arg-type]
        }

    def is_asked(self, asked: Asked) -> bool:
        """Whether there are labelled texts."""
        return getattr(asked.records, self.name) is not None

    def problems(self, asked: Asked) -> list[str]:
        """Texts that do not fit the positions together with a label."""
        texts, limit = self._texts(asked), asked.positions
        whole = [prompt + word for prompt in texts.prompts for word in texts.verbalizers]
        longest = max((len(row) for row in encode(asked.tokenizer, whole)), default=0)
        if limit is None or longest <= limit:
            return []
        return [
            f"label_accuracy_{self._side}: the longest text with its label has {longest} tokens, and the model "
            f"has {limit} positions"
        ]

    def run(self, subject: Subject) -> dict[str, Measure]:
        """Score both labels below every text."""
        texts, step = self._texts(subject), subject.step(f"label_accuracy_{self._side}")
        scores = label_scores(subject.model, subject.tokenizer, texts, subject.suite.batch_size, step)
        return classification_measures(self._side, scores, texts.labels)

    def from_log(self, log: BenchmarkLog) -> dict[str, Measure]:
        """Nothing: MUSE's layout has no place for labels."""
        return {}

    def _texts(self, asked: Asked) -> LabelledTexts:
        texts: LabelledTexts = getattr(asked.records, self.name)
        most = asked.suite.max_texts
        return replace(texts, prompts=texts.prompts[:most], labels=texts.labels[:most])
