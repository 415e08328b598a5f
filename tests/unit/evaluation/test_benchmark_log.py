from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quail_lightning.errors import InputError
from quail_lightning.evaluation.attacks import ATTACKS
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response, read_log, write_log

ROW = dict.fromkeys(ATTACKS, 1.5)


def put(folder: Path, part: str, content: Any) -> None:
    path = folder / part / "log.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")


def test_a_log_comes_back_as_it_was_written(tmp_path: Path) -> None:
    log = BenchmarkLog(
        {"verbmem_forget": (Response("the truth", "naïve", "a prompt"),), "knowmem_retain": (Response("x", ""),)},
        {"forget": (ROW,), "holdout": (ROW, ROW)},
    )
    write_log(tmp_path, log)
    assert read_log(tmp_path) == log
    assert not list(tmp_path.rglob("*.partial"))


def test_the_older_logs_question_column_is_read_as_the_prompt(tmp_path: Path) -> None:
    put(tmp_path, "knowmem_f", [{"question": "Who?", "gt": "Ann", "response": "Bo"}])
    assert read_log(tmp_path).responses == {"knowmem_forget": (Response("Ann", "Bo", "Who?"),)}


def test_broken_json_is_named_with_its_line(tmp_path: Path) -> None:
    put(tmp_path, "knowmem_f", '[{"gt": "a",\n "response": "b"},\n {"gt": }]')
    with pytest.raises(InputError, match=r"knowmem_f.log\.json is not valid JSON: line 3"):
        read_log(tmp_path)


@pytest.mark.parametrize("row", [{"gt": "a", "answer": "b"}, {"gt": "a", "response": None}, "text"])
def test_wrong_columns_are_named_with_file_and_record(tmp_path: Path, row: Any) -> None:
    put(tmp_path, "knowmem_r", [{"gt": "a", "response": "b"}, row])
    with pytest.raises(InputError, match=r"knowmem_r.log\.json: record 1 lacks .*'response'"):
        read_log(tmp_path)


PRIVATE = "Ann lives at 7 Elm Row"


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("knowmem_f", [{PRIVATE: 1, "gt": PRIVATE}]),
        ("knowmem_f", [PRIVATE]),
        ("knowmem_f", [[PRIVATE]]),
        ("knowmem_f", {PRIVATE: 1}),
        ("knowmem_f", f'[{{"gt": "{PRIVATE}", "response" "{PRIVATE}"}}]'),
        ("privleak", {PRIVATE: [ROW]}),
        ("privleak", PRIVATE),
        ("privleak", {"forget": {PRIVATE: 1}}),
        ("privleak", {"forget": [{"PPL": PRIVATE, PRIVATE: 1}]}),
    ],
)
def test_no_message_holds_what_a_record_says(tmp_path: Path, part: str, content: Any) -> None:
    put(tmp_path, part, content)
    with pytest.raises(InputError) as refused:
        read_log(tmp_path)
    assert "Elm" not in str(refused.value)


def test_a_membership_record_without_a_score_that_others_have_is_named(tmp_path: Path) -> None:
    put(tmp_path, "privleak", {"forget": [ROW, {k: v for k, v in ROW.items() if k != "Min-40%"}]})
    with pytest.raises(InputError, match=r"forget record 1 lacks 'Min-40%'"):
        read_log(tmp_path)
    put(tmp_path, "privleak", [ROW])
    with pytest.raises(InputError, match="object of splits"):
        read_log(tmp_path)


def test_an_attack_that_no_record_has_was_not_run(tmp_path: Path) -> None:
    put(tmp_path, "privleak", {"forget": [{"PPL": 1.0, "text": "x"}]})
    assert read_log(tmp_path).membership == {"forget": ({"PPL": 1.0},)}


def test_a_folder_without_any_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"verbmem_f/log\.json"):
        read_log(tmp_path)
    with pytest.raises(InputError, match="no log folder"):
        read_log(tmp_path / "absent")
    put(tmp_path, "knowmem_f", [])
    with pytest.raises(InputError, match="list of records"):
        read_log(tmp_path)
