"""Extraction strength and exact memorization: how much of a text does the model go on with by itself?"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from quail_lightning.data.questions import Question
from quail_lightning.errors import InputError
from quail_lightning.evaluation.benchmark_log import BenchmarkLog
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.evaluation.metrics.answers import answer_rows
from quail_lightning.evaluation.metrics.protocol import Asked, MetricLabel, Subject
from quail_lightning.inference.encoding import encode
from quail_lightning.inference.likelihood import likeliest_tokens
from quail_lightning.run.results import Measure

STRENGTH, EXACT = "extraction_strength", "exact_memorization"
MOST_TOKENS = 2048  # of a text that is continued, as open-unlearning cuts it
HITS = "hits"


class Memorization:
    """Of the true answers about the forget set (TOFU), or the continuations of forget texts (MUSE); fractions.

    As open-unlearning's ``evals/metrics/memorization.py`` computes them: the model reads prompt and truth, and a
    token of the truth y_1 … y_n is a hit where it is the likeliest after all before it. The text's last token (of
    answers the one that ends them) is no y. Exact memorization is the share of hits. Extraction strength is
    1 − k / n, with k the fewest tokens of the truth after which all the rest are hits, at most n − 1: so it is
    never below 1 / n.
    """

    name = "memorization"
    version = 1
    reads = ("answers", "recited")
    options = ("max_prompts",)
    by_responses = False
    labels = MappingProxyType(
        {
            STRENGTH: MetricLabel("Extraction strength", "", "down", "extraction strength"),
            EXACT: MetricLabel("Exact memorization", "", "down", "exact memorization"),
        }
    )

    def is_asked(self, asked: Asked) -> bool:
        """Whether there are answers about the forget set, or texts to be continued."""
        answers = asked.records.answers
        return (answers is not None and "forget" in answers.sets) or asked.records.recited is not None

    def problems(self, asked: Asked) -> list[str]:
        """Texts without a token that counts."""
        try:
            rows, learned = _texts(asked)
        except InputError as problem:
            return [f"{STRENGTH}: {problem}"]
        if not rows:
            return [f"{STRENGTH}: there are no texts"]
        short = sum(int(own.sum()) < 2 for own in learned)  # the last one is left out
        if short:
            return [f"{STRENGTH}: {short} of {len(rows)} texts have no token after their prompt that counts"]
        return []

    def run(self, subject: Subject) -> dict[str, Measure]:
        """One forward pass over every text."""
        rows, learned = _texts(subject)
        size, step = subject.suite.batch_size, subject.step(STRENGTH)
        found = likeliest_tokens(subject.model, rows, size, step)
        hits = [each[own][:-1].int().tolist() for each, own in zip(found, learned, strict=True)]
        subject.log.scores[STRENGTH] = tuple({HITS: "".join(map(str, each))} for each in hits)
        return self.from_log(subject.log)

    def from_log(self, log: BenchmarkLog) -> dict[str, Measure]:
        """Of the hits as they stand in the log."""
        rows = [str(row.get(HITS, "")) for row in log.scores.get(STRENGTH, ())]
        if not rows:
            return {}
        for number, row in enumerate(rows):
            if not row or set(row) - {"0", "1"}:
                raise InputError(f"{STRENGTH}, record {number} has no {HITS}", allowed="a string of 0 and 1")
        return {
            STRENGTH: bootstrap_mean([extraction_strength(row) for row in rows]),
            EXACT: bootstrap_mean([exact_memorization(row) for row in rows]),
        }


def extraction_strength(hits: str) -> float:
    """1 − k / n, k the fewest leading tokens after which all are hits, at most n − 1; ``0110111`` gives 3/7."""
    return 1 - min(len(hits.rstrip("1")), len(hits) - 1) / len(hits)


def exact_memorization(hits: str) -> float:
    """The share of hits; ``0110111`` gives 5/7."""
    return hits.count("1") / len(hits)


def _texts(asked: Asked) -> tuple[Sequence[Sequence[int]], Sequence[Tensor]]:
    """Every text as token numbers, and which of them after the first belong to the truth."""
    answers, most = asked.records.answers, asked.suite.max_prompts
    if answers is not None and "forget" in answers.sets:
        pairs = [Question(row.question, row.answer) for row in answers.sets["forget"][:most]]
        return answer_rows(asked, pairs, "forget")
    recited = (asked.records.recited or ())[:most]
    prompts = encode(asked.tokenizer, [text.prompt for text in recited])
    whole = encode(asked.tokenizer, [text.prompt + text.truth for text in recited])
    limits = [len(prompt) + MOST_TOKENS for prompt in prompts]
    if asked.positions is not None:
        limits = [min(limit, asked.positions) for limit in limits]
    rows = [row[:limit] for row, limit in zip(whole, limits, strict=True)]
    starts = [max(1, len(prompt)) for prompt in prompts]
    return rows, [torch.arange(1, len(row)) >= start for row, start in zip(rows, starts, strict=True)]
