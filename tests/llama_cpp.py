"""A model in llama.cpp's own server, in a process of its own: its threads end with it, whatever they wait for."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

_SERVER = """
import os, sys
import xllamacpp
options = xllamacpp.CommonParams()
options.model.path = sys.argv[1]
options.n_ctx, options.n_parallel, options.port, options.n_gpu_layers = 256, 1, 0, 0
options.warmup, options.verbosity = False, -1
options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
options.cache_type_k = options.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # half precision
server = xllamacpp.Server(options)
print("LISTENS", server.listening_address, flush=True)
sys.stdin.read()
os._exit(0)
"""
SECONDS = 60  # that an answer may take


class LlamaCpp:
    """The running server.

    Args:
        address: as ``http://127.0.0.1:1234``.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def tokens(self, text: str) -> list[int]:
        """How it cuts a text."""
        return self._post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]

    def log_probabilities(self, ids: Sequence[int], vocabulary: int) -> torch.Tensor:
        """[vocabulary] of the next token; NaN where it names none."""
        asked = {
            "prompt": list(ids),
            "n_predict": 1,
            "n_probs": vocabulary,
            "cache_prompt": False,
            "temperature": 0,
        }
        # a byte that is no character would be withheld with its probabilities, which the bias leaves alone
        asked["logit_bias"] = [[self.tokens("a")[-1], 100.0]]
        found = torch.full((vocabulary,), torch.nan)
        for token in self._post("/completion", asked)["completion_probabilities"][0]["top_logprobs"]:
            found[token["id"]] = token["logprob"]
        return found

    def _post(self, path: str, content: dict) -> dict:
        request = urllib.request.Request(
            self._address + path, json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return json.loads(answer.read())


@contextmanager
def llama_cpp(path: Path) -> Iterator[LlamaCpp]:
    """Serve a GGUF file for as long as the block lasts."""
    command = [sys.executable, "-c", _SERVER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = next((line for line in process.stdout if line.startswith("LISTENS ")), None)
            assert said is not None, "llama.cpp did not load the file"
            yield LlamaCpp(said.split()[1])
        finally:
            process.kill()
