"""The metrics of records that only some corpora have: labelled texts (Twitter) and probes (RWKU)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from quail_lightning.data.questions import EvaluationRecords, LabelledTexts
from quail_lightning.errors import InputError
from quail_lightning.evaluation import rwku
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response
from quail_lightning.evaluation.classification import classification_measures, label_scores
from quail_lightning.evaluation.encoding import encode
from quail_lightning.evaluation.generation import check_lengths, generate
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.results import Measure

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Step = Callable[[str], Callable[[int, int], None] | None]  # metric → called with what is done and the total


def further_problems(
    records: EvaluationRecords, tokenizer: PreTrainedTokenizerBase, limit: int | None
) -> list[str]:
    """What these records cannot be judged with.

    Args:
        records: a part that is None is left out.
        tokenizer: the model's.
        limit: the model's positions; None where it has no limit.
    """
    problems: list[str] = []
    for name, probes in (records.probes or {}).items():
        if not probes:
            problems.append(f"{name}: there are no probes")
            continue
        lengths = [len(row) for row in encode(tokenizer, [probe.prompt for probe in probes])]
        try:
            check_lengths(lengths, rwku.NEW_TOKENS, limit)
        except InputError as problem:
            problems.append(f"{name}: {problem}")
    for name, texts in _labelled(records, None).items():
        whole = [prompt + word for prompt in texts.prompts for word in texts.verbalizers]
        longest = max((len(row) for row in encode(tokenizer, whole)), default=0)
        if limit is not None and longest > limit:
            problems.append(
                f"label_accuracy_{name}: the longest text with its label has {longest} tokens, and the model has "
                f"{limit} positions"
            )
    return problems


def further_measures(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: EvaluationRecords,
    batch_size: int | None,
    max_prompts: int | None,
    max_texts: int | None,
    step: Step,
    log: BenchmarkLog | None = None,
) -> dict[str, Measure]:
    """Classification and probes; a part that is None is absent.

    Args:
        model: on its device, at the precision to judge; its mode is left as it was.
        tokenizer: its own.
        records: of the corpus.
        batch_size: prompts or texts at once; None: by free memory.
        max_prompts: the first so many probes of each kind; None: all.
        max_texts: the first so many texts of each labelled set; None: all.
        step: metric's name → progress.
        log: takes in the probes' responses.
    """
    measures: dict[str, Measure] = {}
    for name, probes in (records.probes or {}).items():
        chosen = probes[:max_prompts]
        prompts = [probe.prompt for probe in chosen]
        responses = generate(model, tokenizer, prompts, rwku.NEW_TOKENS, batch_size, step(name))
        answers = map(rwku.truncate_answer, responses)
        said = tuple(Response(p.answer, answer, p.prompt) for p, answer in zip(chosen, answers, strict=True))
        measures[name] = bootstrap_mean([100 * rwku.rougeL_recall(row.truth, row.response) for row in said])
        if log is not None:
            log.responses[name] = said
    for name, texts in _labelled(records, max_texts).items():
        scores = label_scores(model, tokenizer, texts, batch_size, step(f"label_accuracy_{name}"))
        measures |= classification_measures(name, scores, texts.labels)
    return measures


def _labelled(records: EvaluationRecords, most: int | None) -> Mapping[str, LabelledTexts]:
    sets = {"forget": records.forget_labels, "retain": records.retain_labels}
    return {
        name: replace(texts, prompts=texts.prompts[:most], labels=texts.labels[:most])
        for name, texts in sets.items()
        if texts is not None
    }
