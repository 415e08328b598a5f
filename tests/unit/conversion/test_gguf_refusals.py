import numpy as np
import pytest
from small_gguf import add_key, numbers, tokenizer_keys, values, write_llama

from quail_lightning.conversion.gguf_header import read_header
from quail_lightning.conversion.gguf_refusals import check_convertible
from quail_lightning.errors import InputError

pytest.importorskip("gguf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "rwkv6"}, r"got 'rwkv6'\. Allowed: .*llama, .*qwen3"),
        ({"architecture": "t5"}, "got 't5'"),
        ({"architecture": "clip"}, r"encoder \(mmproj\)"),
        ({"metadata": {"general.type": "mmproj"}}, r"encoder \(mmproj\)"),
        ({"metadata": {"general.type": "adapter"}}, "general.type: adapter"),
        ({"metadata": {"split.count": 3}}, "one of 3 parts .*llama-gguf-split --merge"),
        ({"metadata": {"tokenizer.ggml.model": None}}, "holds no tokenizer"),
        ({"own": {"rope.scaling.type": "yarn"}}, "rope.scaling.type: yarn"),
        ({"own": {"attention.scale": 0.5}}, "attention.scale: 0.5"),
        ({"own": {"expert_count": 8}}, "expert_count: 8"),
        ({"metadata": {"split.count": "x"}}, "split.count cannot be x"),
        ({"metadata": {"tokenizer.ggml.bos_token_id": "x"}}, "bos_token_id is x"),
        ({"metadata": {"tokenizer.ggml.bos_token_id": [1]}}, r"bos_token_id is \[1\]"),
        ({"metadata": {"tokenizer.ggml.pre": ["smollm"]}}, r"tokenizer.ggml.pre: \['smollm'\]"),
        ({"metadata": {"tokenizer.ggml.add_bos_token": "x"}}, "add_bos_token is neither true nor false"),
        ({"metadata": {"tokenizer.chat_template": 7}}, "chat_template is no text"),
        ({"metadata": {"quail.provenance": "{"}}, "quail.provenance holds no JSON object"),
        ({"metadata": {"quail.provenance": 7}}, "quail.provenance holds no JSON object"),
        ({"metadata": {"quail.provenance": "[" * 100_000}}, "quail.provenance holds no JSON object"),
        ({"metadata": {"quail.provenance": "{}"}}, "quail.provenance does not say by which precision"),
    ],
)
def test_what_no_language_model_can_be_made_of_is_refused_by_name(tmp_path, changes, message):
    write_llama(tmp_path / "a.gguf", **changes)
    with pytest.raises(InputError, match=message):
        check_convertible(read_header(tmp_path / "a.gguf"))


def test_keys_that_change_nothing_are_no_reason(tmp_path):
    write_llama(
        tmp_path / "a.gguf", own={"rope.scaling.type": "none", "expert_count": 0, "attention.causal": True}
    )
    check_convertible(read_header(tmp_path / "a.gguf"))


def test_a_vocabulary_alone_is_refused(tmp_path):
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(InputError, match="holds no tensors"):
        check_convertible(read_header(tmp_path / "a.gguf"))


def test_a_type_that_the_package_cannot_dequantize_is_refused_with_those_that_it_can(tmp_path):
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    keys = {f"llama.{key}": value for key, value in numbers().items()} | tokenizer_keys()
    for key, value in keys.items():
        add_key(writer, key, value)
    for name, value in values().items():
        whole_numbers = name == "blk.0.ffn_up.weight"
        data = np.zeros(value.shape, np.int8) if whole_numbers else value
        writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType.I8 if whole_numbers else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"type I8, .*: blk.0.ffn_up.weight.*Allowed: .*Q4_0.*Q6_K"):
        check_convertible(read_header(tmp_path / "a.gguf"))
