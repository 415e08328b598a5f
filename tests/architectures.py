"""Tiny random models of the architectures that users bring, with the features that set each apart."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

VOCABULARY = 320  # some tokenizer classes add special tokens of their own to a trained one
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GROUPED: dict[str, Any] = SIZES | {"num_key_value_heads": 2}
ROPE_SCALING = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SLIDING: dict[str, Any] = {"sliding_window": 8}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2}
GEMMA: dict[str, Any] = GROUPED | {"head_dim": 32, "query_pre_attn_scalar": 32, **SLIDING}

# name → (class of the configuration, what it is given)
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", GROUPED | {"rope_parameters": ROPE_SCALING}),
    "qwen2": ("Qwen2Config", GROUPED | {"bos_token_id": None}),
    "qwen3": ("Qwen3Config", GROUPED | {"head_dim": 32, "bos_token_id": None}),
    "gemma2": ("Gemma2Config", GEMMA | {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0}),
    "gemma3_text": ("Gemma3TextConfig", GEMMA | {"layer_types": ["sliding_attention", "full_attention"]}),
    "gemma3": (
        "Gemma3Config",
        {
            "text_config": GEMMA | {"layer_types": ["sliding_attention", "full_attention"]},
            "vision_config": {
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            },
            "mm_tokens_per_image": 4,
            "boi_token_index": 310,
            "eoi_token_index": 311,
            "image_token_index": 312,
        },
    ),
    "mistral": ("MistralConfig", GROUPED | {"head_dim": 32, **SLIDING}),
    "phi3": ("Phi3Config", GROUPED),
    "opt": (
        "OPTConfig",
        {key: value for key, value in SIZES.items() if key != "intermediate_size"}
        | {"ffn_dim": 256, "word_embed_proj_dim": 128, "dropout": 0.1},
    ),
    "gpt_neox": ("GPTNeoXConfig", SIZES),
    "gpt2": (
        "GPT2Config",
        {"vocab_size": VOCABULARY, "n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 256}
        | {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
    ),
    "mixtral": ("MixtralConfig", GROUPED | EXPERTS | {"num_local_experts": 4}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        GROUPED | EXPERTS | {"head_dim": 32, "num_experts": 4, "moe_intermediate_size": 128, "bos_token_id": None},
    ),
}


def tiny_model(name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> PreTrainedModel:
    """A random model, in evaluation mode, whose logits have some size and whose norms are not all alike."""
    import transformers

    kind, settings = CONFIGS[name]
    config = getattr(transformers, kind)(**settings | changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4)
                elif "norm" in parameter_name or "ln_" in parameter_name:
                    parameter.add_(0.3 * torch.randn_like(parameter))
    return model.to(dtype).eval()
