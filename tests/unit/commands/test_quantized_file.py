"""`quail quantize` to GGUF: a file, or a folder with one, whole or not at all."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from quail_lightning.cli import main
from quail_lightning.commands import quantized_file
from quail_lightning.commands.quantize import quantize
from quail_lightning.errors import InputError, RunError
from quail_lightning.models.checkpoint import load_model, read_provenance, save_model
from quail_lightning.quantization import load_quantizer

gguf = pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> str:
    """A random Llama with a tokenizer that cuts as GPT-2's, saved by us."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the ash and the elm"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    folder = tmp_path_factory.mktemp("models") / "elm"
    own = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    save_model(model, own, folder, {"target": "trees/ash", "hub_token": "hf_abcdefghijklmnop1234"})
    return str(folder)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def field(path: Path, name: str):
    return gguf.GGUFReader(path).fields[name].contents()


def test_a_name_that_ends_in_gguf_is_the_file(saved, capsys):
    assert quantize(saved, "q4_k_m", "deep/elm.gguf") == Path("deep/elm.gguf")
    assert [path.name for path in Path("deep").iterdir()] == ["elm.gguf"]
    made = json.loads(field(Path("deep/elm.gguf"), "quail.provenance"))
    assert made["target"] == "trees/ash"
    assert "abcdefgh" not in json.dumps(made)
    assert "weights_sha256" not in made, "those are of the checkpoint's files"
    told = made["quantized"]
    assert (told["precision"], told["simulated"], told["backend"]) == ("q4_k_m", False, "xllamacpp")
    assert told["of_sha256"] == read_provenance(Path(saved))["weights_sha256"]
    assert told["tensors"] == {"Q8_0": 2, "Q5_0": 11, "Q6_K": 1, "Q4_K": 1, "F32": 5}
    copy = load_quantizer("q4_k_m").quantize(load_model(saved, torch.bfloat16).float())
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader("deep/elm.gguf").tensors}
    found = gguf.quants.dequantize(
        tensors["blk.1.ffn_down.weight"].data, tensors["blk.1.ffn_down.weight"].tensor_type
    )
    assert torch.equal(torch.from_numpy(found), copy.model.layers[1].mlp.down_proj.weight)


def test_a_folder_holds_the_file_with_card_and_provenance(saved):
    quantize(saved, "q8_0", "out")
    assert sorted(path.name for path in Path("out").iterdir()) == ["README.md", "model.gguf", "provenance.json"]
    noted = read_provenance(Path("out"))
    assert noted["quantized"]["precision"] == "q8_0"
    assert list(noted["weights_sha256"]) == ["model.gguf"]
    card = Path("out/README.md").read_text()
    assert "library_name: gguf" in card
    assert "tensors: 15 Q8_0, 5 F32" in card
    assert "llama-server -m model.gguf" in card
    assert "never are" not in card
    assert "simulated" not in card


def test_the_command_says_what_was_written_and_which_tensors_fell_back(saved, capsys):
    main(["quantize", saved, "--to", "q4_k_m", "--out", "elm.gguf"])
    said = capsys.readouterr().out
    assert "saved: elm.gguf (q4_k_m, 0.1 MiB, 100 % of the body's weights quantized)" in said
    assert "Q5_0 in place of Q4_K in rows of 64, which 256 does not divide" in said
    assert "simulated" not in said


@pytest.mark.parametrize(
    ("to", "out", "told"),
    [
        ("nf4", "m.gguf", r"nf4 is not written to a .gguf file.*Allowed: a folder.*q4_k_m, q4_0 or q8_0"),
        ("q4_0", "m.safetensors", r"not written to a .safetensors file.*a folder, or a name that ends in .gguf"),
        ("q4_0", "there.gguf", "out there.gguf exists already"),
    ],
)
def test_other_names_are_refused_before_anything_is_loaded(saved, to, out, told):
    Path("there.gguf").write_text("mine")
    with pytest.raises(InputError, match=told):
        quantize(saved, to, out)
    assert Path("there.gguf").read_text() == "mine"
    assert [path.name for path in Path().iterdir()] == ["there.gguf"]


def test_a_tokenizer_that_llama_cpp_lacks_is_refused_before_a_weight_is_loaded(checkpoint, monkeypatch):
    monkeypatch.setattr("quail_lightning.commands.quantize.load_model", lambda *_: pytest.fail("loaded"))
    with pytest.raises(InputError, match=r"llama\.cpp has no tokenizer that cuts texts as this model's does"):
        quantize(checkpoint, "q4_0", "m.gguf")


def test_too_little_room_is_said_before_a_weight_is_loaded(saved, monkeypatch):
    monkeypatch.setattr("quail_lightning.storage.disk_room.free_room", lambda _: 2**20)
    with pytest.raises(InputError, match=r"the file needs 32\.\d MiB and the disk of m.gguf has 1.0 MiB free"):
        quantize(saved, "q4_0", "m.gguf")


@pytest.mark.parametrize("out", ["m.gguf", "m"])
def test_a_disk_that_fills_leaves_nothing(saved, monkeypatch, out):
    def fail(*_):
        raise OSError(28, "No space left on device", out)

    monkeypatch.setattr(quantized_file, "publish", fail)
    with pytest.raises(RunError, match=r"could not be written .*No space left on device.*Make room"):
        quantize(saved, "q4_0", out)
    assert list(Path().iterdir()) == []


def test_it_is_evaluated_like_any_precision_and_the_note_names_the_fallbacks(checkpoint, corpus_folder):
    where = ["--benchmark", "muse-news", "--corpus", str(corpus_folder), "--limit", "1", "--json", "out.json"]
    main(["evaluate", checkpoint, *where, "--precisions", "q4_k_m"])
    found = json.loads(Path("out.json").read_text())
    assert "Q5_0 in place of Q4_K in rows of 64" in json.dumps(found)
