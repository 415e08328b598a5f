"""An adapter's folder in place of a checkpoint: merged, or refused by name before weights are loaded."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.models import checkpoint as loading
from quail_lightning.models.adapters import WEIGHTS
from quail_lightning.models.checkpoint import (
    check_whole,
    load_config,
    load_model,
    save_model,
    weights_digest,
)
from quail_lightning.models.empty import empty_model, stored_generation_config
from quail_lightning.models.sharded_loading import load_sharded
from quail_lightning.models.weight_files import WeightFiles

IDS = torch.arange(40).view(2, 20)


@pytest.fixture(scope="session")
def base(tmp_path_factory, checkpoint):
    """Stored in bfloat16."""
    folder = tmp_path_factory.mktemp("models") / "base"
    model = load_model(checkpoint, torch.bfloat16)
    model.generation_config.max_new_tokens = 17
    save_model(model, load_tokenizer(checkpoint), folder, {"made_by": "tests"})
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory, base):
    """An adapter that peft itself saved, and the logits of peft's own model in float32."""
    from peft import LoraConfig, get_peft_model

    model = load_model(str(base), torch.float32)
    model.name_or_path = str(base)
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    adapted.save_pretrained(folder)
    with torch.no_grad():
        return folder, adapted(input_ids=IDS).logits


@pytest.fixture
def adapter(tmp_path, made):
    return shutil.copytree(made[0], tmp_path / "adapter")


def edit(adapter, **options):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


def rewrite(adapter, change):
    weights = load_file(adapter / WEIGHTS)
    change(weights)
    save_file(weights, adapter / WEIGHTS)


def test_a_loaded_adapter_gives_the_logits_of_peft(adapter, made):
    model = load_model(str(adapter), torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=IDS).logits, made[1], rtol=1e-4, atol=1e-5)
    assert not model.training


def test_merged_weights_are_the_sum_in_float64(adapter, base):
    stored, weights = load_file(base / "model.safetensors"), load_file(adapter / WEIGHTS)
    for name, value in load_model(str(adapter), torch.float32).named_parameters():
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        expected = stored[name].double()
        if f"{key}A.weight" in weights:
            expected += 8 / 4 * weights[f"{key}B.weight"].double() @ weights[f"{key}A.weight"].double()
            assert not torch.equal(value.double(), stored[name].double())
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)


def test_rank_stabilized_scaling_is_by_the_root_of_the_rank(adapter, base):
    edit(adapter, use_rslora=True)
    name = "model.layers.0.self_attn.q_proj"
    weights = load_file(adapter / WEIGHTS)
    a, b = (weights[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB")
    expected = load_file(base / "model.safetensors")[f"{name}.weight"].double() + 8 / 2 * b @ a
    found = load_model(str(adapter), torch.float32).get_submodule(name).weight
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)


def test_in_16_bits_the_sum_is_cast_once_and_stays_in_the_mean(adapter, base):
    """Rounding the base's sum to nearest would lose what lies below half a step of a weight."""
    rewrite(adapter, lambda weights: [value.mul_(1e-3) for key, value in weights.items() if "lora_B" in key])
    exact, found = (
        dict(load_model(str(adapter), dtype).named_parameters()) for dtype in (torch.float32, torch.bfloat16)
    )
    start = load_file(base / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    change = exact[name].double() - start[name].double()
    kept = found[name].double() - start[name].double()
    assert (change.abs() < start[name].double().abs() * 2**-9).float().mean() > 0.5
    assert ((kept * change).sum() / change.square().sum()).item() == pytest.approx(1, abs=0.25)
    again = dict(load_model(str(adapter), torch.bfloat16).named_parameters())
    assert all(torch.equal(value, again[name]) for name, value in found.items())


def test_an_adapter_answers_like_a_checkpoint(adapter, base):
    assert load_config(str(adapter)).to_dict() == load_config(str(base)).to_dict()
    assert load_tokenizer(str(adapter)).get_vocab() == load_tokenizer(str(base)).get_vocab()
    empty = empty_model(load_config(str(adapter)), torch.float32)
    assert stored_generation_config(str(adapter), empty).max_new_tokens == 17
    check_whole(str(adapter), torch.float32)


def test_the_digest_covers_adapter_and_base(adapter, base):
    found = weights_digest(str(adapter))
    assert found == {
        WEIGHTS: found[WEIGHTS],
        "base/model.safetensors": weights_digest(str(base))["model.safetensors"],
    }
    rewrite(adapter, lambda weights: next(iter(weights.values())).add_(1))
    assert weights_digest(str(adapter))[WEIGHTS] != found[WEIGHTS]


def test_a_base_may_be_named_from_the_adapters_own_folder(adapter, base):
    shutil.copytree(base, adapter / "base")
    edit(adapter, base_model_name_or_path="base")
    assert load_model(str(adapter), torch.float32).config.vocab_size == load_config(str(base)).vocab_size
    assert load_tokenizer(str(adapter)).get_vocab() == load_tokenizer(str(base)).get_vocab()


# --- what is refused ---------------------------------------------------------------------------------------


def truncate(adapter):
    path = adapter / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def pickle(adapter):
    (adapter / WEIGHTS).unlink()
    torch.save({}, adapter / "adapter_model.bin")


def drop(ending):
    def change(weights):
        for key in [key for key in weights if key.endswith(ending)]:
            del weights[key]

    return lambda adapter: rewrite(adapter, change)


def narrow(weights):
    for key in [key for key in weights if key.endswith("q_proj.lora_A.weight")]:
        weights[key] = weights[key][:, :32].clone()


def rename(weights):
    for key in list(weights):
        weights[key.replace("q_proj", "query")] = weights.pop(key)


def poison(weights):
    next(iter(weights.values()))[0, 0] = float("nan")


def further(weights):
    weights["base_model.model.model.embed_tokens.lora_embedding_A"] = torch.zeros(4, 4)


def both(adapter):
    shutil.copy(adapter / WEIGHTS, adapter / "model.safetensors")


def other_base(adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    noted = {"base_sha256": {"model.safetensors": "0" * 64}, "made_by": "tests"}
    (adapter / "provenance.json").write_text(json.dumps(noted))
    assert config["base_model_name_or_path"]


def changed(adapter):
    digests = {"weights_sha256": {WEIGHTS: "0" * 64}}
    (adapter / "provenance.json").write_text(json.dumps(digests))


def nested(adapter):
    shutil.copytree(adapter, adapter.parent / "first")
    edit(adapter, base_model_name_or_path=str(adapter.parent / "first"))


def quantized_base(adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    copied = shutil.copytree(config["base_model_name_or_path"], adapter.parent / "quantized")
    own = json.loads((copied / "config.json").read_text())
    own["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (copied / "config.json").write_text(json.dumps(own))
    edit(adapter, base_model_name_or_path=str(copied))


BAD = {
    "truncated": (truncate, "adapter_model.safetensors is damaged"),
    "pickled": (pickle, r"adapter_model\.bin is a pickle"),
    "no weights": (lambda adapter: (adapter / WEIGHTS).unlink(), f"without {WEIGHTS}"),
    "empty file": (lambda adapter: (adapter / WEIGHTS).write_bytes(b""), "it is empty"),
    "config cut off": (lambda adapter: (adapter / "adapter_config.json").write_text('{"r": 4'), "is not JSON"),
    "config empty": (lambda adapter: (adapter / "adapter_config.json").write_text("{}"), "another kind"),
    "no B": (drop("q_proj.lora_B.weight"), "no lora_B"),
    "no such layer": (drop(("down_proj.lora_A.weight", "down_proj.lora_B.weight")), "nothing is there of .*down"),
    "other shapes": (lambda adapter: rewrite(adapter, narrow), "another base .*q_proj has matrices"),
    "other names": (lambda adapter: rewrite(adapter, rename), r"the base has no .*query\.weight"),
    "another rank": (lambda adapter: edit(adapter, r=8), "another base .*has matrices"),
    "embeddings": (lambda adapter: rewrite(adapter, further), "no LoRA matrix"),
    "NaN": (lambda adapter: rewrite(adapter, poison), "NaN or infinity"),
    "DoRA": (lambda adapter: edit(adapter, use_dora=True), "use_dora: True"),
    "IA3": (lambda adapter: edit(adapter, peft_type="IA3"), "peft_type: IA3"),
    "whole modules": (lambda adapter: edit(adapter, modules_to_save=["lm_head"]), "modules_to_save"),
    "biases": (lambda adapter: edit(adapter, bias="all"), "bias: all"),
    "PiSSA": (lambda adapter: edit(adapter, init_lora_weights="pissa"), "init_lora_weights: pissa"),
    "ranks by layer": (lambda adapter: edit(adapter, rank_pattern={"q_proj": 2}), "rank_pattern"),
    "a kind of tomorrow": (lambda adapter: edit(adapter, use_tomorrow=True), "use_tomorrow"),
    "rank 0": (lambda adapter: edit(adapter, r=0), "r: 0"),
    "no base named": (lambda adapter: edit(adapter, base_model_name_or_path=None), "does not name its base"),
    "base gone": (lambda adapter: edit(adapter, base_model_name_or_path="/gone/base"), "no folder /gone/base"),
    "base nowhere": (lambda adapter: edit(adapter, base_model_name_or_path="no/such"), "no/such"),
    "a revision": (lambda adapter: edit(adapter, revision="0123abc"), "revision"),
    "base changed since": (other_base, "another base .*SHA-256"),
    "file changed since": (changed, "is not what was saved there"),
    "on an adapter": (nested, "an adapter itself"),
    "quantized base": (quantized_base, "is quantized"),
    "both": (both, "full weights and an adapter"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_merged_is_refused_by_name(case, adapter, monkeypatch):
    break_it, said = BAD[case]
    load_model(str(adapter), torch.float32)  # whole, until it is broken
    break_it(adapter)
    if case != "NaN":  # values are seen when they are read
        monkeypatch.setattr(loading, "merge", lambda *_: pytest.fail("weights are loaded"))
    with pytest.raises(InputError, match=said):
        load_model(str(adapter), torch.float32)
    if case != "NaN":
        with pytest.raises(InputError, match=said):
            check_whole(str(adapter), torch.float32)


def test_a_hub_name_with_both_is_refused_before_the_library_chooses(base, tmp_path, monkeypatch):
    """The hub's files as they lie in its cache. The library would load the adapter's base."""
    snapshot = tmp_path / "hub/models--own--both/snapshots/0123"
    shutil.copytree(base, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert load_model("own/both", torch.float32).config.vocab_size == load_config(str(base)).vocab_size
    (snapshot / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "an/other"}))
    with pytest.raises(InputError, match="'own/both' on the hub holds full weights and an adapter"):
        load_model("own/both", torch.float32)


def test_code_beside_an_adapter_is_never_run(adapter):
    (adapter / "modeling_own.py").write_text("raise SystemExit('ran')")
    edit(adapter, auto_mapping={"base_model_class": "Own", "parent_library": "modeling_own"})
    load_model(str(adapter), torch.float32)


def test_what_reads_weights_piece_by_piece_says_how_to_write_the_merged_model(adapter):
    for read in (WeightFiles, lambda name: load_sharded(name, torch.float32, None, None)):
        with pytest.raises(InputError, match=r"quail quantize .*adapter --to bf16"):
            read(str(adapter))


def test_a_saved_adapter_notes_its_digest(adapter, tmp_path, base):
    class Saved:
        def save_pretrained(self, folder):
            shutil.copytree(adapter, folder, dirs_exist_ok=True)

    save_model(Saved(), load_tokenizer(str(base)), tmp_path / "saved", {"base_sha256": weights_digest(str(base))})
    assert weights_digest(str(tmp_path / "saved")) == weights_digest(str(adapter))
    rewrite(tmp_path / "saved", lambda weights: next(iter(weights.values())).add_(1))
    with pytest.raises(InputError, match="is not what was saved there"):
        load_model(str(tmp_path / "saved"), torch.float32)
