"""M1, verbatim memorization: does the model continue a forget text word by word? And does it repeat itself?"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.evaluation.metrics.protocol import Asked, MetricLabel, Subject
from quail_lightning.evaluation.repetition import repetition
from quail_lightning.evaluation.rouge import rouge_measure
from quail_lightning.evaluation.verbmem import truncate_response, truncate_truths
from quail_lightning.inference.sampling import Sampling
from quail_lightning.run.results import Measure

RESPONSES = "verbmem_forget"


class Verbatim:
    """ROUGE-L F1 × 100 of continuations of forget texts (MUSE), and seq-rep-4 of the same continuations."""

    name = "verbatim"
    version = 2
    reads = ("verbatim",)
    options = ("protocol", "verbmem_new_tokens", "max_prompts", "prompt_end")
    by_responses = True
    labels = MappingProxyType(
        {
            "verbmem_forget": MetricLabel("Verbatim recall", "× 100", "down", "verbatim recall", "knowledge"),
            "repetition_forget": MetricLabel("Repetition", "× 100", "none", "repetition", "sign", "files"),
        }
    )

    def is_asked(self, asked: Asked) -> bool:
        """Whether there are prompts of forget texts."""
        return asked.records.verbatim is not None

    def problems(self, asked: Asked) -> list[str]:
        """Of the prompts' lengths."""
        records = (asked.records.verbatim or ())[: asked.suite.max_prompts]
        prompts = asked.suite.ended(record.prompt for record in records)
        return asked.length_problems("verbmem_forget", prompts, asked.suite.verbmem_new_tokens)

    def run(self, subject: Subject) -> dict[str, Measure]:
        """Generate, cut and score."""
        continuations(subject)
        return self.from_log(subject.log)

    def from_log(self, log: BenchmarkLog) -> dict[str, Measure]:
        """Of the responses as they stand in the log."""
        rows = log.responses.get(RESPONSES, ())
        if not rows:
            return {}
        repeated = bootstrap_mean([repetition(row.response) for row in rows])
        return {"verbmem_forget": rouge_measure(rows), "repetition_forget": repeated}


def continuations(subject: Subject) -> tuple[Response, ...]:
    """Each forget text continued: true and given continuation, both cut as they are scored."""
    suite, tokenizer = subject.suite, subject.tokenizer
    records = (subject.records.verbatim or ())[: suite.max_prompts]
    prompts = suite.ended(record.prompt for record in records)

    def ask() -> Sequence[Response]:
        sampling = Sampling() if suite.protocol == "published" else None
        given = subject.complete("verbmem_forget", prompts, suite.verbmem_new_tokens, sampling=sampling)
        said = [truncate_response(one, record.stops) for one, record in zip(given, records, strict=True)]
        truths = truncate_truths(tokenizer, [record.truth for record in records], suite.verbmem_new_tokens)
        return list(map(Response, truths, said, prompts))

    return subject.responses(RESPONSES, ask)
