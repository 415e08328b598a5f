"""quail evaluate --engine vllm: the same figures by a server, and which rows are its."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import completion_api
import pytest
from completion_api import FakeVllm, serving

from quail_lightning.cli import main
from quail_lightning.evaluation import checkpoints

BY_RESPONSES = ["verbatim", "forget_questions", "retain_questions"]
SERVED = ("verbmem_forget", "repetition_forget", "knowmem_forget", "knowmem_retain")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


@pytest.fixture
def served(checkpoint: str) -> Iterator[FakeVllm]:
    with serving(checkpoint) as server:
        yield server


def evaluate(*arguments: Any) -> Any:
    main(["evaluate", "--json", "out.json", *map(str, arguments)])
    return json.loads(Path("out.json").read_text())


def refused(capsys: Any, *arguments: Any, status: int = 2) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, arguments)])
    assert ended.value.code == status
    return " ".join(capsys.readouterr().err.split())


def responses(row: Any) -> dict[str, Any]:
    return {path.parent.name: json.loads(path.read_text()) for path in Path(row["log"]).glob("*mem_*/log.json")}


def test_figures_and_responses_are_the_own_engine_s_and_finished_parts_are_not_mixed(
    checkpoint: str, corpus_folder: Path, served: FakeVllm, capsys: Any
) -> None:
    arguments = [checkpoint, "--benchmark", "muse-news", "--corpus", corpus_folder, "--precisions", "fp32", "nf4"]
    own = evaluate(*arguments)["rows"]
    by_vllm = ["--engine", "vllm", "--vllm.url", f"{served.url}/v1/"]
    found = evaluate(*arguments, *by_vllm, "--out", "results")
    assert [(row["precision"], row["engine"]) for row in found["rows"]] == [("fp32", "vllm"), ("nf4", "own")]
    assert {row["engine"] for row in own} == {"own"}
    at_fp32, at_nf4 = found["rows"]
    assert at_fp32["reused"] == ["membership", "memorization", "windows"], (
        "what no engine decides; responses were asked for again"
    )
    assert set(BY_RESPONSES) < set(at_nf4["reused"]), "made in memory: the own engine's, as before"
    assert len(served.bodies) == 3 + 3 + 3
    assert responses(at_fp32) == responses(own[0])
    assert {name: at_fp32["metrics"][name] for name in SERVED} == {
        name: own[0]["metrics"][name] for name in SERVED
    }
    assert at_fp32["log"] != own[0]["log"]
    told = f"Responses by vLLM at {served.url}/v1/: {checkpoint} at fp32. All other figures are the own engine's."
    assert told in found["note"]
    assert told in json.loads(Path("results/results.json").read_text())["note"]
    # all is finished: nothing listens any more, and nothing has to
    served.shutdown()
    served.server_close()
    again = evaluate(*arguments, *by_vllm)["rows"]
    assert all(len(row["reused"]) == 6 for row in again)
    assert [row["metrics"] for row in again] == [row["metrics"] for row in found["rows"]]
    assert "no server listens" in refused(capsys, *arguments, *by_vllm, "--limit", 1)


def test_what_a_server_answered_is_kept_when_it_fails_later(
    checkpoint: str, corpus_folder: Path, served: FakeVllm, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [checkpoint, "--benchmark", "muse-news", "--corpus", corpus_folder, "--precisions", "fp32"]
    arguments += ["--engine", "vllm", "--vllm.url", served.url, "--attacks", "reported"]
    served.spoil = lambda choice: (
        (500, b'{"error": {"message": "no memory"}}') if len(served.bodies) > 3 else (200, as_answer(choice))
    )
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "load_model", None)  # answers come before a model is loaded
        told = refused(capsys, *arguments, "--batch_size", 1, status=1)
    assert "answered /v1/completions with 500 Internal Server Error: no memory" in told
    served.spoil = None
    (row,) = evaluate(*arguments)["rows"]
    assert row["reused"] == ["verbatim"]


def as_answer(choice: Any) -> bytes:
    return json.dumps({"choices": [choice]}).encode()


def test_rwku_s_probes_are_asked_of_the_server(checkpoint: str, tmp_path: Path, served: FakeVllm) -> None:
    about = {"subject": "Stephen King", "level": "1", "type": "x", "query": "Who wrote ___?", "answer": "It"}
    (tmp_path / "rwku").mkdir()
    for part in ("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2"):
        (tmp_path / f"rwku/{part}.json").write_text(json.dumps([about]))
    arguments = [checkpoint, "--benchmark", "rwku", "--corpus", tmp_path / "rwku", "--precisions", "fp32"]
    (own,) = evaluate(*arguments)["rows"]
    (row,) = evaluate(*arguments, "--engine", "vllm", "--vllm.url", served.url)["rows"]
    assert row["metrics"] == own["metrics"]
    assert (row["reused"], len(served.bodies)) == ([], 5)
    for path in Path(own["log"]).glob("*/log.json"):
        assert path.read_text() == (Path(row["log"]) / path.parent.name / "log.json").read_text()


@pytest.mark.slow
def test_a_server_is_started_on_each_folder_in_turn_and_a_deployed_folder_is_loaded_as_it_is(
    checkpoint: str, corpus_folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["quantize", checkpoint, "--to", "nf4", "--out", "deployed"])
    (tmp_path / "deployed/provenance.json").unlink()
    program = tmp_path / "bin/vllm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {completion_api.__file__} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    arguments = [checkpoint, "deployed", "--benchmark", "muse-news", "--corpus", corpus_folder, "--limit", 1]
    arguments += ["--attacks", "reported", "--precisions", "fp32"]
    own = evaluate(*arguments)["rows"]
    start = ["--engine", "vllm", "--vllm.arguments"]
    evaluation = evaluate(*arguments, *start, '["--max-model-len", "256"]')
    found = evaluation["rows"]
    assert f"Responses by vLLM (--max-model-len 256): {checkpoint} at fp32, deployed at nf4." in evaluation["note"]
    engines = [(Path(row["model"].split(" (")[0]).name, row["precision"], row["engine"]) for row in found]
    assert engines == [("target", "fp32", "vllm"), ("target", "nf4", "own"), ("deployed", "nf4", "vllm")]
    for row, before in zip(found, own, strict=True):
        if row["precision"] == "fp32":
            assert responses(row) == responses(before)
        assert (set(BY_RESPONSES) <= set(row["reused"])) is (row["engine"] == "own")
    logs = {path.name: path.read_text() for path in Path("logs/evaluations/vllm").iterdir()}
    assert sorted(name.rpartition("-")[0] for name in logs) == ["deployed", Path(checkpoint).name]
    for name, log in logs.items():
        assert ("dtype='bfloat16'" if name.startswith("deployed-") else "dtype='float32'") in log
    # other arguments may give other figures
    program.write_text("#!/bin/sh\necho no GPU is found here >&2\nexit 3\n")
    assert all(
        len(row["reused"]) == 6 for row in evaluate(*arguments, *start, '["--max-model-len", "256"]')["rows"]
    )
    told = refused(capsys, *arguments, *start, '["--max-model-len", "128"]', status=1)
    assert "vLLM ended with status 3" in told
    assert "no GPU is found here" in told


def test_what_vllm_cannot_do_is_refused_before_a_model_is_loaded(
    checkpoint: str,
    corpus_folder: Path,
    tmp_path: Path,
    served: FakeVllm,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoints, "load_model", None)
    other = shutil.copytree(checkpoint, tmp_path / "other")
    start = ["--benchmark", "muse-news", "--corpus", corpus_folder, "--precisions"]
    by_vllm = ["--engine", "vllm", "--vllm.url", served.url]

    def told(*arguments: Any) -> str:
        return refused(capsys, *arguments)

    assert "nothing to answer" in told(checkpoint, *start, "nf4", *by_vllm)
    assert "has not loaded" in told(other, *start, "fp32", *by_vllm)
    assert "at random" in told(checkpoint, *start, "fp32", "--protocol", "published", *by_vllm)
    assert "Set engine: vllm" in told(checkpoint, *start, "fp32", "--vllm.url", served.url)
    assert "Leave one of the two out" in told(
        checkpoint, *start, "fp32", *by_vllm, "--vllm.arguments", '["-tp", "2"]'
    )
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        assert "pip install vllm" in told(checkpoint, *start, "fp32", "--engine", "vllm")
    risky = ["--engine", "vllm", "--vllm.arguments", '["--trust-remote-code"]']
    assert "never run" in told(checkpoint, *start, "fp32", *risky)
    for url in ("localhost:8000", "https://localhost", "http://", "http://localhost:x", "http://localhost?a=b"):
        assert "no plain address" in told(checkpoint, *start, "fp32", "--engine", "vllm", "--vllm.url", url)
    for url in ("http://node7:8000", "http://10.0.0.1:8000", "http://localhost.evil.example"):
        assert "ssh -L" in told(checkpoint, *start, "fp32", "--engine", "vllm", "--vllm.url", url)
    secret = told(checkpoint, *start, "fp32", "--engine", "vllm", "--vllm.url", "http://me:hunter2@localhost:1")
    assert "VLLM_API_KEY" in secret
    assert "hunter2" not in secret
    assert "engine" in told(checkpoint, *start, "fp32", "--engine", "sglang")
    served.key = "sesame"
    assert "VLLM_API_KEY" in refused(capsys, checkpoint, *start, "fp32", *by_vllm, status=1)
    assert served.bodies == []
