"""What every metric keeps to, and what a new one takes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from quail_lightning.cli import main
from quail_lightning.data.questions import (
    AnsweredQuestion,
    AnswerSets,
    EvaluationRecords,
    LabelledTexts,
    MembershipTexts,
    Probe,
    Question,
    QuestionSet,
    VerbatimPrompt,
)
from quail_lightning.evaluation import EvaluationSuite
from quail_lightning.evaluation.benchmark_log import BenchmarkLog
from quail_lightning.evaluation.harness import HarnessTasks
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.evaluation.metrics import METRICS, Asked, Subject, forget_tasks, label_of, labels
from quail_lightning.evaluation.utility import Utility
from quail_lightning.run.results import Estimate

QUESTIONS = QuestionSet((Question("Who?", "Ann"), Question("Where?", "Rome")), (Question("When?", "1999"),))
ANSWERED = (
    AnsweredQuestion("Who wrote it?", "Ann wrote it.", "It is Ann's.", ("It is Bo's.", "It is Cy's own.")),
    AnsweredQuestion("Where is it?", "In Rome.", None, ("In Oslo.", "In Lima, I am told.")),
)
LABELLED = LabelledTexts(("one text", "two texts"), (0, 1), (" a", " b"))
RECORDS = EvaluationRecords(
    verbatim=(VerbatimPrompt("It was a dark", " and stormy night"), VerbatimPrompt("Call me", " Ishmael")),
    forget_questions=QUESTIONS,
    membership=MembershipTexts(("forget one", "forget two"), ("retain",), ("holdout one", "h two", "h three")),
    retain_questions=QUESTIONS,
    forget_labels=LABELLED,
    retain_labels=LABELLED,
    probes={"rwku_fb": (Probe("a", "b"),), "rwku_neighbor_qa": (Probe("c", "d"),)},
    answers=AnswerSets(dict.fromkeys(("forget", "retain", "real_authors", "world_facts"), ANSWERED), choices=True),
    recited=(VerbatimPrompt("It was a dark", " and stormy night"),),
)
WINDOWS = {"forget": torch.arange(2, 26).reshape(2, 12), "retain": torch.arange(3, 27).reshape(2, 12)}

NEW_METRIC = """
from quail_lightning.evaluation.intervals import bootstrap_mean
from quail_lightning.evaluation.metrics.protocol import MetricLabel
from quail_lightning.evaluation.metrics.verbatim import RESPONSES, Verbatim, continuations


def longest_run(truth, response):
    true, said = truth.split(), response.split()
    return max((n for n in range(len(said) + 1) for i in range(len(said) - n + 1)
                if " ".join(said[i:i + n]) in " ".join(true)), default=0)


class LongestRun:
    name, version, reads, options = "longest_run", 1, ("verbatim",), Verbatim.options
    by_responses = True
    labels = {"copied_run": MetricLabel("Copied run", "words", "down", "copied run", "knowledge")}

    def is_asked(self, asked):
        return asked.records.verbatim is not None

    def problems(self, asked):
        return []

    def run(self, subject):
        continuations(subject)
        return self.from_log(subject.log)

    def from_log(self, log):
        rows = log.responses.get(RESPONSES, ())
        return {"copied_run": bootstrap_mean([longest_run(r.truth, r.response) for r in rows])} if rows else {}
"""


@pytest.fixture
def subject(tmp_path: Path, model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Subject:
    monkeypatch.setattr(forget_tasks, "task_problems", lambda *given: [])  # the harness is an extra
    monkeypatch.setattr(forget_tasks, "harness_accuracy", lambda *given: bootstrap_mean([100.0, 0.0, 0.0]))
    (tmp_path / "other.txt").write_text("some other text, of whatever kind " * 9)
    utility = Utility(text=str(tmp_path / "other.txt"), window=16)
    suite = EvaluationSuite(batch_size=2, verbmem_new_tokens=6, knowmem_new_tokens=4, utility=utility)
    suite = replace(suite, general_questions="shipped", forget_tasks=HarnessTasks(("wmdp_bio",)))
    return Subject(RECORDS, WINDOWS, suite, tokenizer, model.config, model)


def all_metrics() -> Iterator[Any]:
    for metric in METRICS:
        yield pytest.param(metric, id=metric.name)


@pytest.mark.parametrize("metric", all_metrics())
def test_it_gives_what_its_labels_name_with_n_and_interval(metric: Any, subject: Subject) -> None:
    assert metric.is_asked(subject)
    assert metric.problems(subject) == []
    measures = metric.run(subject)
    assert measures
    assert measures.keys() <= metric.labels.keys()
    for name, measure in measures.items():
        assert isinstance(measure, Estimate), name
        assert measure.n >= 1
        assert measure.low <= measure.value + 1e-9
        assert measure.value <= measure.high + 1e-9
        assert len(measure.scores) in (0, measure.n)
        if label_of(name).pairs or name.startswith("nll"):
            assert measure.scores, "what is compared record by record holds its records"


@pytest.mark.parametrize("metric", all_metrics())
def test_a_log_gives_the_same_again_or_nothing(metric: Any, subject: Subject) -> None:
    measures = metric.run(subject)
    again = metric.from_log(subject.log)
    assert again in ({}, measures)
    assert metric.from_log(BenchmarkLog()) == {}
    logged = {"verbatim", "forget_questions", "retain_questions", "membership", "probes", "answers"}
    assert bool(again) == bool({*metric.reads, metric.name} & {*logged, "general_questions"})


@pytest.mark.parametrize("metric", all_metrics())
def test_what_is_by_responses_wants_nothing_of_the_model_but_completions(metric: Any, subject: Subject) -> None:
    class Answering:
        def complete(self, prompts: list[str], max_new_tokens: int, *args: Any, **options: Any) -> list[str]:
            return ["Ann said Rome"] * len(prompts)

    engine = replace(subject, loaded=None, log=BenchmarkLog(), engine=Answering())
    if metric.by_responses:
        assert metric.run(engine)
        assert {row.response for rows in engine.log.responses.values() for row in rows} == {"Ann said Rome"}
    else:
        with pytest.raises(AssertionError, match="by_responses"):
            metric.run(engine)


@pytest.mark.parametrize("metric", all_metrics())
def test_without_records_it_is_not_asked(metric: Any, subject: Subject) -> None:
    nothing = Asked(EvaluationRecords(), {}, EvaluationSuite(), subject.tokenizer, subject.config)
    assert not metric.is_asked(nothing)


def test_names_and_measures_belong_to_one_metric_each() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert sum(len(metric.labels) for metric in METRICS) == len({name for m in METRICS for name in m.labels})


def test_what_the_model_says_is_asked_once_however_many_metrics_read_it(subject: Subject) -> None:
    first = subject.responses("said", lambda: [])
    assert subject.responses("said", lambda: pytest.fail("asked again")) is first


def test_a_new_metric_is_a_file_and_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: str, corpus_folder: Path, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "package").mkdir()
    (tmp_path / "package/longest_run_metric.py").write_text(NEW_METRIC)
    monkeypatch.syspath_prepend(str(tmp_path / "package"))
    arguments = ["evaluate", checkpoint, "--benchmark", "muse-news", "--corpus", str(corpus_folder)]
    main([*arguments, "--json", "before.json"])
    from longest_run_metric import LongestRun  # type: ignore[import-not-found]

    METRICS.append(LongestRun())
    try:
        assert "recovery_copied_run_capped" in labels()
        capsys.readouterr()

        def never(*args: Any) -> None:
            raise AssertionError("the responses are there already")

        monkeypatch.setattr("quail_lightning.evaluation.checkpoints.load_model", never)
        main([*arguments, "--json", "after.json", "--out", "results"])
        (row,) = json.loads(Path("after.json").read_text())["rows"]
        assert row["metrics"]["copied_run"]["n"] == row["metrics"]["verbmem_forget"]["n"]
        assert "Copied" in capsys.readouterr().out
        assert "copied_run" in Path("results/results.csv").read_text()
        main([*arguments, "--json", "again.json"])
        (again,) = json.loads(Path("again.json").read_text())["rows"]
        assert "longest_run" in again["reused"]
        main(["evaluate", "--from-log", row["log"], "--benchmark", "muse-news", "--json", "log.json"])
        assert json.loads(Path("log.json").read_text())["metrics"]["copied_run"] == row["metrics"]["copied_run"]
    finally:
        METRICS.pop()
        del sys.modules["longest_run_metric"]
