import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from quail_lightning.errors import InputError
from quail_lightning.quantization import quantized_linears
from quail_lightning.quantization.body import refuse_non_finite

PROJECTIONS = [f"self_attn.{p}_proj" for p in "qkvo"] + [f"mlp.{p}_proj" for p in ("gate", "up", "down")]


@pytest.mark.parametrize("tied", [False, True])
def test_the_seven_projections_of_every_layer_are_listed_and_the_head_is_not(tiny_llama, tied: bool) -> None:
    names = [name for name, _ in quantized_linears(tiny_llama(tied=tied))]
    assert names == [f"model.layers.{layer}.{projection}" for layer in (0, 1) for projection in PROJECTIONS]


def test_a_model_without_linear_layers_in_its_body_is_refused() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(InputError, match="GPT2LMHeadModel has no"):
        quantized_linears(model)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_every_weight_with_nan_or_infinity_is_named(poison: float) -> None:
    layers = [(name, nn.Linear(3, 3)) for name in ("first", "second", "third")]
    with torch.no_grad():
        layers[0][1].weight[1, 1] = poison
        layers[2][1].weight[2, 0] = poison
    with pytest.raises(InputError, match=r"first\.weight, third\.weight\."):
        refuse_non_finite(layers)
