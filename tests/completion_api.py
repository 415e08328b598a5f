"""A server that speaks vLLM's completions API, its tokens by transformers' own greedy loop.

As a module: ``serving`` in a thread. As a program it takes the command line of ``vllm serve``.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# those fields of vLLM's CompletionRequest (0.11 to 0.33) that may be sent; it ignores others, this refuses them
KNOWN = {
    *("model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty"),
    *("presence_penalty", "frequency_penalty", "ignore_eos", "stop_token_ids", "stop", "return_token_ids"),
}
Answer = tuple[int, bytes]


class FakeVllm(ThreadingHTTPServer):
    """One model under one name.

    Attributes:
        folder: that it says it has loaded.
        bodies: of the completion requests so far.
        spoil: takes a completion's choice and gives the answer in its place; None: nothing is spoiled.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: str, port: int = 0, key: str | None = None, positions: int = 256) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.folder, self.key, self.positions = folder, key, positions
        self.name = folder
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.bodies: list[dict[str, Any]] = []
        self.spoil: Callable[[dict[str, Any]], Answer] | None = None
        self.alone = threading.Lock()
        self.under_way = self.most_under_way = 0
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        import torch

        assert body["temperature"] == 0, "greedy"
        assert body["ignore_eos"], "only then its own EOS has no say"
        prompt = torch.tensor([body["prompt"]])
        ends = body["stop_token_ids"]
        with self.alone, torch.no_grad():  # one prompt at a time, unpadded
            whole = self.model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=body["max_tokens"],
                do_sample=False,
                eos_token_id=ends or None,
                pad_token_id=0,
            )
        new = whole[0, prompt.shape[1] :].tolist()
        reason = "stop" if new[-1] in ends else "length"
        for length in range(1, len(new) + 1):
            if any(stop in self.tokenizer.decode(new[:length]) for stop in body["stop"]):
                new, reason = new[:length], "stop"
                break
        return {
            "index": 0,
            "text": "text that is made on another way than ours",
            "finish_reason": reason,
            "token_ids": new,
            "prompt_token_ids": body["prompt"],
        }


class Handler(BaseHTTPRequestHandler):
    server: FakeVllm

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def refused(self) -> bool:
        if self.server.key is None or self.headers["Authorization"] == f"Bearer {self.server.key}":
            return False
        self.answer(401, b'{"error": "Unauthorized"}')
        return True

    def do_GET(self) -> None:
        if self.refused():
            return
        own = {"id": self.server.name, "root": self.server.folder, "max_model_len": self.server.positions}
        adapter = {"id": "adapter", "root": self.server.folder, "parent": self.server.name}
        self.answer(200, json.dumps({"object": "list", "data": [adapter, own]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.refused():
            return
        if self.path != "/v1/completions" or body["model"] != self.server.name or set(body) - KNOWN:
            self.answer(404, json.dumps({"error": {"message": f"no such thing: {self.path}"}}).encode())
            return
        self.server.bodies.append(body)
        self.server.under_way += 1
        self.server.most_under_way = max(self.server.most_under_way, self.server.under_way)
        choice = self.server.complete(body)
        self.server.under_way -= 1
        if self.server.spoil is not None:
            self.answer(*self.server.spoil(choice))
        else:
            self.answer(200, json.dumps({"choices": [choice]}).encode())


@contextmanager
def serving(folder: str, **options: Any) -> Iterator[FakeVllm]:
    """The server in a thread of this process."""
    with FakeVllm(folder, **options) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("folder")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    for name in ("--dtype", "--generation-config", "--max-model-len"):
        parser.add_argument(name)
    parser.add_argument("--disable-uvicorn-access-log", action="store_true")
    given = parser.parse_args()
    assert given.host == "127.0.0.1"
    print("loaded", given, flush=True)
    FakeVllm(given.folder, given.port, os.environ["VLLM_API_KEY"]).serve_forever()
