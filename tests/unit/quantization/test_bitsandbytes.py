import importlib.util
import logging

import numpy as np
import pytest
import torch
from transformers.utils import logging as transformers_logging

from quail_lightning.errors import InputError
from quail_lightning.quantization import BitsAndBytes

# QLoRA, Dettmers et al. 2023, appendix E.
NF4 = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]
# Sign, two exponent bits, one mantissa bit: 0, 1/192 (subnormal), 1/6, 1/4, 1/3, 1/2, 2/3, 1.
FP4 = [sign * magnitude for sign in (1, -1) for magnitude in (0, 1 / 192, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1)]


@pytest.mark.parametrize(("format", "code_book"), [("nf4", NF4), ("fp4", FP4)])
def test_four_bit_weights_are_the_nearest_of_the_code_book_in_blocks_of_64(tiny_llama, format, code_book) -> None:
    import bitsandbytes as bnb

    model = tiny_llama()
    layer = BitsAndBytes(format).quantize(model).model.layers[1].mlp.down_proj
    weight = model.model.layers[1].mlp.down_proj.weight.detach().double().numpy()
    blocks = weight.reshape(-1, 64)
    scale = np.abs(blocks).max(axis=1, keepdims=True)
    book = np.array(code_book)
    nearest = book[np.abs((blocks / scale)[..., None] - book).argmin(-1)] * scale
    actual = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).double().numpy()
    np.testing.assert_allclose(actual, nearest.reshape(weight.shape), rtol=0, atol=1e-5)


def test_int8_weights_pass_through_float16_and_are_rounded_on_a_scale_for_each_row(tiny_llama) -> None:
    model = tiny_llama()
    weight = model.model.layers[0].mlp.up_proj.weight.detach().half().double().numpy()
    layer = BitsAndBytes("int8").quantize(model).model.layers[0].mlp.up_proj
    scale = np.abs(weight).max(axis=1, keepdims=True)
    np.testing.assert_allclose(layer.weight.SCB.numpy(), scale[:, 0], rtol=1e-6)
    assert np.abs(layer.weight.data.numpy() - weight / scale * 127).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(("format", "bits", "granularity"), [("nf4", 4, "block64"), ("int8", 8, "channel")])
def test_bits_and_granularity_are_told(format, bits: int, granularity: str) -> None:
    quantizer = BitsAndBytes(format)
    assert (quantizer.bits, quantizer.granularity) == (bits, granularity)


def test_four_bits_occupy_half_a_byte_in_the_declared_block(tiny_llama) -> None:
    layer = BitsAndBytes("nf4").quantize(tiny_llama()).model.layers[0].mlp.up_proj
    assert layer.weight.numel() * layer.weight.element_size() == 128 * 64 // 2
    assert layer.weight.quant_state.blocksize == 64


def test_double_quantization_reaches_the_scales(tiny_llama) -> None:
    layer = BitsAndBytes("nf4", double_quantization=True).quantize(tiny_llama()).model.layers[0].mlp.up_proj
    assert layer.weight.quant_state.nested
    assert layer.weight.quant_state.absmax.dtype == torch.uint8


@pytest.mark.parametrize(("threshold", "expected"), [(None, 6.0), (2.5, 2.5)])
def test_the_outlier_threshold_reaches_the_layers(tiny_llama, threshold: float | None, expected: float) -> None:
    quantized = BitsAndBytes("int8", outlier_threshold=threshold).quantize(tiny_llama())
    assert quantized.model.layers[0].mlp.up_proj.state.threshold == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_four_bit_layers_compute_in_the_model_s_dtype(tiny_llama, dtype: torch.dtype) -> None:
    quantized = BitsAndBytes("fp4").quantize(tiny_llama(dtype))
    layer = quantized.model.layers[0].mlp.up_proj
    assert layer.weight.quant_type == "fp4"
    assert layer.compute_dtype == dtype
    assert quantized(torch.arange(4).unsqueeze(0)).logits.dtype == dtype


def test_norms_in_another_dtype_are_kept(tiny_llama) -> None:
    model = tiny_llama(torch.bfloat16)
    model.model.norm.weight.data = torch.linspace(0.9, 1.1, 64)
    quantized = BitsAndBytes("nf4").quantize(model)
    assert torch.equal(quantized.model.norm.weight, torch.linspace(0.9, 1.1, 64))


def test_frequencies_that_were_cast_stay_cast(tiny_llama) -> None:
    """Otherwise the 4-bit model would differ from the 16-bit one in more than its linear weights."""
    model = tiny_llama()
    model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq.bfloat16()
    quantized = BitsAndBytes("nf4").quantize(model)
    assert torch.equal(quantized.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


def test_generation_config_and_mode_are_carried_over(tiny_llama) -> None:
    model = tiny_llama().train()
    model.generation_config.max_new_tokens = 11
    quantized = BitsAndBytes("nf4").quantize(model)
    assert quantized.generation_config.max_new_tokens == 11
    assert quantized.generation_config is not model.generation_config
    assert quantized.training


def test_only_the_copy_s_config_tells_of_quantization(tiny_llama) -> None:
    model = tiny_llama()
    quantized = BitsAndBytes("nf4").quantize(model)
    assert quantized.config.quantization_config.bnb_4bit_quant_type == "nf4"
    assert not hasattr(model.config, "quantization_config")


@pytest.mark.parametrize("enabled", [True, False])
def test_loading_is_silent_and_the_settings_are_restored(tiny_llama, capfd, enabled: bool) -> None:
    was_enabled, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    switch = {True: transformers_logging.enable_progress_bar, False: transformers_logging.disable_progress_bar}
    model = tiny_llama(torch.bfloat16)
    capfd.readouterr()
    try:
        switch[enabled]()
        transformers_logging.set_verbosity_info()
        quantized = BitsAndBytes("int8").quantize(model)
        assert transformers_logging.is_progress_bar_enabled() is enabled
        assert transformers_logging.get_verbosity() == logging.INFO
        assert logging.getLogger("bitsandbytes").level == logging.NOTSET
        quantized(torch.arange(4).unsqueeze(0))
    finally:
        switch[was_enabled]()
        transformers_logging.set_verbosity(verbosity)
    assert capfd.readouterr() == ("", "")


def test_nan_is_refused_with_the_weight_s_name(tiny_llama) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[0].mlp.gate_proj.weight[3, 3] = float("inf")
    with pytest.raises(InputError, match=r"model\.layers\.0\.mlp\.gate_proj\.weight"):
        BitsAndBytes("nf4").quantize(model)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"format": "int8", "double_quantization": True}, "double_quantization"),
        ({"format": "nf4", "outlier_threshold": 6.0}, "outlier_threshold"),
    ],
)
def test_an_option_of_the_other_format_is_refused(options: dict, option: str) -> None:
    with pytest.raises(InputError, match=option):
        BitsAndBytes(**options)


@pytest.mark.parametrize("package", ["bitsandbytes", "accelerate"])
def test_a_missing_package_is_named_with_its_command(monkeypatch, package: str) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(InputError, match=f"pip install {package}"):
        BitsAndBytes("nf4")
