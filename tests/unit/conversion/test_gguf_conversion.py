import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from llama_cpp import llama_cpp
from small_gguf import HEAD, HEADS, KEY_HEADS, LAYERS, SPECIAL, TOKENS, values, write_llama

from quail_lightning.conversion.gguf_conversion import check_room, convert_gguf, is_converted
from quail_lightning.conversion.gguf_header import read_header
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_config, load_model, read_provenance, stored_dtype
from quail_lightning.models.weight_files import WeightFiles
from quail_lightning.storage.gguf_files import converted_folder

pytest.importorskip("gguf")
NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def in_llama(name: str) -> str:
    """The Hugging Face name of a ggml tensor of a Llama."""
    if name.startswith("blk."):
        _, layer, part, _ = name.split(".")
        return f"model.layers.{layer}.{NAMES[part]}.weight"
    return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]


def unpermuted(name: str, value: np.ndarray) -> np.ndarray:
    """Query and key rows in Hugging Face's order, row by row.

    llama.cpp puts the two coordinates that are rotated together side by side: row 2 i + j of a head is row
    j · d/2 + i in Hugging Face's format.
    """
    if ".attn_q." not in name and ".attn_k." not in name:
        return value
    result = np.empty_like(value)
    for head in range(HEADS if ".attn_q." in name else KEY_HEADS):
        for i in range(HEAD // 2):
            for j in range(2):
                result[head * HEAD + j * (HEAD // 2) + i] = value[head * HEAD + 2 * i + j]
    return result


def stored(folder):
    """Name → values, read from the files themselves."""
    with WeightFiles(str(folder)) as files:
        return {
            name: files.read(name, 0, int(np.prod(shape))).reshape(shape) for name, shape in files.shapes.items()
        }


def check_equal(folder, expected):
    found = stored(folder)
    assert found.keys() == {in_llama(name) for name in expected}
    for name, value in expected.items():
        assert np.array_equal(found[in_llama(name)].float().numpy(), unpermuted(name, value)), name


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4"])
def test_every_weight_is_what_the_package_gguf_reads_from_its_bytes(tmp_path, kind):
    expected = write_llama(tmp_path / "small.gguf", lambda name: kind)
    assert convert_gguf(read_header(tmp_path / "small.gguf"), tmp_path / "model")
    check_equal(tmp_path / "model", expected)
    made = read_provenance(tmp_path / "model")["converted"]
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16}.get(kind, torch.float32)
    assert stored_dtype(str(tmp_path / "model")) == dtype
    assert {value.dtype for value in stored(tmp_path / "model").values()} == {dtype}
    assert made["dtype"] == str(dtype).removeprefix("torch.")
    assert made["rounded"] is False
    assert made["tensors"]["blk.1.ffn_up.weight"] == kind
    assert made["tensors"]["blk.1.ffn_norm.weight"] == "F32"


@pytest.mark.parametrize(("kind", "size", "halves"), [("Q4_K", 144, (0, 2)), ("Q6_K", 210, (208,))])
def test_types_that_the_package_does_not_write_are_read_from_any_bytes(tmp_path, kind, size, halves):
    blocks = np.random.default_rng(1).integers(0, 256, (64, 1, size), np.uint8)
    for place in halves:  # scales as halves: any bytes might be infinite
        blocks[:, :, place : place + 2] = np.frombuffer(np.float16(0.013).tobytes(), np.uint8)
    name = "blk.1.ffn_down.weight"
    mixed = values() | {name: blocks.reshape(64, size)}
    expected = write_llama(tmp_path / "s.gguf", lambda each: kind if each == name else "Q8_0", weights=mixed)
    convert_gguf(read_header(tmp_path / "s.gguf"), tmp_path / "model")
    check_equal(tmp_path / "model", expected)


def test_a_16_bit_file_stays_so_only_where_its_wider_tensors_fit(tmp_path):
    odd = values() | {"output_norm.weight": np.full(64, 1 + 2**-20, np.float32)}
    expected = write_llama(tmp_path / "odd.gguf", lambda name: "BF16", weights=odd)
    convert_gguf(read_header(tmp_path / "odd.gguf"), tmp_path / "model")
    assert stored_dtype(str(tmp_path / "model")) == torch.float32
    check_equal(tmp_path / "model", expected)


def test_a_dtype_that_is_asked_for_rounds_to_the_nearest_value_and_says_so(tmp_path):
    expected = write_llama(tmp_path / "small.gguf", lambda name: "Q4_1")
    convert_gguf(read_header(tmp_path / "small.gguf"), tmp_path / "model", "bfloat16")
    rounded = {name: torch.from_numpy(value).bfloat16().float().numpy() for name, value in expected.items()}
    check_equal(tmp_path / "model", rounded)
    assert read_provenance(tmp_path / "model")["converted"]["rounded"] is True
    assert "rounded to the nearest" in (tmp_path / "model" / "README.md").read_text()
    large = values() | {"output_norm.weight": np.full(64, 1e6, np.float32)}
    write_llama(tmp_path / "large.gguf", weights=large)
    with pytest.raises(InputError, match=r"model.norm.weight .* holds values that torch.float16 cannot"):
        convert_gguf(read_header(tmp_path / "large.gguf"), tmp_path / "large", "float16")
    assert not (tmp_path / "large").exists()


def test_the_result_is_a_whole_checkpoint_that_this_program_loads(tmp_path):
    write_llama(tmp_path / "small.gguf", lambda name: "Q5_1", metadata={"general.license": "mit"})
    convert_gguf(read_header(tmp_path / "small.gguf"), tmp_path / "model")
    model = load_model(str(tmp_path / "model"), torch.float32)
    config = load_config(str(tmp_path / "model"))
    assert getattr(config, "quantization_config", None) is None
    assert config.tie_word_embeddings
    assert config.rope_parameters["rope_theta"] == 10000
    assert (config.bos_token_id, config.eos_token_id) == (TOKENS.index(SPECIAL[1]), TOKENS.index(SPECIAL[0]))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    card = (tmp_path / "model" / "README.md").read_text()
    assert 'license: "mit"\n' in card
    assert "| Q5_1 | 15 |" in card
    assert "Q5_1's (5 bits, blocks of 32)" in card


def test_the_same_digest_is_converted_once_and_anything_else_in_the_folder_is_refused(tmp_path):
    write_llama(tmp_path / "a.gguf")
    write_llama(tmp_path / "b.gguf", weights=values(1))
    header, folder = read_header(tmp_path / "a.gguf"), tmp_path / "model"
    assert convert_gguf(header, folder)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert not convert_gguf(header, folder)
    shutil.copy(tmp_path / "a.gguf", tmp_path / "same.gguf")
    assert is_converted(tmp_path / "same.gguf", folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="differ in sha256"):
        convert_gguf(read_header(tmp_path / "b.gguf"), folder)
    with pytest.raises(InputError, match="differ in asked_dtype"):
        convert_gguf(header, folder, "bfloat16")


def test_a_conversion_of_another_form_is_made_anew_where_it_lies_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = write_llama(Path("a.gguf"))
    header, folder = read_header(Path("a.gguf")), converted_folder(Path("a.gguf"))
    for place in (folder, Path("elsewhere")):
        assert convert_gguf(header, place)
        noted = json.loads((place / "provenance.json").read_text())
        noted["converted"]["form"] -= 1
        (place / "provenance.json").write_text(json.dumps(noted))
    (folder / "README.md").write_text("old")
    with pytest.raises(InputError, match="differ in form"):
        convert_gguf(header, Path("elsewhere"))
    assert not is_converted(Path("a.gguf"), folder)
    assert convert_gguf(header, folder)
    assert not convert_gguf(header, folder)
    assert (folder / "README.md").read_text() != "old"
    check_equal(folder, expected)
    with pytest.raises(InputError, match="differ in asked_dtype"):
        is_converted(Path("a.gguf"), folder, "bfloat16")


@pytest.mark.parametrize(
    ("kind", "dtype", "width"),
    [("Q4_0", None, 4), ("Q4_0", "bfloat16", 2), ("F32", None, 4), ("BF16", None, 2), ("BF16", "float32", 4)],
)
def test_the_disk_must_hold_what_is_stored(tmp_path, monkeypatch, kind, dtype, width):
    write_llama(tmp_path / "a.gguf", lambda name: kind)
    header = read_header(tmp_path / "a.gguf")
    need = width * sum(value.size for value in values().values())
    monkeypatch.setattr("quail_lightning.storage.disk_room.free_room", lambda folder: need)
    check_room(header, tmp_path / "model", dtype)
    monkeypatch.setattr("quail_lightning.storage.disk_room.free_room", lambda folder: need - 1)
    with pytest.raises(InputError, match=r"the converted checkpoint needs .* free"):
        check_room(header, tmp_path / "model", dtype)


def test_a_16_bit_file_that_becomes_wider_asks_the_disk_again(tmp_path, monkeypatch):
    odd = values() | {"output_norm.weight": np.full(64, 1 + 2**-20, np.float32)}
    write_llama(tmp_path / "odd.gguf", lambda name: "BF16", weights=odd)
    room = 3 * sum(value.size for value in odd.values())  # between the two
    monkeypatch.setattr("quail_lightning.models.saving.MARGIN", 0)
    monkeypatch.setattr("quail_lightning.storage.disk_room.free_room", lambda folder: room)
    with pytest.raises(InputError, match=r"the converted checkpoint needs .* free"):
        convert_gguf(read_header(tmp_path / "odd.gguf"), tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["odd.gguf"]


def test_the_memory_must_hold_all_weights_and_what_reading_the_largest_takes(tmp_path, monkeypatch):
    write_llama(tmp_path / "a.gguf", lambda name: "Q4_0")
    sizes = [value.size for value in values().values()]
    need = 4 * (sum(sizes) + 2.5 * max(sizes))
    monkeypatch.setattr("quail_lightning.models.memory.main_memory", lambda: need)
    check_room(read_header(tmp_path / "a.gguf"), tmp_path / "model")
    monkeypatch.setattr("quail_lightning.models.memory.main_memory", lambda: need - 1)
    with pytest.raises(InputError, match=r"converting .*a.gguf needs .*, and the memory"):
        check_room(read_header(tmp_path / "a.gguf"), tmp_path / "model")


def test_what_a_file_says_of_itself_adds_no_line_to_the_card(tmp_path):
    said = {"general.license": 'mit\ntags: ["x"]', "general.name": "A\n\n# model\n---"}
    write_llama(tmp_path / "a.gguf", metadata=said)
    convert_gguf(read_header(tmp_path / "a.gguf"), tmp_path / "model")
    _, head, body = (tmp_path / "model" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head) == {"library_name": "transformers", "license": 'mit tags: ["x"]'}
    assert body.splitlines()[1] == "# A # model ---"


def test_too_little_room_is_said_before_anything_is_read(tmp_path, monkeypatch):
    write_llama(tmp_path / "a.gguf")
    monkeypatch.setattr("quail_lightning.storage.disk_room.free_room", lambda folder: 1000)
    with pytest.raises(InputError, match=r"the converted checkpoint needs .* free"):
        convert_gguf(read_header(tmp_path / "a.gguf"), tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_a_disk_that_fills_while_it_is_saved_is_left_as_it_was(tmp_path, monkeypatch):
    def full(self, folder, **options):
        (folder / "half").write_bytes(b"half a model")
        if "state_dict" not in options:  # the real one, not the trial without weights
            raise OSError(errno.ENOSPC, "No space left on device")

    write_llama(tmp_path / "a.gguf")
    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        convert_gguf(read_header(tmp_path / "a.gguf"), tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"more": {"rope_freqs.weight": np.ones(8, np.float32)}}, "no place .*: rope_freqs.weight"),
        ({"more": {"blk.0.attn_q.bias": np.ones(64, np.float32)}}, "no place .*: blk.0.attn_q.bias"),
        ({"own": {"attention.value_length": 32}}, "attention.value_length: 16 in place of 32"),
        ({"own": {"feed_forward_length": 128}}, "of another shape than its config says"),
        ({"own": {"block_count": 3}}, "layers.2.* missing"),
    ],
)
def test_what_the_library_would_leave_out_or_make_up_is_refused(tmp_path, changes, message):
    write_llama(tmp_path / "a.gguf", **changes)
    with pytest.raises(InputError, match=message):
        convert_gguf(read_header(tmp_path / "a.gguf"), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    broken = values()
    broken["blk.0.ffn_up.weight"][3, 5] = np.nan
    write_llama(tmp_path / "a.gguf", weights=broken)
    with pytest.raises(InputError, match=r"mlp.up_proj.weight .* holds NaN or infinity"):
        convert_gguf(read_header(tmp_path / "a.gguf"), tmp_path / "model")


CONVERT = """
import sys
from pathlib import Path
from quail_lightning.conversion.gguf_conversion import convert_gguf
from quail_lightning.conversion.gguf_header import read_header
print("made" if convert_gguf(read_header(Path(sys.argv[1])), Path(sys.argv[2])) else "reused")
"""


@pytest.mark.slow
def test_of_two_processes_at_once_one_converts_and_the_other_waits(tmp_path):
    expected = write_llama(tmp_path / "a.gguf")
    command = [sys.executable, "-c", CONVERT, str(tmp_path / "a.gguf"), str(tmp_path / "model")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0].split()[-1] for process in processes]
    assert sorted(said) == ["made", "reused"]
    check_equal(tmp_path / "model", expected)
    assert json.loads((tmp_path / "model" / "provenance.json").read_text())["converted"]["file"] == "a.gguf"


def further(parts: dict[str, int]) -> dict[str, np.ndarray]:
    """Vectors that each layer of an architecture has beside a Llama's tensors."""
    draws = np.random.default_rng(2)
    return {
        f"blk.{layer}.{part}": draws.normal(1, 0.3, size).astype(np.float32)
        for layer in range(LAYERS)
        for part, size in parts.items()
    }


BIASES = {"attn_q.bias": HEADS * HEAD, "attn_k.bias": KEY_HEADS * HEAD, "attn_v.bias": KEY_HEADS * HEAD}
NORMS = {"attn_q_norm.weight": HEAD, "attn_k_norm.weight": HEAD}
WIDTHS = {"attention.key_length": HEAD, "attention.value_length": HEAD}


@pytest.mark.parametrize(
    ("architecture", "parts", "own"), [("llama", {}, {}), ("qwen2", BIASES, {}), ("qwen3", NORMS, WIDTHS)]
)
def test_log_likelihoods_are_those_of_llama_cpp(tmp_path, architecture, parts, own):
    pytest.importorskip("xllamacpp")
    write_llama(tmp_path / "a.gguf", architecture=architecture, own=own, more=further(parts))
    convert_gguf(read_header(tmp_path / "a.gguf"), tmp_path / "model")
    prompt = [5, 77, 120, 3, 200, 260, 31]
    with llama_cpp(tmp_path / "a.gguf") as running:
        theirs = running.log_probabilities(prompt, len(TOKENS)).double()
    with torch.no_grad():
        logits = load_model(str(tmp_path / "model"), torch.float32)(torch.tensor([prompt])).logits[0, -1]
    ours = logits.double().log_softmax(-1)
    named = ~theirs.isnan()
    assert named.sum() > 200
    assert (ours - theirs)[named].abs().max() < 1e-3
    assert ours.max() - ours.min() > 1  # another order of rows would be seen
