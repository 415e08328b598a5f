"""Which tensors are compared, and as what."""

import pytest

from quail_lightning.comparison import Role, compared_parameters, parameter_roles, roles_from_config
from quail_lightning.errors import InputError

from .conftest import llama


def shapes(model):
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def test_linear_layers_of_the_body_are_quantized_and_nothing_else():
    roles = parameter_roles(llama())
    assert sum(role.quantized for role in roles.values()) == 2 * 7
    assert roles["model.layers.1.mlp.up_proj.weight"] == Role(True, 1, "model.layers.1.mlp.up_proj.weight")
    assert roles["model.layers.0.input_layernorm.weight"][:2] == (False, 0)
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"):
        assert roles[name][:2] == (False, None)


def test_a_config_alone_tells_the_roles():
    model = llama()
    assert roles_from_config(model.config) == parameter_roles(model)


def test_tensors_that_are_no_parameters_are_left_out():
    model = llama()
    stored = shapes(model) | {"model.layers.0.self_attn.rotary_emb.inv_freq": (24,)}
    assert set(compared_parameters(parameter_roles(model), stored, shapes(model))) == set(shapes(model))


def test_a_tied_head_counts_once_also_where_one_checkpoint_stores_it_twice():
    model = llama(tied=True)
    once = shapes(model)
    twice = once | {"lm_head.weight": once["model.embed_tokens.weight"]}
    for pair in ((once, twice), (twice, once), (twice, twice)):
        assert "lm_head.weight" not in compared_parameters(parameter_roles(model), *pair)
    only_head = {name: shape for name, shape in twice.items() if name != "model.embed_tokens.weight"}
    assert "lm_head.weight" in compared_parameters(parameter_roles(model), only_head, twice)


def test_other_sizes_and_missing_tensors_are_named():
    model, wider = llama(), llama(width=256)
    with pytest.raises(
        InputError, match=r"different architectures: .*q_proj.weight \(\[192, 192\] and \[256, 256\]"
    ):
        compared_parameters(parameter_roles(model), shapes(model), shapes(wider))
    with pytest.raises(InputError, match=r"9 tensors differ, .*layers.1.* and absent\)"):
        compared_parameters(parameter_roles(model), shapes(model), shapes(llama(layers=1)))
    with pytest.raises(InputError, match=r"7 tensors differ, .*layers.1.*\(absent and "):
        compared_parameters(parameter_roles(llama(layers=1)), shapes(llama(layers=1)), shapes(model))


def test_a_checkpoint_with_other_names_is_refused():
    model = llama()
    other = {f"transformer.{name}": shape for name, shape in shapes(model).items()}
    with pytest.raises(InputError, match="none of the weights to be quantized"):
        compared_parameters(parameter_roles(model), other, other)


def test_weights_that_the_checkpoint_keeps_otherwise_are_not_left_out_in_silence():
    """As Mixtral's experts, which are stored one by one."""
    model = llama()
    stored = {name: shape for name, shape in shapes(model).items() if "down_proj" not in name}
    with pytest.raises(
        InputError, match=r"2 weights are not in the checkpoint .*layers\.0\.mlp\.down_proj\.weight"
    ):
        compared_parameters(parameter_roles(model), stored, stored)
