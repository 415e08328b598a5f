from __future__ import annotations

import json
from pathlib import Path

from quail_lightning.data.questions import (
    EvaluationRecords,
    MembershipTexts,
    Question,
    QuestionSet,
    VerbatimPrompt,
)
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response, read_log
from quail_lightning.evaluation.finished import FinishedMetrics, parts
from quail_lightning.results import Estimate, Undefined

ASKED = QuestionSet((Question("Who?", "Ann"),), (Question("When?", "1999"),))
RECORDS = EvaluationRecords((VerbatimPrompt("a", "b"),), ASKED, MembershipTexts(("f",), (), ("h",)), note="a note")
MEASURES = {"verbmem_forget": Estimate(50.0, 2, 0.0, 100.0, (0.0, 100.0)), "other": Undefined("no reason")}
LOG = BenchmarkLog({"verbmem_forget": (Response("b", "c", "a"),)})


def test_parts_are_the_kinds_of_records_that_are_there() -> None:
    split = dict(parts(RECORDS))
    assert list(split) == ["verbatim", "forget_questions", "membership"]
    assert split["verbatim"] == EvaluationRecords(verbatim=RECORDS.verbatim)


def test_what_was_written_is_read_with_its_scores_and_its_log(tmp_path: Path) -> None:
    store = FinishedMetrics(tmp_path, {"model": "m"})
    assert store.read("verbatim", RECORDS) is None
    store.write("verbatim", RECORDS, MEASURES, LOG)
    found = store.read("verbatim", RECORDS)
    assert found == MEASURES
    assert found["verbmem_forget"].scores == (0.0, 100.0)
    assert read_log(store.folder).responses == LOG.responses


def test_other_settings_other_records_and_damage_are_not_taken_for_finished(tmp_path: Path) -> None:
    store = FinishedMetrics(tmp_path, {"model": "m", "protocol": "paper"})
    store.write("verbatim", RECORDS, MEASURES, LOG)
    assert FinishedMetrics(tmp_path, {"model": "m", "protocol": "published"}).read("verbatim", RECORDS) is None
    assert store.read("verbatim", EvaluationRecords((VerbatimPrompt("a", "other"),))) is None
    path = store.folder / "verbatim.json"
    for damaged in (path.read_text()[:40], "[]", json.dumps({"records": "x"})):
        path.write_text(damaged)
        assert store.read("verbatim", RECORDS) is None
