"""A random Llama for tests that need nothing but its shape."""

import os
from collections.abc import Callable

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the library is imported; no test asks the hub
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # read when torch is imported; cores are shared out
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[..., LlamaForCausalLM]:
    """Builds a random Llama; widths are multiples of 64, the block of bitsandbytes."""

    def build(dtype: torch.dtype = torch.float32, tied: bool = False, width: int = 64) -> LlamaForCausalLM:
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=tied,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return LlamaForCausalLM(config).to(dtype).eval()

    return build
