"""Completions by a server are the own engine's, and what a server does wrong is told."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from completion_api import FakeVllm, serving
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from quail_lightning.errors import InputError
from quail_lightning.inference.completion_server import CompletionServer, ServerError, Unreachable
from quail_lightning.inference.generation import generate
from quail_lightning.inference.sampling import Sampling
from quail_lightning.inference.served_model import ServedModel, folder_ends, served_model

PROMPTS = ["ash birch", "", "cedar elm fir hazel larch maple. Which oak?", "yew", "rowan, willow\n\nQuestion: "]
PROMPTS[1] = "x"


@pytest.fixture(scope="module")
def server(checkpoint: str) -> Iterator[FakeVllm]:
    with serving(checkpoint) as running:
        yield running


@pytest.fixture
def fake(server: FakeVllm) -> Iterator[FakeVllm]:
    server.bodies.clear()
    yield server
    server.spoil, server.positions, server.most_under_way = None, 256, 0


@pytest.fixture
def own(checkpoint: str) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)


@pytest.fixture
def served(fake: FakeVllm, checkpoint: str, own: tuple[Any, Any]) -> ServedModel:
    return served_model(CompletionServer(fake.url), Path(checkpoint), own[1], own[0].config)


def test_completions_are_those_of_the_model_in_memory(served: ServedModel, own: tuple[Any, Any]) -> None:
    seen: list[tuple[int, int]] = []
    texts = served.complete(PROMPTS, 24, progress=lambda *of: seen.append(of))
    assert texts == generate(*own, PROMPTS, 24)
    assert len(set(texts)) == len(PROMPTS), "a degenerate model would pass any order"
    assert seen == [(n, len(PROMPTS)) for n in range(1, len(PROMPTS) + 1)]


def test_prompts_go_as_token_numbers_and_everything_a_checkpoint_could_set_is_set(
    served: ServedModel, own: tuple[Any, Any], fake: FakeVllm
) -> None:
    served.complete(["ash birch"], 5, stops=("\n",))
    (body,) = fake.bodies
    assert body.pop("prompt") == [0, *own[1]("ash birch", add_special_tokens=False)["input_ids"]]
    assert body == {
        "model": fake.folder,
        "max_tokens": 5,
        "temperature": 0,
        "top_p": 1,
        "top_k": 0,
        "min_p": 0,
        "repetition_penalty": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "ignore_eos": True,
        "stop_token_ids": [1],
        "stop": ["\n"],
        "return_token_ids": True,
    }


def test_an_end_token_and_a_stop_end_a_completion_as_they_do_in_memory(
    served: ServedModel, own: tuple[Any, Any], fake: FakeVllm
) -> None:
    model, tokenizer = own
    (text,) = served.complete(["yew"], 24)
    said = tokenizer(text, add_special_tokens=False)["input_ids"]
    model.generation_config.eos_token_id = [said[6], 1]
    ending = replace(served, ends=frozenset([said[6], 1]))
    assert ending.complete(["yew"], 24) == generate(*own, ["yew"], 24) != [text]
    # a stop is cut by who asked, so the completion holds it
    stop = text[4:7]
    (stopped,) = served.complete(["yew"], 24, stops=(stop,))
    assert text.startswith(stopped)
    assert text.index(stop) + len(stop) <= len(stopped) < len(text)


def test_as_many_requests_are_under_way_as_the_batch_size_says(served: ServedModel, fake: FakeVllm) -> None:
    served.complete(PROMPTS * 2, 4, batch_size=1)
    assert fake.most_under_way == 1
    served.complete(PROMPTS * 4, 24, batch_size=3)
    assert 2 <= fake.most_under_way <= 3


def test_nothing_is_asked_for_no_prompts_and_sampling_is_refused(served: ServedModel, fake: FakeVllm) -> None:
    assert served.complete([], 4) == []
    with pytest.raises(InputError, match="draws other tokens"):
        served.complete(["ash"], 4, sampling=Sampling())
    assert fake.bodies == []


def test_long_prompts_are_refused_by_the_model_s_or_the_server_s_positions(
    fake: FakeVllm, checkpoint: str, own: tuple[Any, Any]
) -> None:
    told = ((512, 250, "the model has 256 positions"), (64, 56, "takes 64.*--max-model-len"))
    for positions, new, said in told:
        fake.positions = positions
        served = served_model(CompletionServer(fake.url), Path(checkpoint), own[1], own[0].config)
        with pytest.raises(InputError, match=said):
            served.complete(["ash", "ash birch cedar elm fir hazel"], new)
    assert fake.bodies == []


def test_another_model_is_refused_by_name(fake: FakeVllm, tmp_path: Path, own: tuple[Any, Any]) -> None:
    with pytest.raises(InputError, match=r"has not loaded.*vllm serve") as refused:
        served_model(CompletionServer(fake.url), tmp_path, own[1], own[0].config)
    assert fake.folder in str(refused.value)


def test_a_relative_root_is_refused_since_where_it_starts_is_not_known(
    fake: FakeVllm, tmp_path: Path, own: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b/out/model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "b")
    monkeypatch.setattr(fake, "folder", "out/model")
    with pytest.raises(InputError, match="by its absolute path") as refused:
        served_model(CompletionServer(fake.url), Path("out/model"), own[1], own[0].config)
    assert f"vllm serve {tmp_path.resolve()}/b/out/model" in str(refused.value)
    # the same folder by another absolute path is the same
    (tmp_path / "link").symlink_to(tmp_path / "b")
    monkeypatch.setattr(fake, "folder", str(tmp_path / "link/out/model"))
    assert served_model(CompletionServer(fake.url), Path("out/model"), own[1], own[0].config).name == fake.name


ASKING = """
import sys
from pathlib import Path
from transformers import AutoConfig, AutoTokenizer
from quail_lightning.inference.completion_server import CompletionServer
from quail_lightning.inference.served_model import served_model

url, folder = sys.argv[1:]
tokenizer, config = AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder)
served_model(CompletionServer(url), Path(folder), tokenizer, config).complete(["ash birch", "yew"], 4)
"""


def test_an_error_ends_the_program_while_another_request_hangs(fake: FakeVllm, checkpoint: str) -> None:
    is_asked, is_over = threading.Barrier(2), threading.Event()

    def spoil(choice: dict[str, Any]) -> tuple[int, bytes]:
        if is_asked.wait(120) == 0:  # when both are under way
            is_over.wait(180)
        return 500, b"no memory"

    fake.spoil = spoil
    try:
        ended = subprocess.run(
            [sys.executable, "-c", ASKING, fake.url, checkpoint], capture_output=True, text=True, timeout=120
        )
    finally:
        is_over.set()
    assert ended.returncode == 1
    assert "500 Internal Server Error: no memory" in ended.stderr


def spoiled(**changes: Any) -> Any:
    return lambda choice: (200, json.dumps({"choices": [choice | changes]}).encode())


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda choice: (500, b'{"error": {"message": "out of KV cache"}}'),
            r"500 Internal Server Error: out of KV",
        ),
        (lambda choice: (503, b""), r"503 Service Unavailable: \(nothing\)"),
        (lambda choice: (200, b"<html>"), r"no JSON: <html>"),
        (lambda choice: (200, b"[]"), "no JSON object"),
        (lambda choice: (200, b"{}"), "without the token numbers"),
        (lambda choice: (200, json.dumps({"choices": [choice, choice]}).encode()), "without the token numbers"),
        (spoiled(token_ids=None), "from 0.10.2"),
        (spoiled(token_ids=["5"]), "without the token numbers"),
        (spoiled(token_ids=[5, 6], finish_reason="abort"), r"2 tokens where 8 were asked for.*'abort'"),
        (spoiled(token_ids=[5] * 9), "9 tokens where 8"),
        (spoiled(prompt_token_ids=[0, 0, 5]), "another prompt"),
    ],
)
def test_an_unusable_answer_ends_the_evaluation_and_says_why(
    spoil: Any, told: str, served: ServedModel, fake: FakeVllm
) -> None:
    fake.spoil = spoil
    with pytest.raises(ServerError, match=told):
        served.complete(PROMPTS, 8)


def test_the_key_is_sent_and_never_shown(checkpoint: str) -> None:
    with serving(checkpoint, key="sesame-1234") as guarded:
        assert CompletionServer(guarded.url, "sesame-1234").get("/v1/models")["data"]
        with pytest.raises(ServerError, match="VLLM_API_KEY") as refused:
            CompletionServer(guarded.url, "wrong-5678").get("/v1/models")
        assert "5678" not in str(refused.value) + repr(CompletionServer(guarded.url, "wrong-5678"))


def test_a_server_that_is_down_silent_or_no_web_server_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(ServerError, match=r"has not answered /v1/models for 0\.2 s") as late:
            CompletionServer(url, patience=0.2).get("/v1/models")
        assert not isinstance(late.value, Unreachable), "it may be at work"
        assert time.monotonic() - began < 5
    with pytest.raises(Unreachable, match="no server listens at"):
        CompletionServer(url).get("/v1/models")


@pytest.mark.parametrize("kept", [True, False])
def test_ends_are_those_that_the_loaded_model_has(kept: bool, checkpoint: str, tmp_path: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    model.generation_config = GenerationConfig(eos_token_id=[1, 7])
    model.save_pretrained(tmp_path)
    if not kept:
        (tmp_path / "generation_config.json").unlink()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).generation_config.eos_token_id
    expected = {1, 7} if kept else {1}
    assert ({loaded} if isinstance(loaded, int) else set(loaded)) == expected
    assert folder_ends(tmp_path, AutoConfig.from_pretrained(tmp_path), tokenizer) == expected
