"""Gradient norms against float64 gradients of the plain loss, text by text."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from quail_lightning.errors import InputError
from quail_lightning.inference.gradient_norm import gradient_norms
from quail_lightning.inference.likelihood import token_log_likelihoods
from quail_lightning.quantization import load_quantizer
from quail_lightning.quantization.computing import computing, unpack

TEXTS = ["The cat sat on the mat.", "ab", "A dog, and some more of it, which is longer."]


def by_hand(model, tokenizer, text):
    """Mean over tensors of the 2-norm, of a plain float64 copy."""
    wide = deepcopy(model).double().eval().requires_grad_()
    ids = torch.tensor([[0, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    log_p = wide(input_ids=ids).logits[0, :-1].log_softmax(-1)
    loss = -log_p.gather(1, ids[0, 1:, None]).mean()
    norms = [gradient.norm() for gradient in torch.autograd.grad(loss, list(wide.parameters()))]
    return float(torch.stack(norms).mean())


def test_it_is_the_mean_of_the_tensors_norms_and_leaves_no_trace(model, tokenizer):
    model.requires_grad_(False)
    model.lm_head.weight.requires_grad_()
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    told = []
    found = gradient_norms(model, tokenizer, TEXTS, lambda *each: told.append(each))
    assert found == pytest.approx([by_hand(model, tokenizer, text) for text in TEXTS], rel=1e-4)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert model.training
    wanting = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert wanting == ["lm_head.weight"]
    assert torch.equal(model.lm_head.weight.grad, torch.ones_like(model.lm_head.weight))
    assert all(not parameter._post_accumulate_grad_hooks for parameter in model.parameters())


def test_a_shared_weight_counts_once(tiny_llama, tokenizer):
    model = tiny_llama(tied=True)
    model.resize_token_embeddings(len(tokenizer))
    found = gradient_norms(model, tokenizer, TEXTS[:1])
    assert found == pytest.approx([by_hand(model, tokenizer, TEXTS[0])], rel=1e-4)


def test_a_text_that_was_learned_pulls_less(model, tokenizer):
    before = gradient_norms(model, tokenizer, TEXTS[:1])[0]
    ids = torch.tensor([[0, *tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]]])
    optimizer = torch.optim.AdamW(model.eval().parameters(), lr=1e-2)
    for _ in range(60):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert gradient_norms(model, tokenizer, TEXTS[:1])[0] < before / 3


@pytest.mark.parametrize("name", ["nf4", "fp4", "int8", "uniform4-group64", "nvfp4"])
def test_of_a_quantized_copy_it_is_the_gradient_of_the_dequantized_weights(name, tiny_llama, tokenizer):
    model = tiny_llama(width=128)
    model.resize_token_embeddings(len(tokenizer))
    copy = load_quantizer(name).quantize(model)
    unpack(copy)
    plain = tiny_llama(width=128)
    plain.resize_token_embeddings(len(tokenizer))
    plain.load_state_dict(model.state_dict())
    for layer, module in copy.named_modules():
        if isinstance(module, nn.Linear) and "layers" in layer:
            with torch.no_grad():  # the weight that the layer multiplies with
                own = plain.get_submodule(layer)
                own.weight.copy_(dense(module))
    with computing(copy):
        found = gradient_norms(copy, tokenizer, TEXTS[:1])
    expected = pytest.approx([by_hand(plain, tokenizer, TEXTS[0])], rel=0.02)
    assert found == expected
    token_log_likelihoods(copy, tokenizer, TEXTS[:1])  # bitsandbytes may order its weights anew at such a pass
    assert gradient_norms(copy, tokenizer, TEXTS[:1]) == expected


def dense(layer):
    if hasattr(layer.weight, "quant_state"):
        import bitsandbytes as bnb

        return bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    if hasattr(layer.weight, "SCB"):
        return layer.weight.data.float() * layer.weight.SCB.unsqueeze(1) / 127
    return layer.weight


def test_weights_that_no_gradient_reaches_are_refused_by_name(model, tokenizer):
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("qweight", torch.zeros(2, 2, dtype=torch.int32))

    model.model.layers[0].mlp.up_proj = Packed()
    with pytest.raises(InputError, match=r"model\.layers\.0\.mlp\.up_proj \(Packed\) are packed"):
        gradient_norms(model, tokenizer, TEXTS)
