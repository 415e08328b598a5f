"""A measured step against torch.quantile over the full logits and the layers' outputs."""

import copy

import pytest
import torch
from plain_trainer import plain_trainer

from quail_lightning.data import MuseDataModule
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.functional.masking import masked
from quail_lightning.models.activations import activations
from quail_lightning.models.checkpoint import load_model
from quail_lightning.objectives import (
    GradientAscent,
    GradientDescent,
    InvertedHinge,
    LayerHinge,
    LogitHinge,
    MeasuredStep,
)
from quail_lightning.quantization import Gptq, load_quantizer
from quail_lightning.reference import LiveReference
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.measured_margin import measure_steps
from quail_lightning.unlearning.provenance import description

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture
def windows():
    return torch.randint(3, 280, (7, 20), generator=torch.Generator().manual_seed(6))


def quantized(model, precision):
    """``uniform4-tensor`` by its formula: 16 levels, Δ = max|w| / 8 a tensor (failure paper, Eq. 2)."""
    if precision != "uniform4-tensor":
        return load_quantizer(precision).quantize(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if name.split(".")[-2] in PROJECTIONS:
                step = weight.abs().max() / 8
                weight.copy_((weight / step).round().clamp(-8, 7) * step)
    return other


def read(model, ids):
    """[windows, time − 1, vocabulary] logits, and each decoder layer's output."""
    layers = []
    handles = [
        layer.register_forward_hook(lambda _, __, output: layers.append(output)) for layer in model.model.layers
    ]
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    for handle in handles:
        handle.remove()
    return logits, layers


def measure(term, model, windows, batch_size=2):
    return measure_steps(term, model, windows, activations, torch.float32, batch_size)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("precision", ["uniform4-tensor", "nf4"])
def test_half_the_step_is_the_quantile_of_the_logit_errors(precision, quantile, windows, deep):
    model, term = load_model(deep, torch.float32), LogitHinge(MeasuredStep(precision, quantile))
    measured = measure(term, model, windows)
    error = (read(quantized(model, precision), windows)[0] - read(model, windows)[0]).abs()
    expected = error.flatten().quantile(quantile).item()
    assert measured == {"logits": term.step}
    assert term.step / 2 == pytest.approx(expected, rel=0.01)
    assert expected > 0.01  # an error worth measuring


@pytest.mark.parametrize("layers", [None, [2, 0]])
@pytest.mark.parametrize("precision", ["uniform4-tensor", "nf4"])
def test_each_layers_step_is_measured_on_its_own_output(precision, layers, windows, deep):
    model, term = load_model(deep, torch.float32), LayerHinge(layers, MeasuredStep(precision, 0.75))
    measured = measure(term, model, windows)
    ours, theirs = read(model, windows)[1], read(quantized(model, precision), windows)[1]
    expected = [2 * (a - b).abs().flatten().quantile(0.75).item() for a, b in zip(ours, theirs, strict=True)]
    assert term.measured == {layer: pytest.approx(expected[layer], rel=0.01) for layer in layers or range(3)}
    assert measured == {f"layer {layer}": step for layer, step in term.measured.items()}
    assert len({round(step, 3) for step in expected}) == 3  # else one for all would have passed


def test_only_some_windows_are_looked_at_evenly_spread(windows, deep):
    model, term = load_model(deep, torch.float32), LogitHinge(MeasuredStep("uniform4-tensor", 0.5, max_windows=3))
    measure(term, model, windows)
    some = windows[[0, 2, 4]]  # 0, 7/3 and 14/3
    error = (read(quantized(model, "uniform4-tensor"), some)[0] - read(model, some)[0]).abs()
    assert term.step / 2 == pytest.approx(error.flatten().quantile(0.5).item(), rel=0.01)


def test_a_calibrated_precision_is_shown_the_general_text_not_the_forget_set(windows, deep, monkeypatch):
    model, tokenizer, seen = load_model(deep, torch.float32), load_tokenizer(deep), []

    def quantize(_, target, tokens):
        seen.append(tokens)
        return load_quantizer("nf4").quantize(target)

    monkeypatch.setattr(Gptq, "quantize", quantize)
    term = LogitHinge(MeasuredStep("gptq4"))
    measure_steps(term, model, windows, activations, torch.float32, 2, tokenizer)
    assert "ALICE" in tokenizer.decode(seen[0][0])
    assert seen[0].shape == (64, min(512, model.config.max_position_embeddings))


def test_the_target_is_left_as_it_is(windows, deep):
    model = load_model(deep, torch.float32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure(LogitHinge(MeasuredStep("nf4")), model, windows)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("term", [LogitHinge(1.5), LayerHinge(step=0.5), InvertedHinge()])
def test_a_step_that_is_given_and_terms_without_one_are_left_alone(term):
    before = dict(vars(term))
    assert measure_steps(term, None, None, None, None, 2) == {}
    assert vars(term) == before


def data_module(corpus_folder, checkpoint):
    return MuseDataModule(
        str(corpus_folder),
        tokenizer=checkpoint,
        max_len=24,
        batch_size=2,
        max_forget_windows=4,
        max_retain_windows=6,
    )


def fit(corpus_folder, checkpoint, hinge):
    unlearning = UnlearningModule(
        checkpoint,
        GradientAscent(),
        GradientDescent(),
        hinge,
        gamma=5.0,
        learning_rate=1e-3,
        reference=LiveReference(),
    )
    data = data_module(corpus_folder, checkpoint)
    plain_trainer(max_epochs=1, precision="32-true").fit(unlearning, datamodule=data)
    return unlearning, data.served.trained.forget


def test_a_fit_trains_with_the_measured_step(corpus_folder, deep):
    unlearning, windows = fit(corpus_folder, deep, LogitHinge(MeasuredStep("uniform4-tensor", 0.9)))
    model = load_model(deep, torch.float32)
    error = (read(quantized(model, "uniform4-tensor"), windows)[0] - read(model, windows)[0]).abs()
    step = unlearning.measured_steps["logits"]
    assert step / 2 == pytest.approx(error.flatten().quantile(0.9).item(), rel=0.01)
    assert description(unlearning)["measured_steps"] == {"logits": step}
    same, other = (fit(corpus_folder, deep, LogitHinge(given))[0] for given in (step, step / 3))
    for name, value in unlearning.model.named_parameters():
        assert torch.equal(value, same.model.get_parameter(name)), name
    head = "model.embed_tokens.weight"
    assert not torch.equal(same.model.get_parameter(head), other.model.get_parameter(head))


def test_a_fit_trains_with_each_layers_measured_step(corpus_folder, deep):
    unlearning, windows = fit(corpus_folder, deep, LayerHinge(step=MeasuredStep("nf4", 0.5)))
    model = load_model(deep, torch.float32)
    ours, theirs = read(model, windows)[1], read(quantized(model, "nf4"), windows)[1]
    expected = {
        f"layer {layer}": pytest.approx(2 * (a - b).abs().flatten().quantile(0.5).item(), rel=0.01)
        for layer, (a, b) in enumerate(zip(ours, theirs, strict=True))
    }
    assert unlearning.measured_steps == expected


@pytest.mark.parametrize("hinge", [LogitHinge, LayerHinge])
def test_an_unknown_precision_is_refused_before_the_weights_are_loaded(hinge, corpus_folder, deep, monkeypatch):
    monkeypatch.setattr("quail_lightning.unlearning.sharding.load_model", None)  # calling it would fail
    with pytest.raises(InputError, match=r"no such precision; got 'nf5'\. Allowed: .*nf4.*Did you mean nf4"):
        fit(corpus_folder, deep, hinge(step=MeasuredStep("nf5")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantile": 0.0}, r"\(0, 1\); got 0\.0"),
        ({"quantile": 1.0}, r"\(0, 1\); got 1\.0"),
        ({"max_windows": 0}, "at least 1 window"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        MeasuredStep(**options)


@pytest.mark.parametrize("layers", [False, True])
def test_errors_at_masked_positions_do_not_count(layers, checkpoint, windows):
    """What stands behind the learned tokens changes nothing, and the learned ones alone give the step."""
    how = MeasuredStep("uniform4-tensor", 0.5)
    model = load_model(checkpoint, torch.float32)
    learned = torch.zeros_like(windows, dtype=torch.bool)
    learned[:, 5:12] = True

    def measured(rows):
        return measure(LayerHinge([0], step=how) if layers else LogitHinge(how), model, rows)

    other = torch.where(torch.arange(20) < 12, windows, (windows + 7) % 280)
    found = measured(masked(windows, learned))
    assert found == measured(masked(other, learned))
    (whole,), (part,) = measured(windows).values(), found.values()
    assert whole != part
    outputs = [read(each, windows) for each in (model, quantized(model, "uniform4-tensor"))]
    if layers:
        one, two = (found[0][:, 5:12] for _, found in outputs)
    else:
        one, two = (logits[:, 4:11] for logits, _ in outputs)
    assert part == pytest.approx(2 * float((one - two).abs().flatten().quantile(0.5)), rel=0.01)
