"""A checkpoint is whole, or refused by name: each case with its file or tensor, as one error."""

import json
import os
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.models import memory
from quail_lightning.models.checkpoint import check_whole, load_config, load_model
from quail_lightning.models.integrity import refuse_other_shapes
from quail_lightning.models.loading_report import gaps
from quail_lightning.models.weight_files import StoredTensor, WeightFiles

SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
EXPERTS = {"num_key_value_heads": 2, "intermediate_size": 64}
ARCHITECTURES = {
    "Llama": {"num_key_value_heads": 2, "intermediate_size": 128},
    "Gemma2": {"num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 64},
    "GPTNeoX": {"intermediate_size": 64},
    "Mixtral": EXPERTS | {"num_local_experts": 3},
    "OPT": {"ffn_dim": 64, "word_embed_proj_dim": 64},
    "Phi3": {"pad_token_id": 0, "intermediate_size": 64},
    "Qwen2": EXPERTS,
    "Qwen3Moe": EXPERTS | {"num_experts": 3, "moe_intermediate_size": 64, "num_experts_per_tok": 2},
}


def saved(folder, name, **other):
    if name == "GPT2":
        config = transformers.GPT2Config(vocab_size=64, n_embd=64, n_layer=2, n_head=4, n_positions=64)
        model = transformers.GPT2LMHeadModel(config)
    else:
        config = getattr(transformers, f"{name}Config")(**SIZES | ARCHITECTURES[name] | other)
        model = getattr(transformers, f"{name}ForCausalLM")(config)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole Llama."""
    return saved(tmp_path_factory.mktemp("whole") / "model", "Llama")


@pytest.fixture
def folder(whole, tmp_path):
    """A copy that may be spoiled."""
    return shutil.copytree(whole, tmp_path / "model")


def change(folder, stored=None, **config):
    """Rewrites tensors and config of a folder."""
    if stored is not None:
        file = folder / "model.safetensors"
        save_file(stored(load_file(file)), file, metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


def renamed(rename):
    return lambda stored: {rename(name): tensor for name, tensor in stored.items()}


def without(part):
    return lambda stored: {name: tensor for name, tensor in stored.items() if part not in name}


def refusal(folder):
    """The one line by which both the look at the headers and the loading refuse a folder."""
    with pytest.raises(InputError) as refused:
        check_whole(str(folder), torch.bfloat16)
    with pytest.raises(InputError) as again:
        load_model(str(folder), torch.bfloat16)
    assert str(refused.value) == str(again.value)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# --- whole ones are taken ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ARCHITECTURES, "GPT2"])
def test_every_architecture_s_own_folder_is_whole(name, tmp_path):
    check_whole(str(saved(tmp_path, name)), torch.bfloat16)
    load_model(str(tmp_path), torch.bfloat16)


def test_a_tied_head_and_buffers_of_older_checkpoints_may_differ(tmp_path):
    folder = saved(tmp_path / "tied", "Llama", tie_word_embeddings=True)
    old = {f"model.layers.{number}.self_attn.rotary_emb.inv_freq": torch.ones(8) for number in range(2)}
    change(folder, lambda stored: without("lm_head")(stored) | old)
    load_model(str(folder), torch.float32)
    folder = saved(tmp_path / "gpt2", "GPT2")
    mask = {f"h.{number}.attn.bias": torch.ones(1, 1, 64, 64) for number in range(2)}
    change(folder, lambda stored: renamed(lambda name: name.removeprefix("transformer."))(stored) | mask)
    load_model(str(folder), torch.float32)


def test_masks_and_frequencies_that_earlier_releases_stored_are_no_weights(tmp_path):
    at = "gpt_neox.layers.0.attention"
    old = {f"{at}.bias": torch.ones(1, 1, 64, 64, dtype=torch.bool), f"{at}.masked_bias": torch.tensor(-1e9)}
    old |= {f"{at}.rotary_emb.inv_freq": torch.ones(8)}
    change(saved(tmp_path / "neox", "GPTNeoX"), lambda stored: stored | old)
    load_model(str(tmp_path / "neox"), torch.float32)
    masked = {"transformer.h.1.attn.masked_bias": torch.tensor(-1e4)}
    change(saved(tmp_path / "gpt2", "GPT2"), lambda stored: stored | masked)
    load_model(str(tmp_path / "gpt2"), torch.float32)


def test_the_look_at_the_headers_changes_no_random_state(whole):
    state = torch.random.get_rng_state()
    check_whole(str(whole), torch.bfloat16)
    assert torch.equal(torch.random.get_rng_state(), state)


# --- names and shapes -------------------------------------------------------------------------------------

WRAPPED = {
    "torch.compile": ("_orig_mod.", lambda name: f"_orig_mod.{name}"),
    "torch.compile of the layers": ("_orig_mod.", lambda name: name.replace("layers.0", "layers.0._orig_mod")),
    "FSDP1": ("_fsdp_wrapped_module.", lambda name: name.replace("layers.1", "layers.1._fsdp_wrapped_module")),
    "FSDP1, whole": ("_fsdp_wrapped_module.", lambda name: f"_fsdp_wrapped_module.{name}"),
    "DDP": ("module.", lambda name: f"module.{name}"),
    "additional model.": ("model.", lambda name: f"model.{name}"),
    "PEFT": ("base_model.model.", lambda name: f"base_model.model.{name}"),
    "additional base_model.": ("base_model.", lambda name: f"base_model.{name}"),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_a_prefix_is_named_with_its_remedy(case, folder):
    prefix, rename = WRAPPED[case]
    change(folder, renamed(rename))
    said = refusal(folder)
    assert f"prefix '{prefix}'" in said
    assert "rename the tensors" in said


def test_the_first_few_missing_tensors_are_named(folder):
    change(folder, without("layers.1."))
    assert "model.layers.1.input_layernorm.weight, model.layers.1.mlp.down_proj.weight, " in (
        said := refusal(folder)
    )
    assert "and 6 more missing" in said


def test_an_untied_head_must_be_there(folder):
    change(folder, without("lm_head"))
    assert "lm_head.weight missing" in refusal(folder)


def test_more_and_fewer_layers_than_the_file_are_told_apart(folder):
    change(folder, num_hidden_layers=3)
    assert "model.layers.2." in refusal(folder)
    change(folder, num_hidden_layers=1)
    assert "in the files but not in the architecture" in refusal(folder)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"vocab_size": 128}, r"lm_head.weight (file [64, 64], config [128, 64])"),
        ({"intermediate_size": 64}, r"model.layers.0.mlp.down_proj.weight (file [64, 128], config [64, 64])"),
        ({"hidden_size": 10**6}, "of another shape"),
        ({"num_hidden_layers": 10**9}, "its config says 1,000,000,000 layers, its files hold 21 tensors"),
    ],
)
def test_shapes_that_differ_are_named_and_nothing_is_allocated(config, said, folder):
    change(folder, **config)
    assert said in refusal(folder)


@pytest.mark.parametrize(
    ("name", "lost", "said"),
    [
        ("Mixtral", "layers.1.block_sparse_moe.experts.2.w1", "experts.2.w1.weight missing"),
        ("Mixtral", "experts.1.", "of another shape"),
        ("Qwen3Moe", "layers.0.mlp.experts", "model.layers.0.mlp.experts"),
    ],
)
def test_an_expert_that_is_missing_is_seen(name, lost, said, tmp_path):
    change(saved(tmp_path, name), without(lost))
    assert said in refusal(tmp_path)


def test_gaps_are_what_a_tensor_s_like_have():
    assert gaps(["e.0.w1.x", "e.1.w1.x", "e.0.w2.x", "norm", "h.0.x"]) == ["e.1.w2.x"]


def test_weights_stored_as_whole_numbers_are_refused_unless_the_config_says_how_to_read_them(folder):
    change(folder, lambda stored: stored | {"model.norm.weight": torch.ones(64, dtype=torch.int8)})
    assert "model.norm.weight in" in (said := refusal(folder))
    assert "stored as I8" in said


@pytest.fixture(scope="module", params=["nf4", "int8"])
def quantized_once(whole, tmp_path_factory, request):
    from quail_lightning.quantization import load_quantizer

    folder = tmp_path_factory.mktemp("quantized") / request.param
    load_quantizer(request.param).quantize(load_model(str(whole), torch.bfloat16)).save_pretrained(folder)
    return folder


@pytest.fixture
def quantized(quantized_once, tmp_path):
    """A copy of a quantized checkpoint that may be spoiled."""
    return shutil.copytree(quantized_once, tmp_path / "model")


def test_a_quantized_checkpoint_is_taken_whole(quantized):
    check_whole(str(quantized), torch.bfloat16)
    load_model(str(quantized), torch.bfloat16)


@pytest.mark.parametrize(
    ("stored", "config", "said"),
    [
        (without("layers.1.mlp.up_proj"), {}, r"model\.layers\.1\.mlp\.up_proj\..* missing"),
        (without("layers.1."), {}, r"model\.layers\.1\.self_attn\.q_proj\.weight, .* missing"),
        (without("model.norm"), {}, r"model\.norm\.weight missing"),
        (None, {"num_hidden_layers": 3}, r"model\.layers\.2\.self_attn\.q_proj\.weight, .* missing"),
        (None, {"num_hidden_layers": 1}, r"model\.layers\.1\..* in the files but not in the architecture"),
        (renamed(lambda name: f"_orig_mod.{name}"), {}, r"prefix '_orig_mod\.'"),
        (renamed(lambda name: f"model.{name}"), {}, r"prefix 'model\.'"),
        (None, {"vocab_size": 10**9}, r"lm_head\.weight \(file \[64, 64\], config \[1000000000, 64\]\)"),
        (None, {"intermediate_size": 10**7}, r"mlp\.down_proj\.weight \(file .*, config \[64, 10000000\]\)"),
        (None, {"num_key_value_heads": 4}, r"k_proj\.weight \(file .*, config \[64, 64\]\)"),
        (None, {"head_dim": 10**11}, "another shape|needs .* and the memory"),
    ],
)
def test_a_quantized_checkpoint_that_is_not_whole_is_refused_by_name(stored, config, said, quantized):
    change(quantized, stored, **config)
    with pytest.raises(InputError, match=said):
        load_model(str(quantized), torch.bfloat16)


def test_a_quantized_layer_s_scale_that_is_no_number_is_named(quantized):
    def spoil(stored):
        name = next(key for key in stored if key.endswith(("up_proj.weight.absmax", "up_proj.SCB")))
        stored[name][-1] = float("nan")
        return stored

    change(quantized, spoil)
    with pytest.raises(InputError, match=r"up_proj\..* in .*model\.safetensors holds NaN"):
        load_model(str(quantized), torch.bfloat16)


def test_packed_weights_are_compared_by_their_outputs(whole):
    files = WeightFiles(str(whole))
    wanted = {"a.weight": torch.empty(64, 128, device="meta"), "b.weight": torch.empty(64, 128, device="meta")}
    packed = {name: StoredTensor("I32", (rows, 16), whole, 0) for name, rows in PACKED_ROWS.items()}
    files.stored = {"a.weight_packed": packed["right"], "a.weight_scale": packed["wrong"]}
    refuse_other_shapes(files, wanted)
    files.stored["b.weight_packed"] = packed["wrong"]
    with pytest.raises(InputError, match=r"b\.weight_packed \(file \[32, 16\], config \[64, 128\]\)"):
        refuse_other_shapes(files, wanted)


PACKED_ROWS = {"right": 64, "wrong": 32}


# --- adapters ---------------------------------------------------------------------------------------------


def test_an_adapter_is_named_as_what_it_is(folder):
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8, "lora_alpha": 8}')
    assert "full weights and an adapter" in refusal(folder)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    assert "is an adapter, and its adapter_config.json does not name its base" in refusal(folder)
    (folder / "config.json").unlink()
    assert "does not name its base" in refusal(folder)


# --- files ------------------------------------------------------------------------------------------------

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def spoil_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


def spoil_by_folder(path):
    path.unlink()
    path.mkdir()


def spoil_by_link(path):
    path.unlink()
    path.symlink_to("nowhere")


SPOILT = {
    "LFS pointer": (lambda path: path.write_bytes(POINTER), "Git LFS"),
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "pipe": (spoil_by_pipe, "no regular file but a pipe"),
    "folder": (spoil_by_folder, "no regular file but a folder"),
    "dangling link": (spoil_by_link, "points to nothing"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "is damaged"),
    "overwritten": (lambda path: path.write_bytes(b"\xff" * 300), "is damaged"),
}


@pytest.mark.parametrize("case", SPOILT)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "generation_config.json"])
def test_a_spoilt_file_is_named(case, name, folder):
    spoil, said = SPOILT[case]
    spoil(folder / name)
    refused = refusal(folder)
    assert str(folder / name) in refused
    assert said in refused


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_index_or_shard_is_named(case, whole, tmp_path):
    spoil, said = SPOILT[case]
    model = load_model(str(whole), torch.float32)
    for name in ("model.safetensors.index.json", "model-00002-of-00004.safetensors"):
        folder = tmp_path / name
        model.save_pretrained(folder, max_shard_size="100KB")
        assert (folder / name).exists()
        spoil(folder / name)
        refused = refusal(folder)
        assert name in refused
        assert said in refused or "lacks 1 of its" in refused or "neither model.safetensors" in refused


def write_index(folder, **placed):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))


@pytest.mark.parametrize("file", ["../model.safetensors", "parts/../../a.safetensors", "/tmp/a.safetensors"])
def test_an_index_names_files_of_its_folder_alone(file, folder):
    (folder / "model.safetensors").unlink()
    write_index(folder, a=file)
    assert f"names a file outside of its folder ({file})" in refusal(folder)


def test_two_models_in_one_folder_are_refused_and_an_index_without_its_files_is_not(folder):
    write_index(folder, a="part.safetensors")
    load_model(str(folder), torch.float32)
    write_index(folder, a="model.safetensors")
    load_model(str(folder), torch.float32)
    write_index(folder, a="part.safetensors")
    shutil.copy(folder / "model.safetensors", folder / "part.safetensors")
    assert "holds two models: model.safetensors, and part.safetensors" in refusal(folder)


def test_a_tensor_that_lies_in_two_shards_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    save_file({"model.norm.weight": torch.zeros(64)}, folder / "two.safetensors", metadata={"format": "pt"})
    write_index(folder, a="one.safetensors", b="two.safetensors")
    assert "model.norm.weight lies in one.safetensors too" in refusal(folder)


@pytest.mark.parametrize("name", ["chat_template.jinja", "vocab.json", "processor_config.json", "tokenizer.model"])
def test_a_pipe_by_any_name_blocks_nothing(name, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    os.mkfifo(folder / name)
    for load in (load_config, load_tokenizer):
        with pytest.raises(InputError, match=f"{name} is no regular file but a pipe"):
            load(str(folder))


@pytest.mark.parametrize("case", SPOILT)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_spoilt_tokenizer_is_named(case, name, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    spoil, said = SPOILT[case]
    spoil(folder / name)
    with pytest.raises(InputError, match=name) as refused:
        load_tokenizer(str(folder))
    assert said in str(refused.value)


def test_json_that_is_no_tokenizer_is_one_error(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": 3}}')
    with pytest.raises(InputError, match="no tokenizer could be loaded"):
        load_tokenizer(str(folder))


def test_every_flipped_bit_of_a_header_that_is_taken_leaves_the_same_model(folder):
    """Refused, or in bytes that mean nothing (white space): never another model."""
    file = folder / "model.safetensors"
    content, expected = file.read_bytes(), load_model(str(folder), torch.float32).state_dict()
    length = int.from_bytes(content[:8], "little")
    for place in [*range(8), *range(8, 8 + length, 29)]:
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        file.write_bytes(flipped)
        try:
            found = load_model(str(folder), torch.float32).state_dict()
        except InputError:
            continue
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items()), place


# --- values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_no_number_is_named_with_its_file(value, dtype, folder):
    def spoil(stored):
        stored["model.layers.1.mlp.up_proj.weight"][3, 5] = value
        return {name: tensor.to(dtype) for name, tensor in stored.items()}

    change(folder, spoil)
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj\.weight in .*model\.safetensors holds NaN"):
        load_model(str(folder), torch.bfloat16)


def test_an_expert_s_weight_is_named_as_it_is_stored(tmp_path):
    def spoil(stored):
        stored["model.layers.0.block_sparse_moe.experts.1.w2.weight"][0, 0] = float("nan")
        return stored

    change(saved(tmp_path, "Mixtral"), spoil)
    with pytest.raises(InputError, match=r"experts\.1\.w2\.weight in .* holds NaN"):
        load_model(str(tmp_path), torch.bfloat16)


def test_a_value_too_large_for_float16_is_refused_in_float16_alone(folder):
    change(folder, lambda stored: stored | {"model.norm.weight": torch.full((64,), 1e5)})
    load_model(str(folder), torch.bfloat16)
    with pytest.raises(InputError, match=r"model\.norm\.weight .* too large for torch\.float16"):
        load_model(str(folder), torch.float16)


# --- sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-64, 0, "x", 2.5, None, [64], True])
@pytest.mark.parametrize("size", ["hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads"])
def test_a_size_that_no_model_has_is_refused(size, value, folder):
    change(folder, **{size: value})
    assert size in (said := refusal(folder)) or "hidden size" in said


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"num_attention_heads": 5}, "not a multiple of the number of attention heads"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3, which does not divide its 4 heads"),
        ({"num_key_value_heads": 0}, "num_key_value_heads 0"),
        ({"head_dim": 0}, "head_dim 0"),
        ({"max_position_embeddings": -1}, "max_position_embeddings -1"),
        ({"hidden_act": "nope"}, "can be built"),
        ({"model_type": "nope"}, "nope"),
        ({"model_type": ["llama"]}, "no model could be loaded"),
        ({"dtype": "float99"}, "no model could be loaded"),
        ({"quantization_config": 5}, "no model could be loaded"),
        ({"transformers_weights": "other.safetensors"}, "names a weight file of its own"),
    ],
)
def test_a_config_that_fits_no_model_is_refused(config, said, folder):
    change(folder, **config)
    assert said in refusal(folder)


@pytest.mark.parametrize("content", ["[]", '"x"', "3", "null", "{}"])
def test_a_config_that_is_no_object_of_a_model_is_refused(content, folder):
    (folder / "config.json").write_text(content)
    refusal(folder)


def test_experts_that_are_asked_for_and_not_there_are_refused(tmp_path):
    for used in (9, 0):
        change(saved(tmp_path / str(used), "Mixtral"), num_experts_per_tok=used)
        assert f"num_experts_per_tok {used}, and has 3 experts" in refusal(tmp_path / str(used))


def test_a_model_larger_than_the_machine_is_refused_before_it_is_allocated(whole, monkeypatch):
    monkeypatch.setattr(memory, "main_memory", lambda: 100_000)
    with pytest.raises(InputError, match=r"needs 0\.2 MiB, and the memory of this machine is 0\.1 MiB"):
        check_whole(str(whole), torch.bfloat16)
    check_whole(str(whole), torch.bfloat16, share=0.1)


def test_frequencies_larger_than_the_machine_are_refused_before_the_library_computes_them(folder):
    change(folder, head_dim=10**12)
    assert "and the memory of this machine is" in refusal(folder)


def test_a_config_without_weights_is_read(folder):
    (folder / "model.safetensors").unlink()
    assert load_config(str(folder)).hidden_size == 64
    assert "no safetensors weights" in refusal(folder)
