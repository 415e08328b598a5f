"""Two small checkpoints, large enough that some tensors are looked up and some computed."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM


def llama(layers=2, width=192, dtype=torch.bfloat16, tied=False):
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=width,
        intermediate_size=448,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # norms of ones alone have no range, and are tested by themselves
                    parameter.add_(torch.randn(parameter.shape) * 0.1)
        return model.to(dtype)


def nudged(model, size=3e-4, seed=1):
    """Every weight moved, the extreme ones too, so that own grids differ from the reference's."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            change = torch.randn(parameter.shape, generator=generator) * size
            parameter.copy_((parameter.float() * 1.01 + change).to(parameter.dtype))
    return model


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Folders of a target in several shards and of a model unlearned from it, bfloat16."""
    folder = tmp_path_factory.mktemp("pair")
    llama().save_pretrained(folder / "target", max_shard_size="400KB")
    nudged(llama()).save_pretrained(folder / "unlearned", max_shard_size="600KB")
    return folder / "target", folder / "unlearned"
