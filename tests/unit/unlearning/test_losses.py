"""The terms on one batch, against the full logits of a random Llama with two layers."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import log_softmax

from quail_lightning.data.batch import TokenBatch
from quail_lightning.errors import InputError
from quail_lightning.models.activations import activations
from quail_lightning.objectives import (
    GradientAscent,
    GradientDescent,
    InvertedHinge,
    KLRetention,
    LayerHinge,
    LogitHinge,
    Misdirection,
    Needs,
    NegativePreference,
    RepresentationRetention,
)
from quail_lightning.reference import FrozenOutputs
from quail_lightning.unlearning.losses import named_layers, request, term_losses

FLOAT32 = torch.float32


@pytest.fixture
def batch():
    ids = torch.randint(64, (3, 9), generator=torch.Generator().manual_seed(1))
    return TokenBatch(ids, ids.clone(), torch.arange(3))


def losses(model, terms, batch, frozen=None, perturbations=None, forward=activations):
    return term_losses(model, terms, batch, frozen or FrozenOutputs(), forward, FLOAT32, perturbations)


def plain_logits(model, batch):
    return model(input_ids=batch.input_ids).logits[:, :-1]


def mean_likelihood(logits, labels):
    return log_softmax(logits, -1).gather(-1, labels[:, 1:, None]).mean()


def test_each_term_is_shown_its_own_values(tiny_llama, batch):
    """Three terms with one, no and one function of the logits: the values are handed out in their order."""
    model = tiny_llama()
    reference = torch.randn(3 * 8, 64, generator=torch.Generator().manual_seed(2))
    frozen = FrozenOutputs(rows=lambda rows: reference[rows])
    terms = {"first": LogitHinge(1.0, dead_zone=0.0), "second": Misdirection(0), "third": GradientAscent()}
    found = losses(model, terms, batch, frozen)
    logits = plain_logits(model, batch)
    states = model(input_ids=batch.input_ids, output_hidden_states=True).hidden_states[1]
    drawn = torch.rand(64, generator=torch.Generator().manual_seed(42))
    expected = {
        "first": torch.relu(0.5 - (logits - reference.view(3, 8, 64)).abs()).mean(),
        "second": (states - 6.5 * drawn / drawn.norm()).square().mean(),
        "third": mean_likelihood(logits, batch.labels),
    }
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_the_chunk_bounds_how_many_tokens_logits_are_held(tiny_llama, batch):
    held = []

    def likelihood(logits, labels, reference):
        held.append(len(logits))
        return log_softmax(logits, -1).gather(-1, labels[:, None])[:, 0]

    term = SimpleNamespace(needs=Needs(tokens=(likelihood,)), loss=lambda seen: seen.tokens[0].mean())
    model = tiny_llama()
    found = term_losses(model, {"x": term}, batch, FrozenOutputs(), activations, FLOAT32, chunk=7)["x"]
    found.backward()
    assert held == [7, 7, 7, 3] * 2, "3 windows of 8 predicted tokens, forward and backward"
    torch.testing.assert_close(found, mean_likelihood(plain_logits(model, batch), batch.labels))


def test_gradients_are_those_of_the_plain_losses(tiny_llama, batch):
    model, plain = tiny_llama(), tiny_llama()
    found = losses(model, {"descent": GradientDescent(), "steer": Misdirection(1)}, batch)
    (found["descent"] + 0.1 * found["steer"]).backward()
    caught = []
    handle = plain.model.layers[1].register_forward_hook(lambda _, __, output: caught.append(output))
    logits = plain_logits(plain, batch)
    handle.remove()
    drawn = torch.rand(64, generator=torch.Generator().manual_seed(42))
    steered = (caught[0] - 6.5 * drawn / drawn.norm()).square().mean()
    (0.1 * steered - mean_likelihood(logits, batch.labels)).backward()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7, msg=name)


def test_labels_need_not_be_the_input(tiny_llama, batch):
    model = tiny_llama()
    labels = batch.labels.roll(5, dims=0).flip(1)
    found = losses(model, {"nll": GradientDescent()}, batch._replace(labels=labels))["nll"]
    torch.testing.assert_close(found, -mean_likelihood(plain_logits(model, batch), labels))


def test_ignored_labels_count_in_no_mean(tiny_llama, batch):
    model, labels = tiny_llama(), batch.labels.clone()
    labels[0, 3:], labels[2, 1] = -100, -100
    terms = {"descent": GradientDescent(), "inverted": InvertedHinge()}
    found = losses(model, terms, batch._replace(labels=labels))
    logits, real = plain_logits(model, batch), labels[:, 1:] != -100
    chosen = logits[real].log_softmax(-1)
    true = labels[:, 1:][real]
    torch.testing.assert_close(found["descent"], -chosen[range(len(true)), true].mean())
    probability = chosen.exp()
    others = torch.stack([torch.cat([p[:t], p[t + 1 :]]).max() for p, t in zip(probability, true, strict=True)])
    torch.testing.assert_close(found["inverted"], (1 + probability[range(len(true)), true] - others).mean())


def test_perturbations_act_on_layers_and_logits_alike(tiny_llama, batch):
    """A shift of the first layer's output, against the second layer run by hand on the shifted states."""
    model = tiny_llama()
    shift = torch.randn(3, 9, 64, generator=torch.Generator().manual_seed(3))
    terms = {"nll": GradientDescent(), "steer": Misdirection(0)}
    found = losses(model, terms, batch, perturbations={0: shift})
    states = model(input_ids=batch.input_ids, output_hidden_states=True).hidden_states[1] + shift
    rotary = model.model.rotary_emb(states, torch.arange(9)[None])
    mask = torch.full((9, 9), float("-inf")).triu(1)[None, None]
    final = model.model.layers[1](states, attention_mask=mask, position_embeddings=rotary)
    logits = model.lm_head(model.model.norm(final))[:, :-1]
    torch.testing.assert_close(found["nll"], -mean_likelihood(logits, batch.labels), rtol=1e-5, atol=1e-6)
    drawn = torch.rand(64, generator=torch.Generator().manual_seed(42))
    torch.testing.assert_close(found["steer"], (states - 6.5 * drawn / drawn.norm()).square().mean())
    without = losses(model, terms, batch)
    torch.testing.assert_close(without["nll"], -mean_likelihood(plain_logits(model, batch), batch.labels))


def test_the_body_runs_once_and_the_head_only_where_it_is_read(tiny_llama, batch, monkeypatch):
    model, passes = tiny_llama(), []

    def counted(model, input_ids, layers=(), perturbations=None):
        passes.append(layers)
        return activations(model, input_ids, layers, perturbations)

    monkeypatch.setattr("quail_lightning.unlearning.losses.head_terms", None)  # calling it would fail
    frozen = FrozenOutputs(layers={1: torch.zeros(3, 9, 64)})
    losses(
        model,
        {"a": Misdirection(1), "b": RepresentationRetention(0.9), "c": Misdirection(0)},
        batch,
        frozen,
        forward=counted,
    )
    assert passes == [(0, 1)]


def test_a_share_of_the_depth_and_its_number_name_one_layer(tiny_llama, batch):
    model = tiny_llama()
    states = torch.randn(3, 9, 64, generator=torch.Generator().manual_seed(4))
    frozen = FrozenOutputs(layers={1: states})
    terms = {"share": RepresentationRetention(0.75), "number": RepresentationRetention(1)}
    found = losses(model, terms, batch, frozen)
    assert found["share"] == found["number"]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ((), {}),
        (None, {0: 0, 1: 1, 2: 2, 3: 3}),
        ((0.25, 3), {0.25: 0, 3: 3}),
        ((0.26, 0.5, 0.99), {0.26: 1, 0.5: 1, 0.99: 3}),
    ],
)
def test_layers_are_named_as_the_term_names_them(layers, expected):
    assert named_layers(SimpleNamespace(needs=Needs(layers=layers)), 4) == expected


@pytest.mark.parametrize("layer", [4, -1, 1.0 + 3, 0.0 - 0.5, 2.5])
def test_a_layer_that_does_not_exist_is_refused(layer):
    with pytest.raises(InputError, match=r"no such decoder layer.*0 … 3"):
        named_layers(SimpleNamespace(needs=Needs(layers=(layer,))), 4)


@pytest.mark.parametrize(
    ("terms", "frozen", "layers"),
    [
        ((NegativePreference(),), {"likelihood"}, ()),
        ((KLRetention(), LogitHinge()), {"logits"}, ()),
        ((NegativePreference(), LayerHinge([1, 0], step=1.0)), {"likelihood", "layers"}, (0, 1)),
        ((Misdirection(3), RepresentationRetention(0.5)), {"layers"}, (1,)),  # RMU's goal reads no target
        ((LayerHinge(step=1.0),), {"layers"}, (0, 1, 2, 3)),
    ],
)
def test_the_reference_is_asked_for_what_the_terms_read_and_nothing_more(terms, frozen, layers):
    windows = torch.zeros(2, 5, dtype=torch.int64)
    assert request(terms, windows, 4) == (windows, frozenset(frozen), layers)


def test_terms_that_read_no_target_ask_for_nothing():
    assert request((GradientAscent(), GradientDescent(), Misdirection(1)), torch.zeros(2, 5), 4) is None
    assert request((), torch.zeros(2, 5), 4) is None


def test_a_layer_is_checked_even_where_the_target_is_not_read():
    with pytest.raises(InputError, match="no such decoder layer"):
        request((Misdirection(4),), torch.zeros(2, 5), 4)


def test_what_two_terms_ask_of_each_token_is_computed_once(tiny_llama, batch):
    """So the NLL that is logged beside gradient ascent costs no second look at the logits."""
    looked = []

    def likelihood(logits, labels, reference):
        looked.append(len(labels))
        return log_softmax(logits, -1).gather(-1, labels[:, None]).squeeze(-1)

    ascent, descent = GradientAscent(), GradientDescent()
    ascent.needs = descent.needs = Needs(tokens=(likelihood,))
    found = losses(tiny_llama(), {"forget": ascent, "forget_nll": descent}, batch)
    assert sum(looked) == batch.labels[:, 1:].numel()
    assert found["forget_nll"].item() == pytest.approx(-found["forget"].item())
