from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
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
from quail_lightning.evaluation.metrics import METRICS
from quail_lightning.evaluation.suite import EvaluationSuite
from quail_lightning.results import Estimate

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


def test_everything_the_records_allow_is_run_and_named(model: Any, tokenizer: Any) -> None:
    state, seen = torch.random.get_rng_state(), set[str]()
    result = SUITE.evaluate(
        model, tokenizer, RECORDS, WINDOWS, auc_retrain=0.5, progress=lambda name, done, total: seen.add(name)
    )
    expected = {"verbmem_forget": 2, "knowmem_forget": 2, "knowmem_retain": 2, "nll_forget": 3, "nll_retain": 4}
    assert set(result) == {*expected, "membership_auc", "privleak"}
    assert set(result) <= set(METRICS)
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

    monkeypatch.setattr("quail_lightning.evaluation.suite.generate", recite)
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
