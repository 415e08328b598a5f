"""RWKU's probes of what a model knows of a person, and of the person's neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import MappingProxyType

from quail_lightning.data.questions import Probe
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.evaluation.metrics.protocol import Asked, MetricLabel, Subject
from quail_lightning.evaluation.rwku import NEW_TOKENS, Scale, published_recall, rougeL_recall, truncate_answer
from quail_lightning.run.results import Measure


class Probes:
    """ROUGE-L recall × 100 of the answers to each kind of probe."""

    name = "probes"
    version = 2
    reads = ("probes",)
    options = ("max_prompts", "rwku_scale")
    by_responses = True
    labels = MappingProxyType(
        {
            "rwku_fb": MetricLabel("RWKU FB", "× 100", "down", "FB", "knowledge"),
            "rwku_qa": MetricLabel("RWKU QA", "× 100", "down", "QA", "knowledge"),
            "rwku_aa": MetricLabel("RWKU AA", "× 100", "down", "AA", "knowledge"),
            "rwku_neighbor_fb": MetricLabel("Neighbor FB", "× 100", "up", "neighbour FB", "utility"),
            "rwku_neighbor_qa": MetricLabel("Neighbor QA", "× 100", "up", "neighbour QA", "utility"),
        }
    )

    def is_asked(self, asked: Asked) -> bool:
        """Whether there are probes."""
        return asked.records.probes is not None

    def problems(self, asked: Asked) -> list[str]:
        """Of the probes' lengths."""
        found: list[str] = []
        for name, probes in (asked.records.probes or {}).items():
            found += asked.length_problems(name, [probe.prompt for probe in probes], NEW_TOKENS)
        return found

    def run(self, subject: Subject) -> dict[str, Measure]:
        """Ask every kind."""
        for name, probes in (subject.records.probes or {}).items():
            chosen = probes[: subject.suite.max_prompts]
            subject.responses(name, partial(self._said, subject, name, chosen))
        return self._scored(subject.log, subject.suite.rwku_scale)

    def from_log(self, log: BenchmarkLog) -> dict[str, Measure]:
        """Of the answers as they stand in the log, on RWKU's own scale."""
        return self._scored(log, "published")

    def _scored(self, log: BenchmarkLog, scale: Scale) -> dict[str, Measure]:
        recall = published_recall if scale == "published" else rougeL_recall
        found = {name: rows for name, rows in log.responses.items() if name in self.labels}
        return {
            name: bootstrap_mean([100 * recall(row.truth, row.response) for row in rows])
            for name, rows in found.items()
        }

    @staticmethod
    def _said(subject: Subject, name: str, probes: Sequence[Probe]) -> Sequence[Response]:
        prompts = [probe.prompt for probe in probes]
        answers = map(truncate_answer, subject.complete(name, prompts, NEW_TOKENS))
        return [Response(p.answer, answer, p.prompt) for p, answer in zip(probes, answers, strict=True)]
