from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from quail_lightning.data.questions import (
    EvaluationRecords,
    MembershipTexts,
    Question,
    QuestionSet,
    VerbatimPrompt,
)
from quail_lightning.evaluation.benchmark_log import BenchmarkLog, Response, read_log
from quail_lightning.evaluation.finished import FinishedMetrics
from quail_lightning.evaluation.metrics import METRICS, Asked
from quail_lightning.evaluation.metrics.verbatim import Verbatim
from quail_lightning.evaluation.suite import EvaluationSuite
from quail_lightning.run.results import Estimate, Undefined
from quail_lightning.storage.vouched import digest, load_vouched, write_vouched

ASKED = QuestionSet((Question("Who?", "Ann"),), (Question("When?", "1999"),))
RECORDS = EvaluationRecords((VerbatimPrompt("a", "b"),), ASKED, MembershipTexts(("f",), (), ("h",)), note="a note")
MEASURES = {"verbmem_forget": Estimate(50.0, 2, 0.0, 100.0, (0.0, 100.0)), "other": Undefined("no reason")}
METRIC = {metric.name: metric for metric in METRICS}
VERBATIM = METRIC["verbatim"]


def asked(records: EvaluationRecords = RECORDS, windows: Mapping[str, Tensor] = {}, **options: Any) -> Asked:
    nothing: Any = None  # neither tokenizer nor config decides what a part is called: the digests of both do
    return Asked(records, windows, EvaluationSuite(**options), nothing, nothing)


LOG = BenchmarkLog({"verbmem_forget": (Response("b", "c", "a"),)})


def test_what_was_written_is_read_with_its_scores_and_its_log(tmp_path: Path) -> None:
    store = FinishedMetrics(tmp_path, {"model": "m"})
    assert store.read(VERBATIM, asked()) is None
    store.write(VERBATIM, asked(), MEASURES, LOG)
    found = store.read(VERBATIM, asked())
    assert found == MEASURES
    assert found["verbmem_forget"].scores == (0.0, 100.0)
    assert read_log(store.part_folder(VERBATIM, asked())).responses == LOG.responses


def test_responses_of_two_engines_are_two_parts_and_everything_else_is_shared(tmp_path: Path) -> None:
    own = FinishedMetrics(tmp_path, {"model": "m"})
    vllm, other = (
        FinishedMetrics(tmp_path, {"model": "m"}, {"name": "vllm", "arguments": a}) for a in ([], ["-q"])
    )
    stores, windows = (own, vllm, other), {"forget": torch.ones(1, 4, dtype=torch.long)}
    for metric in METRICS:
        folders = {store.part_folder(metric, asked(windows=windows)) for store in stores}
        assert len(folders) == (3 if metric.by_responses else 1), metric.name
    assert {metric.name for metric in METRICS if metric.by_responses} == {
        "verbatim", "forget_questions", "retain_questions", "probes", "answer_recall"
    }  # fmt: skip
    vllm.write(VERBATIM, asked(), MEASURES, LOG)
    assert (own.read(VERBATIM, asked()), vllm.read(VERBATIM, asked())) == (None, MEASURES)
    about = json.loads((vllm.part_folder(VERBATIM, asked()) / "about.json").read_text())
    assert about["engine"] == {"name": "vllm", "arguments": []}


def test_other_settings_other_records_other_models_and_damage_are_not_taken_for_finished(tmp_path: Path) -> None:
    store = FinishedMetrics(tmp_path, {"model": "m"})
    store.write(VERBATIM, asked(), MEASURES, LOG)
    assert FinishedMetrics(tmp_path, {"model": "n"}).read(VERBATIM, asked()) is None
    assert store.read(VERBATIM, asked(protocol="published")) is None
    assert store.read(VERBATIM, asked(EvaluationRecords((VerbatimPrompt("a", "other"),)))) is None
    path = store.part_folder(VERBATIM, asked()) / "measures.json"
    for damaged in (path.read_text()[:40], "[]", json.dumps({"x": {"value": 1.0}})):
        path.write_text(damaged)
        assert store.read(VERBATIM, asked()) is None


def test_windows_and_a_raised_version_decide_too(tmp_path: Path) -> None:
    store, nll = FinishedMetrics(tmp_path, {"model": "m"}), METRIC["windows"]
    given = {"forget": torch.tensor([[1, 2, 3]])}
    store.write(nll, asked(windows=given), MEASURES, BenchmarkLog())
    assert store.read(nll, asked(windows=given)) == MEASURES
    assert store.read(nll, asked(windows={"forget": torch.tensor([[1, 2, 4]])})) is None
    newer = Verbatim()
    newer.version += 1
    store.write(VERBATIM, asked(), MEASURES, LOG)
    assert store.read(newer, asked()) is None


def test_a_part_without_its_log_is_not_taken_for_finished(tmp_path: Path) -> None:
    store = FinishedMetrics(tmp_path, {"model": "m"})
    store.write(VERBATIM, asked(), MEASURES, LOG)
    (log,) = store.part_folder(VERBATIM, asked()).glob("*/log.json")
    log.unlink()
    assert store.read(VERBATIM, asked()) is None


def test_a_part_of_other_settings_is_kept_beside_the_first(tmp_path: Path) -> None:
    store = FinishedMetrics(tmp_path, {"model": "m"})
    other = {"verbmem_forget": Estimate(7.0, 1, 7.0, 7.0, (7.0,))}
    store.write(VERBATIM, asked(), MEASURES, LOG)
    store.write(VERBATIM, asked(max_prompts=1), other, LOG)
    assert store.read(VERBATIM, asked()) == MEASURES
    assert store.read(VERBATIM, asked(max_prompts=1)) == other


def test_logs_of_several_parts_are_brought_together(tmp_path: Path) -> None:
    store = FinishedMetrics(tmp_path, {"model": "m"})
    scores = BenchmarkLog({}, {split: ({"Min-40%": 1.0},) for split in ("forget", "holdout")})
    for part, log in (("verbatim", LOG), ("membership", scores)):
        store.write(METRIC[part], asked(), MEASURES, log)
    folders = {part: store.part_folder(METRIC[part], asked()) for part in ("verbatim", "membership")}
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
    other.write(VERBATIM, asked(), MEASURES, LOG)
    shutil.rmtree(part)
    shutil.copytree(other.part_folder(VERBATIM, asked()), part)


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
    store.write(VERBATIM, asked(), MEASURES, LOG)
    part = store.part_folder(VERBATIM, asked())
    damage(part)
    assert store.read(VERBATIM, asked()) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert str(part) in line
    assert line.endswith("it is run again")
    store.write(VERBATIM, asked(), MEASURES, LOG)
    assert store.read(VERBATIM, asked()) == MEASURES
    assert capsys.readouterr().err == ""
    assert not list(tmp_path.rglob(".*")), "nothing half written is left"


def test_gathered_logs_that_were_edited_are_gathered_again(tmp_path: Path) -> None:
    store = FinishedMetrics(tmp_path, {"model": "m"})
    store.write(VERBATIM, asked(), MEASURES, LOG)
    folders = {"verbatim": store.part_folder(VERBATIM, asked())}
    gathered = store.gather(folders)
    for damage in (another_response, a_file_for_the_folder, an_empty_folder):
        damage(gathered)
        assert read_log(store.gather(folders)).responses == LOG.responses


def test_texts_are_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = FinishedMetrics(tmp_path / "logs/evaluations", {"model": "m"})
        store.write(VERBATIM, asked(), MEASURES, LOG)
        store.gather({"verbatim": store.part_folder(VERBATIM, asked())})
    finally:
        os.umask(before)
    for path in (store.root, *store.root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_two_evaluations_at_once_leave_one_whole_part(tmp_path: Path) -> None:
    store = FinishedMetrics(tmp_path, {"model": "m"})
    logs = [BenchmarkLog({"verbmem_forget": (Response("b", str(n) * 5000, "a"),)}) for n in range(4)]

    def write(log: BenchmarkLog) -> None:
        for _ in range(5):
            store.write(VERBATIM, asked(), MEASURES, log)
            store.gather({"verbatim": store.part_folder(VERBATIM, asked())})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, logs))
    assert store.read(VERBATIM, asked()) == MEASURES
    assert read_log(store.part_folder(VERBATIM, asked())).responses in [log.responses for log in logs]
