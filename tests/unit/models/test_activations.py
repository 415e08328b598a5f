"""Hidden states and head, taken apart, against the models' own outputs."""

import pytest
import torch
from torch import nn

from quail_lightning.errors import InputError
from quail_lightning.models.activations import activations, check_head, decoder_layers, output_head

IDS = torch.arange(24).reshape(2, 12)

SMALL = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def build(name, **other):
    import transformers

    if name == "GPT2":
        sizes = {"vocab_size": 48, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
    else:
        sizes = {**SMALL, "pad_token_id": 0}
    config = getattr(transformers, f"{name}Config")(**sizes | other)
    model = {"GPT2": "GPT2LMHeadModel"}.get(name, f"{name}ForCausalLM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(17)
        built = getattr(transformers, model)(config).eval()
    with torch.no_grad():
        built.get_output_embeddings().weight.mul_(20)  # logits of some size, so that a wrong factor shows
    return built


# the factor and the bound are far from harmless: left out, the logits differ by a multiple
ARCHITECTURES = {
    "Llama": lambda: build("Llama", tie_word_embeddings=False),
    "Llama, tied": lambda: build("Llama", tie_word_embeddings=True),
    "GPT-2": lambda: build("GPT2"),
    "Gemma 2": lambda: build("Gemma2", head_dim=8, num_key_value_heads=2, final_logit_softcapping=1.5),
    "Cohere": lambda: build("Cohere", logit_scale=0.0625),
    "Granite": lambda: build("Granite", logits_scaling=8.0),
    "GPT-NeoX": lambda: build("GPTNeoX", tie_word_embeddings=False),
}


# --- hidden states ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_final_and_inner_states_equal_the_model_s_own_hidden_states(tiny_llama, dtype):
    model = tiny_llama(dtype)
    with torch.no_grad():
        own = model(IDS, output_hidden_states=True, use_cache=False)
        found = activations(model, IDS, layers=(0, 1))
    assert torch.equal(found.layers[0], own.hidden_states[1])
    assert torch.equal(found.final, own.hidden_states[2])  # the last one stands there after the norm
    assert torch.equal(model.model.norm(found.layers[1]), own.hidden_states[2])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_states_equal_the_model_s_own_in_every_architecture(architecture):
    model = ARCHITECTURES[architecture]()
    with torch.no_grad():
        own = model(IDS, output_hidden_states=True, use_cache=False).hidden_states
        found = activations(model, IDS, layers=(0, 1))
    assert torch.equal(found.layers[0], own[1])
    assert torch.equal(found.final, own[2])
    assert found.layers[1].shape == (2, 12, 32)


def test_only_the_layers_asked_for_are_given(tiny_llama):
    model = tiny_llama()
    with torch.no_grad():
        assert activations(model, IDS).layers == {}
        assert list(activations(model, IDS, layers=(1,)).layers) == [1]
        assert list(activations(model, IDS, layers=(1,), perturbations={0: torch.zeros(1)}).layers) == [1]


def hooks(model):
    return [len(module._forward_hooks) for module in model.modules()]


def test_no_hook_stays_behind_even_after_an_error(tiny_llama):
    model = tiny_llama()
    before = hooks(model)
    activations(model, IDS, layers=(0, 1))
    assert hooks(model) == before
    with pytest.raises(IndexError):
        activations(model, IDS + 1000, layers=(0, 1))
    assert hooks(model) == before
    with pytest.raises(IndexError):
        activations(model, IDS, layers=(0, 7))
    assert hooks(model) == before


def test_a_model_without_a_known_list_of_layers_is_refused(tiny_llama):
    model = tiny_llama()
    model.model.strata = model.model.layers
    del model.model.layers
    with pytest.raises(InputError, match="keeps its decoder layers in no list"):
        decoder_layers(model)


# --- perturbations ----------------------------------------------------------------------------------------


def test_a_perturbation_is_added_to_the_layer_s_output_and_goes_on_from_there(tiny_llama):
    model = tiny_llama()
    shift = torch.randn(2, 12, 64, generator=torch.Generator().manual_seed(18))
    decoder = model.model
    with torch.no_grad():
        found = activations(model, IDS, layers=(0, 1), perturbations={0: shift})
        plain = activations(model, IDS, layers=(0,))
        # by hand: the second layer and the norm on the shifted output of the first
        positions = decoder.rotary_emb(plain.layers[0], torch.arange(12)[None])
        causal = torch.full((12, 12), float("-inf")).triu(1)[None, None]
        second = decoder.layers[1](
            plain.layers[0] + shift, attention_mask=causal, position_embeddings=positions, use_cache=False
        )
        second = second[0] if isinstance(second, tuple) else second
    assert torch.equal(found.layers[0], plain.layers[0] + shift)
    torch.testing.assert_close(found.layers[1], second, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.final, decoder.norm(second), rtol=1e-5, atol=1e-6)


def test_a_perturbation_of_the_last_layer_moves_nothing_but_the_norm_s_input(tiny_llama):
    model = tiny_llama()
    shift = torch.randn(2, 12, 64, generator=torch.Generator().manual_seed(19))
    with torch.no_grad():
        plain, found = activations(model, IDS, layers=(0, 1)), activations(model, IDS, (0, 1), {1: shift})
        assert torch.equal(found.layers[0], plain.layers[0])
        assert torch.equal(found.final, model.model.norm(plain.layers[1] + shift))


def test_a_layer_that_gives_a_tuple_still_gives_one_under_a_perturbation():
    model = ARCHITECTURES["GPT-2"]()
    first, second = model.transformer.h
    model.transformer.h[0], model.transformer.h[1] = Wrapped(first), Unwrapped(second)
    with torch.no_grad():
        plain = activations(model, IDS, layers=(0,))
        found = activations(model, IDS, layers=(0,), perturbations={0: torch.ones(2, 12, 32)})
    assert torch.equal(found.layers[0], plain.layers[0] + 1)
    assert not torch.allclose(found.final, plain.final)


class Wrapped(nn.Module):
    """A layer that gives (states, something)."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *args, **kwargs):
        return self.layer(*args, **kwargs), "something"


class Unwrapped(nn.Module):
    """A layer that takes what ``Wrapped`` gives."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, states, *args, **kwargs):
        states, something = states
        assert something == "something"
        return self.layer(states, *args, **kwargs)


# --- gradients, and gradient checkpointing ----------------------------------------------------------------


def training(tiny_llama, checkpointing):
    model = tiny_llama().train()
    if checkpointing:
        model.gradient_checkpointing_enable()
        assert model.is_gradient_checkpointing
    return model


@pytest.mark.parametrize("reads", ["inner layer", "last layer", "both layers and final"])
def test_gradients_of_a_loss_on_layers_are_those_without_checkpointing(tiny_llama, reads):
    layers = {"inner layer": (0,), "last layer": (1,)}.get(reads, (0, 1))

    def gradients(checkpointing):
        model = training(tiny_llama, checkpointing)
        found = activations(model, IDS, layers=layers)
        loss = sum(states.square().mean() for states in found.layers.values())
        if reads == "both layers and final":
            loss = loss + found.final.pow(3).mean()
        loss.backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    plain, checkpointed = gradients(False), gradients(True)
    reached = {name for name, gradient in plain.items() if gradient is not None}
    assert "model.layers.0.mlp.up_proj.weight" in reached
    assert any(name.startswith("model.layers.1") for name in reached) == (layers != (0,))
    for name, gradient in plain.items():
        if gradient is None:
            assert checkpointed[name] is None
        else:
            torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-5, atol=1e-9)
            assert gradient.abs().max() > 0


def test_gradients_of_and_under_a_perturbation_are_those_without_checkpointing(tiny_llama):
    start = torch.randn(2, 12, 64, generator=torch.Generator().manual_seed(20))

    def gradients(checkpointing):
        model, shift = training(tiny_llama, checkpointing), start.clone().requires_grad_()
        found = activations(model, IDS, layers=(0, 1), perturbations={0: shift})
        (found.layers[0].pow(3).mean() + found.layers[1].square().mean() + found.final.pow(3).mean()).backward()
        return {"shift": shift.grad} | {
            name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
        }

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-5, atol=1e-9)
    assert plain["shift"].abs().max() > 0


def test_a_loss_on_an_inner_layer_leaves_later_layers_alone(tiny_llama):
    model = tiny_llama()
    activations(model, IDS, layers=(0,)).layers[0].square().mean().backward()
    assert model.model.embed_tokens.weight.grad is not None
    assert all(parameter.grad is None for parameter in model.model.layers[1].parameters())


# --- the head ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_body_and_head_give_the_model_s_logits(architecture):
    model = ARCHITECTURES[architecture]()
    with torch.no_grad():
        own = model(IDS, use_cache=False).logits
        found = output_head(model).logits(activations(model, IDS).final)
    torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-4)
    check_head(model)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_check_passes_for_a_llama(tiny_llama, dtype, tied):
    check_head(tiny_llama(dtype, tied=tied))


def test_a_head_with_a_bias_keeps_it():
    model = build("Llama", tie_word_embeddings=False)
    model.lm_head = nn.Linear(32, 48)
    assert output_head(model).bias is model.lm_head.bias
    check_head(model)


def test_the_head_holds_the_model_s_own_parameters(tiny_llama):
    untied, tied = tiny_llama(), tiny_llama(tied=True)
    assert output_head(untied).weight is untied.lm_head.weight
    assert output_head(tied).weight is tied.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("architecture", "scale", "softcap"),
    [("Llama", 1.0, None), ("Gemma 2", 1.0, 1.5), ("Cohere", 0.0625, None), ("Granite", 0.125, None)],
)
def test_factor_and_bound_are_read_from_the_configuration(architecture, scale, softcap):
    head = output_head(ARCHITECTURES[architecture]())
    assert (head.scale, head.softcap) == (scale, softcap)


@pytest.mark.parametrize(
    "change",
    [lambda logits: 1.1 * logits, lambda logits: logits + 0.5, lambda logits: 2 * torch.tanh(logits / 2)],
    ids=["scaled", "shifted", "capped"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_does_something_else_to_its_logits_is_refused(monkeypatch, dtype, change):
    model = build("Llama", tie_word_embeddings=False).to(dtype)
    forward = model.lm_head.forward
    monkeypatch.setattr(model.lm_head, "forward", lambda hidden: change(forward(hidden)))
    with pytest.raises(InputError, match="not its head's product with the final hidden states"):
        check_head(model)


def test_a_factor_that_the_configuration_does_not_tell_is_refused():
    model = ARCHITECTURES["Cohere"]()
    model.config.logit_scale = 1.0  # the model has its own copy
    with pytest.raises(InputError):
        check_head(model)


@pytest.mark.parametrize("mode", [True, False])
def test_the_check_leaves_mode_gradients_and_weights_alone(tiny_llama, mode):
    model = tiny_llama().train(mode)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_head(model)
    assert model.training is mode
    assert all(module.training is mode for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
