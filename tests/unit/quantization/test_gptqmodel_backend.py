import importlib.util
import os
import random
import time
from pathlib import Path

import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_model
from quail_lightning.models.tiny import train_tokenizer
from quail_lightning.quantization import Gptq, gptq, quantized_linears

CALIBRATION = torch.randint(0, 64, (4, 32), generator=torch.Generator().manual_seed(1))
INSTALLED = importlib.util.find_spec("gptqmodel") is not None


def test_mixed_precision_is_refused() -> None:
    with pytest.raises(InputError, match=r"every layer to the same bits.*backend: llmcompressor"):
        Gptq(backend="gptqmodel", layer_bits={"*": 8})


def test_a_group_size_that_is_not_packed_is_refused() -> None:
    with pytest.raises(InputError, match=r"does not pack this group_size.*48"):
        Gptq(backend="gptqmodel", group_size=48)


def test_the_missing_package_is_named_with_its_extra(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"needs gptqmodel, not installed.*install 'quail-lightning\[gptqmodel\]'"
    ):
        Gptq(backend="gptqmodel")


def test_calibration_is_demanded(tiny_llama, monkeypatch) -> None:
    monkeypatch.setattr(gptq, "require_package", lambda *_: None)
    with pytest.raises(InputError, match="GPTQ needs calibration tokens"):
        Gptq(group_size=64, backend="gptqmodel").quantize(tiny_llama())


def test_a_model_of_32_bits_is_refused(tiny_llama, monkeypatch) -> None:
    monkeypatch.setattr(gptq, "require_package", lambda *_: None)
    with pytest.raises(InputError, match=r"models of 16 bits.*float32"):
        Gptq(group_size=64, backend="gptqmodel").quantize(tiny_llama(), CALIBRATION)


@pytest.mark.skipif(not INSTALLED, reason="the extra gptqmodel is not installed")
@pytest.mark.parametrize(
    ("bits", "group", "symmetric", "tied", "near"), [(4, 64, True, False, 0.3), (8, None, False, True, 0.03)]
)
def test_the_copy_has_packed_layers_and_nothing_else_is_changed(
    tiny_llama, tmp_path, monkeypatch, capsys, bits, group, symmetric, tied, near
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_llama(torch.bfloat16, tied)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    process = dict(os.environ), torch.nn.init.normal_, torch.nn.init.uniform_, torch.nn.init.kaiming_uniform_
    states = random.getstate(), torch.get_rng_state()
    quantized = Gptq(bits, group, symmetric, backend="gptqmodel").quantize(model, CALIBRATION)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    after = dict(os.environ), torch.nn.init.normal_, torch.nn.init.uniform_, torch.nn.init.kaiming_uniform_
    assert after == process
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == ""
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    for name, linear in quantized_linears(model):
        assert quantized.get_parameter_or_buffer(name + ".qweight").numel() * (32 // bits) == linear.weight.numel()
    assert (quantized.lm_head.weight is quantized.model.embed_tokens.weight) == tied
    assert quantized.config.pad_token_id == model.config.pad_token_id
    with torch.no_grad():
        original, copied = model(CALIBRATION).logits, quantized(CALIBRATION).logits
    assert copied.dtype == original.dtype
    assert (copied - original).norm() < near * original.norm()


@pytest.mark.skipif(not INSTALLED, reason="the extra gptqmodel is not installed")
def test_nothing_is_handed_to_a_compiler(tiny_llama, monkeypatch) -> None:
    asked: list[object] = []

    def compile_(function: object = None, **_: object) -> object:
        asked.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    quantized = Gptq(4, 64, backend="gptqmodel").quantize(tiny_llama(torch.bfloat16), CALIBRATION)
    with torch.no_grad():
        quantized(CALIBRATION)
    assert not asked


@pytest.mark.skipif(not INSTALLED, reason="the extra gptqmodel is not installed")
@pytest.mark.parametrize(("bits", "group", "symmetric"), [(4, 64, True), (4, 32, False), (8, None, True)])
def test_the_export_loads_in_transformers_with_the_same_logits(
    tiny_llama, tmp_path, monkeypatch, bits, group, symmetric
) -> None:
    from gptqmodel.utils import torch as gptqmodel_torch
    from transformers import AutoModelForCausalLM, GPTQConfig

    monkeypatch.chdir(tmp_path)
    tiny_llama(torch.bfloat16).save_pretrained("model")  # loaded, rotary frequencies are not rounded to 16 bits
    model = load_model("model", torch.bfloat16)
    quantized = Gptq(bits, group, symmetric, backend="gptqmodel").quantize(model, CALIBRATION)
    quantized.save_pretrained("export")
    names = {path.name for path in Path("export").iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors", "quantize_config.json"}
    monkeypatch.setattr(gptqmodel_torch, "TORCH_HAS_COMPILE", False)
    by_default = AutoModelForCausalLM.from_pretrained("export")
    plain = AutoModelForCausalLM.from_pretrained(
        "export", quantization_config=GPTQConfig(bits=bits, backend="torch")
    )
    with torch.no_grad():
        expected = quantized(CALIBRATION).logits
        assert torch.equal(plain(CALIBRATION).logits, expected)
        # symmetric 4 bits: transformers' choice is a fused kernel, which sums in another order
        assert (by_default(CALIBRATION).logits - expected).norm() < 0.01 * expected.norm()
        assert symmetric or torch.equal(by_default(CALIBRATION).logits, expected)


@pytest.mark.skipif(not INSTALLED, reason="the extra gptqmodel is not installed")
def test_the_export_loads_in_gptqmodel_with_the_same_logits(tiny_llama, tmp_path, monkeypatch) -> None:
    from gptqmodel import BACKEND, GPTQModel
    from gptqmodel.utils import torch as gptqmodel_torch

    tiny_llama(torch.float16).save_pretrained(tmp_path / "model")
    model = load_model(str(tmp_path / "model"), torch.float16)
    quantized = Gptq(4, 64, backend="gptqmodel").quantize(model, CALIBRATION)
    quantized.save_pretrained(tmp_path / "export")
    train_tokenizer(["none"], 259).save_pretrained(tmp_path / "export")  # GPTQModel asks for one
    monkeypatch.setattr(gptqmodel_torch, "TORCH_HAS_COMPILE", False)
    again = GPTQModel.load(str(tmp_path / "export"), backend=BACKEND.TORCH, device="cpu", dtype=torch.float16)
    with torch.no_grad():
        assert torch.equal(again.model(CALIBRATION).logits, quantized(CALIBRATION).logits)


@pytest.mark.skipif(not INSTALLED, reason="the extra gptqmodel is not installed")
def test_an_error_in_a_worker_is_raised_and_leaves_no_work_behind(
    tiny_llama, tmp_path, monkeypatch, capsys
) -> None:
    from gptqmodel.quantization.gptq import GPTQ

    begun: list[object] = []
    ended: list[object] = []

    def fail(self: object, *_: object, **__: object) -> None:
        begun.append(self)
        if len(begun) > 1:
            time.sleep(0.5)
        ended.append(self)
        raise ArithmeticError("from a worker")

    monkeypatch.chdir(tmp_path)
    initializer = torch.nn.init.normal_
    monkeypatch.setattr(GPTQ, "quantize", fail)
    with pytest.raises(ArithmeticError, match="from a worker"):
        Gptq(4, 64, backend="gptqmodel").quantize(tiny_llama(torch.bfloat16), CALIBRATION)
    assert torch.nn.init.normal_ is initializer
    assert len(begun) == len(ended)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not INSTALLED, reason="the extra gptqmodel is not installed")
def test_an_architecture_that_gptqmodel_does_not_know_is_refused(tiny_llama) -> None:
    model = tiny_llama(torch.bfloat16)
    model.config.model_type = "unheard_of"
    with pytest.raises(InputError, match=r"does not know this architecture.*unheard_of.*backend: llmcompressor"):
        Gptq(4, 64, backend="gptqmodel").quantize(model, CALIBRATION)
