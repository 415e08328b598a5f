import pytest
import torch

from quail_lightning.quantization import Unquantized


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_dtype_and_every_logit_are_kept(tiny_llama, dtype) -> None:
    model, tokens = tiny_llama(getattr(torch, dtype)), torch.arange(12).reshape(2, 6)
    quantized = Unquantized(dtype).quantize(model)
    assert {parameter.dtype for parameter in quantized.parameters()} == {model.dtype}
    with torch.no_grad():
        assert torch.equal(quantized(tokens).logits, model(tokens).logits)


def test_a_wider_model_is_cast_to_the_nearest_values(tiny_llama) -> None:
    model = tiny_llama(torch.float32, tied=True)
    quantized = Unquantized("float16").quantize(model)
    assert quantized.dtype == quantized.config.dtype == torch.float16
    assert quantized.lm_head.weight is quantized.model.embed_tokens.weight
    for name, weight in model.named_parameters():
        assert torch.equal(quantized.get_parameter(name), weight.half()), name
