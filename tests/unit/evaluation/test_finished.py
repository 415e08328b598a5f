from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

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
from quail_lightning.vouched import digest, load_vouched, write_vouched

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


# --- edited and damaged parts ------------------------------------------------------------------------------


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def a_better_figure(part: Path) -> None:
    edit(part / "measures.json", "50.0", "5.0")


def another_response(part: Path) -> None:
    edit(part / "verbmem_f/log.json", '"response": "c"', '"response": "b"')


def no_response(part: Path) -> None:
    (part / "verbmem_f/log.json").write_text("[]")


def another_log_beside_it(part: Path) -> None:
    (part / "privleak").mkdir()
    (part / "privleak/log.json").write_text("{}")


def other_records(part: Path) -> None:
    edit(part / "about.json", '"model": "m"', '"model": "n"')


def truncated(part: Path) -> None:
    path = part / "measures.json"
    path.write_bytes(path.read_bytes()[:-20])


def no_text(part: Path) -> None:
    (part / "measures.json").write_bytes(b"\xff\xfe\x00")


def forged(part: Path, **changes: object) -> None:
    """Whole in itself, but not what is ever written."""
    content = load_vouched(part / "measures.json")
    write_vouched(part / "measures.json", content | changes)


def not_a_number(part: Path) -> None:
    row = {"value": 1.0, "n": 1, "low": 0.0, "high": 1.0, "scores": []}
    content = load_vouched(part / "measures.json") | {
        "measures": {"verbmem_forget": row | {"value": float("nan")}}
    }
    (part / "measures.json").write_text(json.dumps(content | {"sha256": digest(content)}))


def wrong_types(part: Path) -> None:
    forged(part, measures={"verbmem_forget": {"value": "50", "n": 1, "low": 0, "high": 1, "scores": []}})


def no_files(part: Path) -> None:
    forged(part, files=7)


def of_an_earlier_version(part: Path) -> None:
    content = load_vouched(part / "measures.json")
    (part / "measures.json").write_text(json.dumps({"logs": ["verbmem_f"], "measures": content["measures"]}))


def anothers(part: Path) -> None:
    other = FinishedMetrics(part.parents[1], {"model": "n"})
    other.write("verbatim", RECORDS, SETTINGS, MEASURES, LOG)
    shutil.rmtree(part)
    shutil.copytree(other.part_folder("verbatim", RECORDS, SETTINGS), part)


def a_folder_for_a_file(part: Path) -> None:
    for name in ("measures.json", "verbmem_f/log.json"):
        (part / name).unlink()
        (part / name).mkdir()


def a_file_for_the_folder(part: Path) -> None:
    shutil.rmtree(part)
    part.write_text("x")


def an_empty_folder(part: Path) -> None:
    shutil.rmtree(part)
    part.mkdir()


def a_broken_link(part: Path) -> None:
    shutil.rmtree(part)
    part.symlink_to("nowhere")


DAMAGES = [
    a_better_figure,
    another_response,
    no_response,
    another_log_beside_it,
    other_records,
    truncated,
    no_text,
    not_a_number,
    wrong_types,
    no_files,
    of_an_earlier_version,
    anothers,
    a_folder_for_a_file,
    a_file_for_the_folder,
    an_empty_folder,
    a_broken_link,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_said_to_be_is_not_believed_and_makes_way_for_a_new_one(
    tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    store = FinishedMetrics(tmp_path, {"model": "m"})
    store.write("verbatim", RECORDS, SETTINGS, MEASURES, LOG)
    part = store.part_folder("verbatim", RECORDS, SETTINGS)
    damage(part)
    assert store.read("verbatim", RECORDS, SETTINGS) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert str(part) in line
    assert line.endswith("it is run again")
    store.write("verbatim", RECORDS, SETTINGS, MEASURES, LOG)
    assert store.read("verbatim", RECORDS, SETTINGS) == MEASURES
    assert capsys.readouterr().err == ""
    assert not list(tmp_path.rglob(".*")), "nothing half written is left"


def test_gathered_logs_that_were_edited_are_gathered_again(tmp_path: Path) -> None:
    store = FinishedMetrics(tmp_path, {"model": "m"})
    store.write("verbatim", RECORDS, SETTINGS, MEASURES, LOG)
    folders = {"verbatim": store.part_folder("verbatim", RECORDS, SETTINGS)}
    gathered = store.gather(folders)
    for damage in (another_response, a_file_for_the_folder, an_empty_folder):
        damage(gathered)
        assert read_log(store.gather(folders)).responses == LOG.responses


def test_texts_are_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = FinishedMetrics(tmp_path / "logs/evaluations", {"model": "m"})
        store.write("verbatim", RECORDS, SETTINGS, MEASURES, LOG)
        store.gather({"verbatim": store.part_folder("verbatim", RECORDS, SETTINGS)})
    finally:
        os.umask(before)
    for path in (store.root, *store.root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_two_evaluations_at_once_leave_one_whole_part(tmp_path: Path) -> None:
    store = FinishedMetrics(tmp_path, {"model": "m"})
    logs = [BenchmarkLog({"verbmem_forget": (Response("b", str(n) * 5000, "a"),)}) for n in range(4)]

    def write(log: BenchmarkLog) -> None:
        for _ in range(5):
            store.write("verbatim", RECORDS, SETTINGS, MEASURES, log)
            store.gather({"verbatim": store.part_folder("verbatim", RECORDS, SETTINGS)})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, logs))
    assert store.read("verbatim", RECORDS, SETTINGS) == MEASURES
    assert read_log(store.part_folder("verbatim", RECORDS, SETTINGS)).responses in [log.responses for log in logs]
