"""docs/quantizers.md says which architecture can be quantized to which precision: every cell is run here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from architectures import CONFIGS, tiny_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from quail_lightning.errors import InputError
from quail_lightning.models.activations import check_head, language_decoder
from quail_lightning.quantization import check_quantizers, load_quantizer

DOCUMENT = Path(__file__).parents[2] / "docs" / "quantizers.md"
IDS = torch.randint(3, 300, (2, 40), generator=torch.Generator().manual_seed(0))
CALIBRATION = torch.randint(3, 300, (4, 48), generator=torch.Generator().manual_seed(1))
# Relative logit error of random models, which cushion nothing; a layer that is wrongly packed costs 1 and more.
NEAR = {"int8": 0.13, "smoothquant8": 0.06, "fp8": 0.2}
RESCALED = ("awq4", "smoothquant8")  # norms and linear layers take factors from each other


def table() -> dict[tuple[str, str], str]:
    """(architecture, precision) → cell of the document's table."""
    lines = DOCUMENT.read_text("utf-8").split("## Architectures")[1].split("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    head, _, *body = rows
    precisions = [name.strip("`") for name in head[2:]]
    return {
        (row[1].strip("`"), name): cell for row in body for name, cell in zip(precisions, row[2:], strict=True)
    }


TABLE = table()


def test_the_table_has_a_row_for_every_architecture_and_no_other():
    assert {name for name, _ in TABLE} == set(CONFIGS)


@pytest.mark.parametrize("cell", TABLE, ids="-".join)
def test_the_cell_says_what_happens(cell, monkeypatch):
    name, precision = cell
    if precision == "q4_k_m":
        pytest.importorskip("xllamacpp")
        pytest.importorskip("gguf")
    model, quantizer = tiny_model(name), load_quantizer(precision)
    if TABLE[cell].startswith("refused"):
        with pytest.raises(InputError, match=f"^{precision}: .* (Use|Choose) ") as refused:
            check_quantizers(model.config, {precision: quantizer}, model.dtype)
        assert str(refused.value) == f"{precision}: {refusal(quantizer, model)}", "config and model say the same"
        return
    share = check_quantizers(model.config, {precision: quantizer}, model.dtype)[precision]
    assert TABLE[cell] == ("✓" if share > 0.995 else f"{100 * share:.0f} %")
    assert share == pytest.approx(share_by_hand(model, of_experts=precision.startswith("uniform")))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    quantized = quantizer.quantize(model, CALIBRATION)
    with torch.no_grad():
        expected, found = (each(IDS).logits.float() for each in (model, quantized))
    error = ((found - expected).norm() / expected.norm()).item()
    assert 0 < error < NEAR.get(precision, 0.55)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    untouched = outside_of_targets(model, quantizer)
    if precision in RESCALED:  # by factors that a check in float32 found to change nothing
        untouched = {key for key in untouched if model.get_parameter(key).ndim > 1}
    held = dict(quantized.named_parameters())
    assert untouched
    assert all(torch.equal(held[key], before[key]) for key in untouched)


def refusal(quantizer, model) -> str:
    with pytest.raises(InputError) as refused:
        quantizer.quantize(model, CALIBRATION)
    return str(refused.value)


def outside_of_targets(model, quantizer) -> set[str]:
    """Biases of quantized layers among them."""
    return {name for name, _ in model.named_parameters()} - set(quantizer.targets(model))


def share_by_hand(model, of_experts: bool) -> float:
    """From the decoder layers' own modules: linear, Conv1D, and parameters of three dimensions."""
    layers = next(m for m in language_decoder(model).children() if isinstance(m, nn.ModuleList))
    dense = sum(m.weight.numel() for m in layers.modules() if isinstance(m, nn.Linear | Conv1D))
    stacked = sum(p.numel() for p in layers.parameters() if p.ndim == 3)
    routers = sum(
        p.numel() for key, p in layers.named_parameters() if p.ndim == 2 and key.endswith("mlp.gate.weight")
    )
    return (dense + of_experts * stacked) / (dense + stacked + routers)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_head_and_body_taken_apart_are_the_model(name, dtype):
    check_head(tiny_model(name, dtype))


@pytest.mark.parametrize("method", ["awq4", "smoothquant8"])
def test_factors_that_reach_past_the_balanced_layers_are_refused(method, monkeypatch):
    """llm-compressor's own SmoothQuant pairs for Gemma 2 scale a norm whose output no balanced layer reads."""
    from quail_lightning.quantization import smoothing

    wrong = (("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),)
    monkeypatch.setitem(smoothing._OWN, "gemma2", smoothing._Pairs(wrong, wrong))
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(InputError, match=r"changes what decoder layer \d adds"):
            load_quantizer(method).quantize(tiny_model("gemma2", dtype), CALIBRATION)


@pytest.mark.parametrize("method", ["awq4", "smoothquant8"])
def test_factors_move_without_a_trace_at_16_bits(method):
    """Every architecture that the table admits: rounding alone passes the check."""
    for name, precision in TABLE:
        if precision == method and TABLE[name, precision] == "✓":
            load_quantizer(method).quantize(tiny_model(name, torch.bfloat16), CALIBRATION)


def test_an_architecture_that_nobody_knows_pairs_for_is_refused_from_its_config():
    from transformers import GPTJConfig

    config = GPTJConfig(vocab_size=320, n_embd=128, n_layer=1, n_head=4, rotary_dim=16)
    asked = {name: load_quantizer(name) for name in ("nf4", "gptq4", "awq4", "smoothquant8")}
    with pytest.raises(InputError) as refused:
        check_quantizers(config, asked)
    told = str(refused.value)
    assert re.search("awq4: AWQ moves factors .* those of GPTJForCausalLM", told)
    assert re.search("smoothquant8: SmoothQuant moves factors .* Use gptq4, nf4", told)
    assert "nf4:" not in told
    assert check_quantizers(config, {name: asked[name] for name in ("nf4", "gptq4")}) == {"nf4": 1, "gptq4": 1}


@pytest.mark.parametrize("kind", ["SmolLM3", "Helium", "Gemma"])
def test_layers_like_llama_s_are_recognized_under_any_name(kind):
    import transformers
    from architectures import GROUPED

    config = getattr(transformers, f"{kind}Config")(**GROUPED | {"head_dim": 32})
    check_quantizers(config, {"awq4": load_quantizer("awq4"), "smoothquant8": load_quantizer("smoothquant8")})


def test_the_layers_of_opt_with_the_norm_behind_have_no_pairs():
    config = tiny_model("opt", do_layer_norm_before=False).config
    with pytest.raises(InputError, match="neither llm-compressor nor this program knows those of OPT"):
        check_quantizers(config, {"awq4": load_quantizer("awq4")})


def test_asking_what_can_be_quantized_leaves_no_trace():
    """In a process of its own, so that llm-compressor is imported while it is asked."""
    program = """
import os, random, torch
from architectures import tiny_model
from quail_lightning.quantization import check_quantizers, load_quantizer
config = tiny_model("llama").config
before = torch.get_rng_state(), random.getstate(), dict(os.environ)
check_quantizers(config, {name: load_quantizer(name) for name in ("awq4", "gptq4", "smoothquant8", "nf4")})
assert torch.equal(before[0], torch.get_rng_state()) and before[1:] == (random.getstate(), dict(os.environ))
"""
    folder = Path(__file__).parents[1]
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        cwd=folder.parent,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ""
