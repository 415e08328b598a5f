"""What every reference promises, whether it keeps states, logits or a model."""

import weakref

import pytest
import torch

from quail_lightning.functional.chunked import head_terms
from quail_lightning.functional.hinge import hinge
from quail_lightning.models.activations import activations, output_head
from quail_lightning.reference import CachedLogits, CachedStates, LiveReference, Reference, Sizes

KINDS = [CachedStates, CachedLogits, LiveReference]
ASKED = (5, 0, 3)
STEP = 0.8  # of the hinge, in logits: a random model's are small


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def reference(request, tmp_path):
    return make(request.param, tmp_path)


def make(kind, folder):
    return kind() if kind is LiveReference else kind(str(folder / kind.__name__))


def all_rows(outputs, count):
    return torch.cat([outputs.rows(slice(start, min(start + 5, count))) for start in range(0, count, 5)])


def own_logits(model, ids):
    """[batch · (time − 1), vocabulary] of the predicted tokens, by the model itself."""
    with torch.no_grad():
        return model(input_ids=ids).logits[:, :-1].flatten(0, 1)


def float64_likelihood(model, ids):
    with torch.no_grad():
        log_probability = model.double()(input_ids=ids).logits.log_softmax(-1)
    return torch.stack(
        [
            sum(row[t, token] for t, token in enumerate(window[1:]))
            for row, window in zip(log_probability, ids, strict=True)
        ]
    )


def test_fulfils_the_protocol(reference):
    assert isinstance(reference, Reference)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_are_the_targets_own_logits(reference, tiny_llama, prepare, batch_of, arithmetic_of, dtype, tied):
    model = tiny_llama(dtype, tied)
    prepare(reference, model, arithmetic=arithmetic_of(dtype))
    for side, numbers in (("forget", ASKED), ("retain", (4,))):
        batch = batch_of(side, numbers)
        rows = all_rows(reference.outputs(side, batch), len(numbers) * 8)
        assert rows.dtype == torch.float32
        rounding = {torch.float32: 1e-6, torch.bfloat16: 2**-7}[dtype]  # two roundings of bfloat16
        torch.testing.assert_close(rows, own_logits(model, batch.input_ids).float(), rtol=rounding, atol=rounding)


def test_rows_are_those_of_a_bfloat16_product_beside_float32_weights(
    reference, tiny_llama, prepare, batch_of, arithmetic_of
):
    model = tiny_llama()
    prepare(reference, model, arithmetic=arithmetic_of(torch.bfloat16, autocast=True))
    batch = batch_of("forget", ASKED)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(input_ids=batch.input_ids).logits[:, :-1].flatten(0, 1)
    torch.testing.assert_close(
        all_rows(reference.outputs("forget", batch), 24), expected.float(), rtol=2**-7, atol=2**-7
    )


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_rows_are_scaled_and_capped_as_the_model_does(reference, tiny_llama, prepare, batch_of, bias):
    model = tiny_llama()
    batch = batch_of("forget", ASKED)
    expected = own_logits(model, batch.input_ids)
    if bias:
        model.lm_head.bias = torch.nn.Parameter(torch.linspace(-1, 1, 64))
        expected = expected + torch.linspace(-1, 1, 64)
    model.config.logit_scale, model.config.final_logit_softcapping = 3.0, 0.5
    prepare(reference, model)
    found = all_rows(reference.outputs("forget", batch), 24)
    torch.testing.assert_close(found, 0.5 * (3.0 * expected / 0.5).tanh())
    assert found.abs().max() > 0.45  # the cap was felt


def test_likelihood_counts_the_tokens_that_the_step_predicts(reference, tiny_llama, prepare, batch_of):
    """The cache is built of the windows alone; a step may ignore some of their tokens."""
    model = tiny_llama()
    prepare(reference, model)
    batch = batch_of("forget", ASKED)
    labels = batch.labels.clone()
    labels[0, :6] = labels[1] = labels[2, 8] = -100
    found = reference.outputs("forget", batch._replace(labels=labels)).likelihood
    with torch.no_grad():
        log_probability = model.double()(input_ids=batch.input_ids).logits.log_softmax(-1)
    expected = [
        sum(log_probability[row, t - 1, batch.input_ids[row, t]].item() for t in real)
        for row, real in enumerate((range(6, 9), (), range(1, 8)))
    ]
    torch.testing.assert_close(found.double(), torch.tensor(expected).double(), rtol=1e-6, atol=0)


def test_likelihood_is_that_of_the_windows_in_double_precision(reference, tiny_llama, prepare, batch_of):
    model = tiny_llama()
    prepare(reference, model)
    batch = batch_of("forget", ASKED)
    likelihood = reference.outputs("forget", batch).likelihood
    assert likelihood.dtype == torch.float32
    expected = float64_likelihood(model, batch.input_ids)
    torch.testing.assert_close(likelihood.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layers_are_the_targets(reference, tiny_llama, prepare, batch_of, arithmetic_of, dtype):
    model = tiny_llama(dtype)
    prepare(reference, model, arithmetic=arithmetic_of(dtype))
    batch = batch_of("retain", (4, 1))
    layers = reference.outputs("retain", batch).layers
    assert sorted(layers) == [0, 1]
    with torch.no_grad():
        states = model.model(input_ids=batch.input_ids, output_hidden_states=True).hidden_states
    assert layers[0].dtype == dtype
    torch.testing.assert_close(layers[0], states[1])
    torch.testing.assert_close(model.model.norm(layers[1]), states[2])  # the last of these is after the norm


def test_only_what_was_asked_for_is_given(reference, tiny_llama, prepare, batch_of, requests_of):
    prepare(reference, tiny_llama(), requests_of(forget=("likelihood",), retain=("layers",)))
    outputs = reference.outputs("forget", batch_of("forget", ASKED))
    assert outputs.rows is None
    assert outputs.likelihood is not None
    assert not outputs.layers
    outputs = reference.outputs("retain", batch_of("retain", (0,)))
    assert outputs.rows is None
    assert outputs.likelihood is None
    assert sorted(outputs.layers) == [0, 1]


def test_training_the_target_later_changes_nothing(reference, tiny_llama, prepare, batch_of):
    model = tiny_llama().train()
    prepare(reference, model)
    assert model.training  # as it was
    assert all(parameter.requires_grad for parameter in model.parameters())
    batch = batch_of("forget", ASKED)
    outputs = reference.outputs("forget", batch)
    before, likelihood = all_rows(outputs, 24), outputs.likelihood
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    assert torch.equal(all_rows(reference.outputs("forget", batch), 24), before)
    assert torch.equal(reference.outputs("forget", batch).likelihood, likelihood)


def test_nothing_takes_a_gradient(reference, tiny_llama, prepare, batch_of):
    prepare(reference, tiny_llama())
    outputs = reference.outputs("forget", batch_of("forget", ASKED))
    given = [outputs.rows(slice(0, 3)), outputs.likelihood, *outputs.layers.values()]
    assert not any(tensor.requires_grad for tensor in given)


def test_preparing_again_replaces_what_was_kept(reference, tiny_llama, prepare, batch_of, requests_of, windows):
    model = tiny_llama()
    prepare(reference, model)
    turned = {"forget": requests_of()["forget"]._replace(windows=windows["forget"].flip(0))}
    prepare(reference, model, turned)
    batch = batch_of("forget", (6,))
    outputs = reference.outputs("forget", batch._replace(window=torch.tensor([0])))
    torch.testing.assert_close(all_rows(outputs, 8), own_logits(model, batch.input_ids))


def hinge_and_gradient(model, reference, batch):
    """The mean hinge of a batch, and its gradient in the head and in the body's last norm."""
    model.zero_grad()
    final = activations(model, batch.input_ids).final
    (values,) = head_terms(
        final[:, :-1],
        batch.labels[:, 1:],
        output_head(model),
        (lambda logits, _, frozen: hinge(logits, frozen, STEP),),
        reference.outputs("forget", batch).rows,
        tokens=5,
    )
    values.mean().backward()
    return values.detach().mean(), model.lm_head.weight.grad.clone(), model.model.norm.weight.grad.clone()


@pytest.fixture
def prepared(tiny_llama, prepare, tmp_path):
    """All three kinds, of the same target."""
    return [prepare(make(kind, tmp_path), tiny_llama()) for kind in KINDS]


def test_hinge_is_flat_at_step_0_whatever_the_kind(prepared, tiny_llama, batch_of):
    batch = batch_of("forget", (2, 3))
    for reference in prepared:
        loss, head, norm = hinge_and_gradient(tiny_llama(), reference, batch)
        torch.testing.assert_close(loss, torch.tensor(STEP / 2), rtol=1e-6, atol=0)
        if isinstance(reference, LiveReference):
            assert not head.any()
            assert not norm.any()


def test_loss_and_gradient_are_the_same_whatever_the_kind(prepared, tiny_llama, batch_of):
    model = tiny_llama()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    batch = batch_of("forget", ASKED)
    expected, *others = [hinge_and_gradient(model, reference, batch) for reference in prepared]
    assert 0.05 < expected[0] < 0.35  # some entries have left the margin, some have not
    assert expected[1].norm() > 0
    for found in others:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("kind", "held"), [(CachedStates, 7 * 8 * 64), (CachedLogits, 0)])
def test_rows_hold_no_logits_between_calls(kind, held, tiny_llama, prepare, batch_of, tmp_path):
    model = tiny_llama()
    model.resize_token_embeddings(640)  # so that logits and hidden states differ in size
    rows = prepare(make(kind, tmp_path), model).outputs("forget", batch_of("forget", range(7))).rows
    logits = rows(slice(0, 4))
    assert logits.shape == (4, 640)
    gone = weakref.ref(logits)
    del logits
    assert gone() is None
    cells = [cell.cell_contents for cell in rows.__closure__]
    assert sum(cell.numel() for cell in cells if isinstance(cell, torch.Tensor)) == held


def test_live_reference_needs_no_room():
    LiveReference().check({}, Sizes(32_000, 4096), torch.bfloat16)
