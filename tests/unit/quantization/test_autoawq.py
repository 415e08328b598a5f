import importlib.util

import pytest
import torch

from quail_lightning.errors import InputError
from quail_lightning.quantization import Awq, quantized_linears

CALIBRATION = torch.randint(0, 64, (4, 32), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "options", [{"bits": 8}, {"group_size": None}, {"layer_bits": {"*": 8}}, {"symmetric": True}]
)
def test_what_autoawq_cannot_do_is_refused(options: dict) -> None:
    with pytest.raises(InputError, match=r"4 bits, in groups.*backend: llmcompressor"):
        Awq(backend="autoawq", **options)


def test_the_missing_package_is_named_with_its_extra(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs awq, not installed.*pip install 'quail-lightning\[autoawq\]'"):
        Awq(backend="autoawq")


def test_calibration_is_demanded(tiny_llama, monkeypatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: name == "awq" or find_spec(name, *rest))
    with pytest.raises(InputError, match="AWQ needs calibration tokens"):
        Awq(group_size=64, backend="autoawq").quantize(tiny_llama())


@pytest.mark.skipif(importlib.util.find_spec("awq") is None, reason="the extra autoawq is not installed")
def test_the_copy_has_autoawq_s_layers_and_the_input_is_unchanged(tiny_llama) -> None:
    model = tiny_llama(width=128)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quantized = Awq(group_size=64, backend="autoawq").quantize(model, CALIBRATION)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    for name, linear in quantized_linears(model):
        assert quantized.get_submodule(name).qweight.numel() * 8 == linear.weight.numel()
    assert quantized.config.quantization_config["quant_method"] == "awq"
    with torch.no_grad():
        error = quantized(CALIBRATION).logits - model(CALIBRATION).logits
        assert error.norm() < 0.3 * model(CALIBRATION).logits.norm()


@pytest.mark.skipif(importlib.util.find_spec("awq") is None, reason="the extra autoawq is not installed")
def test_layers_whose_outputs_do_not_fit_are_named(tiny_llama) -> None:
    with pytest.raises(InputError, match=r"multiple of 64.*layers\.0\.self_attn\.k_proj \(32\).*llmcompressor"):
        Awq(group_size=64, backend="autoawq").quantize(tiny_llama(), CALIBRATION)


@pytest.mark.skipif(importlib.util.find_spec("awq") is None, reason="the extra autoawq is not installed")
def test_the_copy_computes_with_the_levels_that_are_packed(tiny_llama) -> None:
    quantized = Awq(group_size=64, backend="autoawq").quantize(tiny_llama(width=128), CALIBRATION)
    layer = quantized.get_submodule("model.layers.1.mlp.up_proj")
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # output 8c + order[i] lies in bits 4i to 4i + 3 of word c

    def levels(packed: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(packed.shape[0], packed.shape[1] * 8, dtype=torch.float64)
        for place, output in enumerate(order):
            found[:, output::8] = ((packed.long() >> 4 * place) & 15).double()
        return found

    spread = [tensor.repeat_interleave(64, 0) for tensor in (levels(layer.qzeros), layer.scales.double())]
    weight = (levels(layer.qweight) - spread[0]) * spread[1]
    hidden = torch.randn(3, 5, 128, generator=torch.Generator().manual_seed(2))
    expected = hidden.double() @ weight
    assert torch.allclose(layer(hidden).double(), expected, atol=2e-3 * expected.abs().max().item())
