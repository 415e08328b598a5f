"""Stored in 16 bits or fewer, computed in float32 where the machine multiplies nothing narrower."""

from contextlib import suppress

import pytest
import torch

from quail_lightning.models.arithmetic import OVERRIDE
from quail_lightning.models.checkpoint import load_model
from quail_lightning.quantization import computing, load_quantizer
from quail_lightning.quantization.computing import unpack

IDS = torch.tensor([[1, 5, 9, 2, 40, 3, 7, 7]])
TOKENS = torch.arange(128).reshape(4, 32) % 64


def copy_at(precision, tiny_llama):
    quantizer = load_quantizer(precision)
    model = tiny_llama(torch.float16 if precision == "fp16" else torch.bfloat16, width=128)
    return quantizer.quantize(model, TOKENS if quantizer.needs_calibration else None)


def everything(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    "precision",
    ["bf16", "fp16", "nf4", "fp4", "int8", "uniform4-group64", "awq4-group64", "gptq4", "smoothquant8"],
)
def test_logits_in_float32_agree_within_rounding_and_storage_is_as_before(precision, tiny_llama, monkeypatch):
    monkeypatch.setenv(OVERRIDE, "stored")
    model = copy_at(precision, tiny_llama)
    with torch.no_grad(), computing(model):
        narrow = model(IDS).logits
    assert narrow.dtype == (torch.float16 if precision == "fp16" else torch.bfloat16)
    model = copy_at(precision, tiny_llama)  # a pass in bfloat16 reorders bitsandbytes' weights on some CPUs
    unpack(model)  # as any first pass does
    before = everything(model)
    monkeypatch.setenv(OVERRIDE, "float32")
    with torch.no_grad(), computing(model):
        wide = model(IDS).logits
    assert wide.dtype == torch.float32
    # int8 rounds activations to 127 steps: a last bit may move one by a whole step
    tolerance = 0.08 if precision in ("int8", "smoothquant8") else 0.02
    assert (wide - narrow.float()).abs().max() < tolerance * narrow.float().abs().max()
    assert (wide != narrow.float()).float().mean() > 0.5, "nothing was computed in another dtype"
    after = everything(model)
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert value.dtype == after[name].dtype, name
        assert torch.equal(value, after[name]), name


@pytest.mark.parametrize("precision", ["awq4-group64", "gptq4"])
def test_calibration_in_float32_leaves_a_copy_stored_in_the_models_dtype(precision, tiny_llama, monkeypatch):
    monkeypatch.setenv(OVERRIDE, "float32")
    calibrated = copy_at(precision, tiny_llama)
    floating = {value.dtype for value in calibrated.state_dict().values() if value.is_floating_point()}
    assert floating == {torch.bfloat16}


def test_what_multiplies_natively_is_left_alone(tiny_llama, monkeypatch):
    monkeypatch.setenv(OVERRIDE, "stored")
    model = tiny_llama(torch.bfloat16)
    with computing(model):
        assert model.dtype == torch.bfloat16
    monkeypatch.setenv(OVERRIDE, "float32")
    with suppress(KeyError), computing(model):
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        raise KeyError
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_packed_checkpoint_that_was_loaded_is_unpacked_once(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setenv(OVERRIDE, "float32")
    copy_at("gptq4-group64", tiny_llama).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), torch.bfloat16)
    with computing(loaded), torch.no_grad():
        inside = loaded(IDS).logits
    with torch.no_grad():
        assert torch.allclose(loaded(IDS).logits.float(), inside, atol=0.05)
