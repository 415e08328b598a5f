import pytest
import torch

from quail_lightning.quantization import Unquantized


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_and_every_logit_are_kept(tiny_llama, dtype: torch.dtype) -> None:
    model, tokens = tiny_llama(dtype), torch.arange(12).reshape(2, 6)
    quantized = Unquantized().quantize(model)
    assert {parameter.dtype for parameter in quantized.parameters()} == {dtype}
    with torch.no_grad():
        assert torch.equal(quantized(tokens).logits, model(tokens).logits)
