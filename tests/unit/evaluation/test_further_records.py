"""Labelled texts and probes inside the suite."""

import math
from dataclasses import replace

import pytest
import torch

from quail_lightning.data.questions import EvaluationRecords, LabelledTexts, Probe, VerbatimPrompt
from quail_lightning.errors import InputError
from quail_lightning.evaluation import EvaluationSuite, generate
from quail_lightning.evaluation.metrics import labels
from quail_lightning.evaluation.rwku import published_recall

LABELS = LabelledTexts(("It rains.\nLabel:", "Snow\nLabel:"), (0, 1), (" fact", " fiction"))
SUITE = EvaluationSuite(batch_size=2, verbmem_new_tokens=8)


def test_only_what_the_records_hold_is_measured_and_every_name_has_its_label(model, tokenizer):
    probes = (Probe("Who?", "Ann"), Probe("Where?", "B"))
    records = EvaluationRecords(forget_labels=LABELS, probes={"rwku_qa": probes})
    found = SUITE.evaluate(model, tokenizer, records, {})
    assert found.keys() == {"rwku_qa", "label_accuracy_forget", "label_f1_forget", "label_auroc_forget"}
    assert found.keys() <= labels().keys()
    assert found["rwku_qa"].n == 2
    assert model.training


def test_limits_take_the_first_records(model, tokenizer):
    records = EvaluationRecords(retain_labels=LABELS, probes={"rwku_fb": (Probe("Who?", "Ann"),) * 3})
    suite = EvaluationSuite(batch_size=2, max_prompts=2, max_texts=1)
    found = suite.evaluate(model, tokenizer, records, {})
    assert found["rwku_fb"].n == 2
    assert found["label_accuracy_retain"].n == 1


def test_a_probe_is_scored_on_its_first_line_alone(model, tokenizer):
    said = generate(model, tokenizer, ["Who?"], 30, 1)[0].partition("\n")[0]
    records = EvaluationRecords(probes={"rwku_qa": (Probe("Who?", said + " absentword"),)})
    words = len("".join(c if c.isascii() and c.isalnum() else " " for c in said).split())
    expected = 100 * words / (words + 1)
    ours = replace(SUITE, rwku_scale="rouge-score").evaluate(model, tokenizer, records, {})["rwku_qa"].value
    assert math.isclose(ours, expected, abs_tol=1e-9)
    published = SUITE.evaluate(model, tokenizer, records, {})["rwku_qa"].value
    assert math.isclose(published, 100 * published_recall(said + " absentword", said.strip()), abs_tol=1e-9)


def test_a_verbatim_response_counts_up_to_the_records_stop(model, tokenizer):
    whole = generate(model, tokenizer, ["Once"], 8, 1)[0]
    stop = whole[3]
    kept = whole[: whole.index(stop)]

    def score(stops, truth):
        records = EvaluationRecords(verbatim=(VerbatimPrompt("Once", truth, stops),))
        return SUITE.evaluate(model, tokenizer, records, {})["verbmem_forget"].value

    assert score((stop, "never said"), "zz") == 0
    assert (score((stop,), kept) == 100) == any(c.isascii() and c.isalnum() for c in kept)


def test_what_does_not_fit_is_refused_before_anything_runs(model, tokenizer):
    long = "x" * 300
    labels = LabelledTexts((long,), (0,), (" a", " b"))
    records = EvaluationRecords(forget_labels=labels, probes={"rwku_aa": (Probe(long, "a"),), "rwku_fb": ()})
    with pytest.raises(InputError) as refused:
        SUITE.evaluate(model, tokenizer, records, {})
    for said in ("rwku_aa: 1 of 1 prompts do not fit", "rwku_fb: there are no prompts", "303 tokens"):
        assert said in str(refused.value)


def test_random_states_are_left_alone(model, tokenizer):
    before = torch.get_rng_state()
    records = EvaluationRecords(forget_labels=LABELS, probes={"rwku_fb": (Probe("a", "b"),)})
    SUITE.evaluate(model, tokenizer, records, {})
    assert torch.equal(before, torch.get_rng_state())
