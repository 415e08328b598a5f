from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from quail_lightning.data.questions import (
    EvaluationRecords,
    MembershipTexts,
    Question,
    QuestionSet,
    VerbatimPrompt,
)
from quail_lightning.errors import InputError
from quail_lightning.evaluation.benchmark_log import BenchmarkLog
from quail_lightning.evaluation.metrics import METRICS, labels
from quail_lightning.evaluation.rescoring import score_log
from quail_lightning.evaluation.suite import EvaluationSuite
from quail_lightning.inference.likelihood import token_log_likelihoods
from quail_lightning.run.results import Estimate

ASKED = QuestionSet((Question("Who?", "Ann"), Question("Where is it?", "Rome")), (Question("When?", "1999"),))
RECORDS = EvaluationRecords(
    verbatim=(VerbatimPrompt("It was a dark", " and stormy night"), VerbatimPrompt("Call me", " Ishmael")),
    forget_questions=ASKED,
    membership=MembershipTexts(("forget one", "forget two"), ("retain",), ("holdout one", "h two", "h three")),
    retain_questions=ASKED,
)
SUITE = EvaluationSuite(batch_size=2, verbmem_new_tokens=16, knowmem_new_tokens=6)
WINDOWS = {
    "forget": torch.randint(2, 258, (3, 12), generator=torch.Generator().manual_seed(0)),
    "retain": torch.randint(2, 258, (4, 12), generator=torch.Generator().manual_seed(1)),
}


def answers_by(monkeypatch: pytest.MonkeyPatch, generate: Callable[..., list[str]]) -> None:
    monkeypatch.setattr("quail_lightning.evaluation.metrics.protocol.generate", generate)


def test_everything_the_records_allow_is_run_and_named(model: Any, tokenizer: Any) -> None:
    state, seen = torch.random.get_rng_state(), set[str]()
    result = SUITE.evaluate(
        model, tokenizer, RECORDS, WINDOWS, auc_retrain=0.5, progress=lambda name, done, total: seen.add(name)
    )
    expected = {
        "verbmem_forget": 2,
        "repetition_forget": 2,
        "knowmem_forget": 2,
        "knowmem_retain": 2,
        "nll_forget": 3,
        "nll_retain": 4,
    }
    assert set(result) == {*expected, "membership_auc", "privleak"}
    assert set(result) <= set(labels())
    for name, n in expected.items():
        measure = result[name]
        assert isinstance(measure, Estimate)
        assert len(measure.scores) == measure.n == n
        assert measure.value == pytest.approx(np.mean(measure.scores))
    area, leak = result["membership_auc"], result["privleak"]
    assert isinstance(area, Estimate)
    assert isinstance(leak, Estimate)
    assert area.n == 5
    assert leak.value == pytest.approx(200 * area.value - 100)
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert seen >= {"verbmem_forget", "nll_retain"}


def test_what_was_not_run_is_absent(model: Any, tokenizer: Any) -> None:
    assert SUITE.evaluate(model, tokenizer, EvaluationRecords(), {}) == {}
    partly = replace(RECORDS, verbatim=None, forget_questions=None)
    result = SUITE.evaluate(model, tokenizer, partly, {"forget": WINDOWS["forget"]})
    assert set(result) == {"knowmem_retain", "membership_auc", "nll_forget"}


def test_limits_take_the_first_records(model: Any, tokenizer: Any) -> None:
    suite = replace(SUITE, max_prompts=1, max_texts=2)
    limited = suite.evaluate(model, tokenizer, RECORDS, {})
    whole = SUITE.evaluate(model, tokenizer, RECORDS, {})
    for name in ("verbmem_forget", "knowmem_forget", "knowmem_retain"):
        one, all_of_them = limited[name], whole[name]
        assert isinstance(one, Estimate)
        assert isinstance(all_of_them, Estimate)
        assert one.scores == all_of_them.scores[:1]
    assert isinstance(limited["membership_auc"], Estimate)
    assert limited["membership_auc"].n == 4


def test_a_model_that_repeats_the_truth_scores_100(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recite(model: Any, tokenizer: Any, prompts: list[str], *args: Any, **options: Any) -> list[str]:
        known = {record.prompt: record.truth for record in RECORDS.verbatim or ()}
        answers = {
            f"Question: {pair.question}\nAnswer: ": f"{pair.answer}\n\nQuestion:" for pair in ASKED.questions
        }
        return [
            known.get(prompt) or answers["Question: " + prompt.rsplit("Question: ", 1)[1]] for prompt in prompts
        ]

    answers_by(monkeypatch, recite)
    suite = replace(SUITE, verbmem_new_tokens=128)
    result = suite.evaluate(model, tokenizer, replace(RECORDS, membership=None), {})
    for name in ("verbmem_forget", "knowmem_forget", "knowmem_retain"):
        measure = result[name]
        assert isinstance(measure, Estimate)
        assert measure.value == pytest.approx(100)


def test_all_misfits_are_told_at_once_before_anything_runs(model: Any, tokenizer: Any) -> None:
    model.forward = None  # would fail if called
    records = EvaluationRecords(
        verbatim=(VerbatimPrompt("x" * 300, "y"),),
        forget_questions=QuestionSet((), ()),
        membership=MembershipTexts(("a", "long enough"), (), ()),
    )
    windows = {"forget": torch.zeros(1, 300, dtype=torch.long), "retain": torch.full((1, 9), 9_999)}
    with pytest.raises(InputError) as caught:
        SUITE.evaluate(model, tokenizer, records, windows)
    for part in (
        "verbmem_forget: 1 of 1 prompts",
        "knowmem_forget: there are no prompts",
        "1 of 2 forget texts are too short",
        "no holdout texts",
        "nll_forget: the windows have 300 tokens",
        "nll_retain: token 9999",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("field", ["batch_size", "max_prompts", "knowmem_new_tokens"])
def test_sizes_below_one_are_refused(field: str) -> None:
    with pytest.raises(InputError, match=field):
        EvaluationSuite(**{field: 0})


def test_importing_the_metrics_loads_no_transformers_of_its_own_and_no_rouge() -> None:
    # torchmetrics (and so lightning.pytorch.cli) imports transformers by itself where it is installed
    code = (
        "import sys, torchmetrics; before = set(sys.modules); import quail_lightning.evaluation; "
        "print([name for name in set(sys.modules) - before if name.startswith(('transformers', 'rouge', 'nltk'))])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_all_attacks_on_all_splits_fill_the_log_and_leave_m3_as_it_was(model: Any, tokenizer: Any) -> None:
    only = replace(RECORDS, verbatim=None, forget_questions=None, retain_questions=None)
    short, full = BenchmarkLog(), BenchmarkLog()
    reported = SUITE.evaluate(model, tokenizer, only, {}, log=short)
    everything = replace(SUITE, attacks="all").evaluate(model, tokenizer, only, {}, log=full)
    assert {name: everything[name] for name in reported} == reported
    assert everything.keys() - reported.keys() == {"auc_loss", "auc_zlib", "auc_min_k_plus_plus"}
    assert short.membership is not None
    assert full.membership is not None
    assert {split: len(rows) for split, rows in full.membership.items()} == {
        "forget": 2,
        "retain": 1,
        "holdout": 3,
    }
    assert {split: len(rows) for split, rows in short.membership.items()} == {"forget": 2, "holdout": 3}
    row = full.membership["retain"][0]
    text = RECORDS.membership.retain[0] if RECORDS.membership else ""
    likelihoods, lowered = token_log_likelihoods(model, tokenizer, [text, text.lower()])
    assert row["PPL"] == pytest.approx(-likelihoods.mean().item(), rel=1e-5)
    assert row["PPL/lower"] == pytest.approx((likelihoods.mean() / lowered.mean()).item(), rel=1e-5)


def test_the_log_holds_what_was_scored(model: Any, tokenizer: Any) -> None:
    log = BenchmarkLog()
    result = SUITE.evaluate(model, tokenizer, RECORDS, {}, log=log)
    assert log.responses["knowmem_retain"][1].truth == "Rome"
    assert log.responses["verbmem_forget"][0].prompt == "It was a dark"
    scored = score_log(log, None)
    for name in ("verbmem_forget", "knowmem_forget", "knowmem_retain", "membership_auc"):
        assert scored.measures[name] == result[name]


def test_the_published_protocol_draws_m1_and_nothing_else(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, Any]] = []

    def noted(
        model: Any, tokenizer: Any, prompts: list[str], tokens: int, *args: Any, **options: Any
    ) -> list[str]:
        asked.append((tokens, options.get("sampling")))
        return [""] * len(prompts)

    answers_by(monkeypatch, noted)
    only = replace(RECORDS, membership=None)
    replace(SUITE, protocol="published").evaluate(model, tokenizer, only, {})
    SUITE.evaluate(model, tokenizer, only, {})
    assert [tokens for tokens, _ in asked] == [16, 6, 6] * 2
    assert [sampling and sampling.temperature for _, sampling in asked] == [0.9, None, None, None, None, None]


@pytest.mark.parametrize(("end", "left"), [("published", " "), ("word", "")])
def test_the_space_at_a_prompts_end_is_left_to_the_continuation_where_that_is_asked_for(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, end: Any, left: str
) -> None:
    asked: list[str] = []

    def listen(model: Any, tokenizer: Any, prompts: list[str], *args: Any, **options: Any) -> list[str]:
        asked.extend(prompts)
        return [" Rome" for _ in prompts]

    answers_by(monkeypatch, listen)
    records = EvaluationRecords(
        verbatim=(VerbatimPrompt("It was a dark ", "and stormy night"),),
        forget_questions=ASKED,
        retain_questions=ASKED,
    )
    suite = replace(SUITE, prompt_end=end)
    result = suite.evaluate(model, tokenizer, records, {})
    assert len(asked) == 5
    assert all(re.search(f"(dark|Answer:){left}$", prompt) for prompt in asked)
    assert isinstance(result["knowmem_forget"], Estimate)
    assert result["knowmem_forget"].scores == (0.0, 100.0), "white space before an answer costs nothing"
    for name in ("verbatim", "forget_questions", "retain_questions"):
        metric = next(metric for metric in METRICS if metric.name == name)
        assert suite.deciding(metric)["prompt_end"] == end


def test_the_lines_of_a_chat_template_are_no_space_at_a_prompts_end() -> None:
    assert replace(SUITE, prompt_end="word").ended(["so \t", "<assistant>\n\n", "to  "]) == [
        "so \t",
        "<assistant>\n\n",
        "to",
    ]


def test_an_empty_response_scores_0_and_counts(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers_by(monkeypatch, lambda *args, **options: ["", "\n\nRome"])
    result = SUITE.evaluate(model, tokenizer, EvaluationRecords(forget_questions=ASKED), {})
    assert isinstance(result["knowmem_forget"], Estimate)
    assert result["knowmem_forget"].scores == (0.0, 0.0)


def test_every_option_decides_a_metric_and_every_kind_of_records_is_read() -> None:
    kinds = {field.name for field in fields(EvaluationRecords)} - {"note"}
    assert {name for metric in METRICS for name in metric.reads} == kinds | {"windows"}
    options = {field.name for field in fields(EvaluationSuite)} - {"batch_size"}
    assert {name for metric in METRICS for name in metric.options} == options
    membership = next(metric for metric in METRICS if metric.name == "membership")
    expected = {"attacks": "reported", "max_texts": 3, "gradient_norm": False, "reference_model": None}
    assert EvaluationSuite(max_texts=3).deciding(membership) == expected
