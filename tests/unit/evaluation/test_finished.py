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
SETTINGS = {"protocol": "paper"}
LOG = BenchmarkLog({"verbmem_forget": (Response("b", "c", "a"),)})


def test_parts_are_the_kinds_of_records_that_are_there() -> None:
    split = dict(parts(RECORDS))
    assert list(split) == ["verbatim", "forget_questions", "membership"]
    assert split["verbatim"] == EvaluationRecords(verbatim=RECORDS.verbatim)


def test_what_was_written_is_read_with_its_scores_and_its_log(tmp_path: Path) -> None:
    store = FinishedMetrics(tmp_path, {"model": "m"})
    assert store.read("verbatim", RECORDS, SETTINGS) is None
    store.write("verbatim", RECORDS, SETTINGS, MEASURES, LOG)
    found = store.read("verbatim", RECORDS, SETTINGS)
    assert found == MEASURES
    assert found["verbmem_forget"].scores == (0.0, 100.0)
    assert read_log(store.part_folder("verbatim", RECORDS, SETTINGS)).responses == LOG.responses


def test_other_settings_other_records_other_models_and_damage_are_not_taken_for_finished(tmp_path: Path) -> None:
    store = FinishedMetrics(tmp_path, {"model": "m"})
    store.write("verbatim", RECORDS, SETTINGS, MEASURES, LOG)
    assert FinishedMetrics(tmp_path, {"model": "n"}).read("verbatim", RECORDS, SETTINGS) is None
    assert store.read("verbatim", RECORDS, {"protocol": "published"}) is None
    assert store.read("verbatim", EvaluationRecords((VerbatimPrompt("a", "other"),)), SETTINGS) is None
    path = store.part_folder("verbatim", RECORDS, SETTINGS) / "measures.json"
    for damaged in (path.read_text()[:40], "[]", json.dumps({"x": {"value": 1.0}})):
        path.write_text(damaged)
        assert store.read("verbatim", RECORDS, SETTINGS) is None


def test_a_part_without_its_log_is_not_taken_for_finished(tmp_path: Path) -> None:
    store = FinishedMetrics(tmp_path, {"model": "m"})
    store.write("verbatim", RECORDS, SETTINGS, MEASURES, LOG)
    (log,) = store.part_folder("verbatim", RECORDS, SETTINGS).glob("*/log.json")
    log.unlink()
    assert store.read("verbatim", RECORDS, SETTINGS) is None


def test_a_part_of_other_settings_is_kept_beside_the_first(tmp_path: Path) -> None:
    store = FinishedMetrics(tmp_path, {"model": "m"})
    other = {"verbmem_forget": Estimate(7.0, 1, 7.0, 7.0, (7.0,))}
    store.write("verbatim", RECORDS, SETTINGS, MEASURES, LOG)
    store.write("verbatim", RECORDS, {"max_prompts": 1}, other, LOG)
    assert store.read("verbatim", RECORDS, SETTINGS) == MEASURES
    assert store.read("verbatim", RECORDS, {"max_prompts": 1}) == other


def test_logs_of_several_parts_are_brought_together(tmp_path: Path) -> None:
    store = FinishedMetrics(tmp_path, {"model": "m"})
    scores = BenchmarkLog({}, {split: ({"Min-40%": 1.0},) for split in ("forget", "holdout")})
    for part, log in (("verbatim", LOG), ("membership", scores)):
        store.write(part, RECORDS, SETTINGS, MEASURES, log)
    folders = {part: store.part_folder(part, RECORDS, SETTINGS) for part in ("verbatim", "membership")}
    found = read_log(store.gather(folders))
    assert (found.responses, found.membership) == (LOG.responses, scores.membership)
