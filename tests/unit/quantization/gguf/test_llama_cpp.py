"""llama.cpp itself loads what is written, cuts texts alike and gives the copy's probabilities."""

import pytest
import torch
from llama_cpp import llama_cpp
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from transformers import LlamaConfig, MistralConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config

from quail_lightning.quantization.gguf.file import write
from quail_lightning.quantization.gguf.quantizer import Gguf

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

IDS = torch.randint(3, 390, (24,), generator=torch.Generator().manual_seed(6)).tolist()
ENDS = (6, 12, 18, 24)  # tokens after which the next one's probabilities are compared


def ours(model) -> torch.Tensor:
    """[ends, vocabulary] log-probabilities of the token after each end."""
    with torch.no_grad():
        logits = model.float()(torch.tensor([IDS])).logits[0]
    return logits[[end - 1 for end in ENDS]].log_softmax(-1)


def distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Root of the mean squared difference of log-probabilities, nats."""
    return (first - second).square().mean().sqrt().item()


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "llama-bpe", "qwen2", "default"])
def test_texts_are_cut_alike(name, wide_model, tokenizers_by_name, texts, tmp_path):
    tokenizer = tokenizers_by_name[name]
    write(wide_model(num_hidden_layers=1), tokenizer, tmp_path / "model.gguf", {}, 0, {})
    with llama_cpp(tmp_path / "model.gguf") as running:
        for text in texts:
            assert running.tokens(text) == tokenizer(text).input_ids, text


@pytest.mark.parametrize("scheme", ["never", "always", "first"])
def test_texts_are_cut_alike_by_metaspace_but_for_what_the_remark_says(
    scheme, wide_model, tokenizers_by_name, tmp_path
):
    own = Tokenizer.from_str(tokenizers_by_name["default"].backend_tokenizer.to_str())
    own.normalizer = normalizers.Sequence([])
    own.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, bos_token="<s>", eos_token="</s>")
    write(wide_model(num_hidden_layers=1), tokenizer, tmp_path / "model.gguf", {}, 0, {})
    with llama_cpp(tmp_path / "model.gguf") as running:
        for text, alike in {
            "the he  and he": True,
            " the an": scheme == "never",
            "the</s>the an": scheme != "first",
            "the</s> the": scheme == "never",
        }.items():
            assert (running.tokens(text) == tokenizer(text).input_ids) == alike, text


SCALED = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (LlamaConfig, {}),
        (LlamaConfig, {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
        (LlamaConfig, {"rope_parameters": SCALED}),
        (LlamaConfig, {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}}),
        (MistralConfig, {"head_dim": 32, "sliding_window": None}),
        (Qwen2Config, {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
        (Qwen3Config, {"head_dim": 32}),
    ],
    ids=["llama", "llama-tied-biases", "llama-scaled", "llama-linear", "mistral", "qwen2", "qwen3"],
)
def test_unquantized_files_give_the_model_s_probabilities(
    config, changes, wide_model, tokenizers_by_name, tmp_path
):
    """In float32, where nothing but the order of sums differs: names, rows, positions and biases are right."""
    model = wide_model(config, **changes)
    write(model, tokenizers_by_name["smollm"], tmp_path / "model.gguf", {}, 0, {})
    with llama_cpp(tmp_path / "model.gguf") as running:
        found = torch.stack([running.log_probabilities(IDS[:end], 448) for end in ENDS])
    expected = ours(model)
    assert expected.std() > 0.3, "a flat distribution would agree with anything"
    assert distance(found, expected) < 1e-4  # measured: 3e-6


@pytest.mark.parametrize("file_type", ["q4_k_m", "q4_0", "q8_0"])
def test_quantized_files_give_the_copy_s_probabilities_but_for_8_bit_activations(
    file_type, wide_model, tokenizers_by_name, tmp_path
):
    """llama.cpp rounds what a product reads to 8 bits; the copy with inputs rounded so gives its probabilities.

    Measured: 6e-7 nats where no input lies at a boundary between two of the 255 levels; one that sums in another
    order push over it costs a part of what rounding all of them does (at most 0.54 of it, on a Xeon with AMX).
    """
    model, quantizer = wide_model(), Gguf(file_type)
    quantizer.write_file(model, tokenizers_by_name["smollm"], tmp_path / "model.gguf", {})
    with llama_cpp(tmp_path / "model.gguf") as running:
        found = torch.stack([running.log_probabilities(IDS[:end], 448) for end in ENDS])
    copy, types = quantizer.quantize(model), quantizer.types(model)
    exact = ours(copy)
    for name, module in copy.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(rounding(256 if types[f"{name}.weight"].endswith("_K") else 32))
    cost = distance(ours(copy), exact)
    assert distance(found, ours(copy)) < 0.75 * cost
    assert distance(found, exact) < 1.5 * cost
    assert distance(found, ours(model)) > 5 * cost or file_type == "q8_0", "another format would pass as well"


def rounding(block: int):
    """A hook that rounds a product's input as llama.cpp does: a scale for each block, of 32 in half precision."""

    def hook(_, given):
        blocks = given[0].reshape(-1, block)
        scale = blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / 127
        stored = scale.half().float() if block == 32 else scale
        return ((blocks / scale).round() * stored).reshape(given[0].shape)

    return hook
