"""What is foreseen of an update, against float64 sums over the quantizers' own copies."""

import numpy as np
import pytest
import torch

from quail_lightning.comparison import (
    PREDICTORS,
    Delivery,
    ModelWeights,
    Questions,
    Tensors,
    compare,
    formats,
    kept_by_gradient,
    parameter_roles,
    total_delivery,
)
from quail_lightning.quantization import quantized_linears

from .conftest import llama, nudged
from .test_formats import QUANTIZERS, weights


def flat(by_name):
    return np.concatenate([by_name[name].ravel() for name in by_name])


@pytest.fixture(scope="module")
def models():
    return llama(1, dtype=torch.float32), nudged(llama(1, dtype=torch.float32), size=1e-3)


@pytest.fixture(scope="module")
def gradient(models):
    generator = torch.Generator().manual_seed(7)
    return {
        f"{name}.weight": torch.randn(layer.weight.shape, generator=generator)
        for name, layer in quantized_linears(models[0])
    }


@pytest.fixture(scope="module")
def found(models, gradient):
    reference, model = models
    questions = Questions((4,), formats=formats(QUANTIZERS))
    sources = (ModelWeights(reference), ModelWeights(model))
    return compare(*sources, parameter_roles(reference), questions, gradient=Tensors(gradient, "gradient"))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_figure_is_that_of_the_quantized_models(found, models, gradient, name):
    before, after = (weights(model) for model in models)
    quantized, unlearned = (weights(model, QUANTIZERS[name]) for model in models)
    w, moved = flat(before), flat(after) - flat(before)
    arrived, lost = flat(unlearned) - flat(quantized), flat(after) - flat(unlearned)
    g = np.concatenate([gradient[f"{layer}.weight"].double().numpy().ravel() for layer in before])
    total = total_delivery(found.within("quantized"), name)
    assert total.left_by_rounding == pytest.approx(1 - moved @ lost / (moved @ moved), rel=1e-3)
    assert total.slope == pytest.approx(g @ moved, rel=1e-5)
    size = np.linalg.norm(g) * np.linalg.norm(lost)  # the sums nearly cancel
    assert total.slope_delivered == pytest.approx(g @ arrived, abs=1e-4 * size)
    assert total.slope_rounded_off == pytest.approx(g @ lost, abs=1e-4 * size)
    figures = {each.name: each.of(total, 2.0) for each in PREDICTORS}
    assert figures["kept_by_gradient"] == pytest.approx(1 - max(0, g @ lost) / 2, abs=1e-4 * size)
    assert figures["delivered_slope"] == pytest.approx(g @ arrived / (g @ moved), abs=1e-3 * size)
    assert figures["delivered_fall"] == pytest.approx(1 - g @ (moved - arrived) / 2, abs=2e-4 * size)
    assert figures["along_the_update"] == pytest.approx(moved @ arrived / (moved @ moved), rel=1e-3)
    assert len(w) == total.buckets.count


def test_unseen_is_what_stays_below_half_of_the_first_level(found, models):
    """Of symmetric int4, a step for each tensor: max|w|/8, of which the bucket of 0 reaches half a step."""
    before, after = (weights(model) for model in models)
    hidden = whole = 0.0
    for name, w in before.items():
        half = np.abs(w).max() / 16
        moved = (after[name] - w) ** 2
        hidden += moved[(np.abs(w) < half) & (np.abs(after[name]) < half)].sum()
        whole += moved.sum()
    total = total_delivery(found.within("quantized"), "tensor")
    assert 0.05 < hidden / whole < 0.95
    assert total.seen == pytest.approx(1 - hidden / whole, rel=1e-4)


def test_without_a_text_only_the_weights_foresee(models):
    reference, model = models
    questions = Questions((4,), formats=formats({"nf4": QUANTIZERS["nf4"]}))
    found = compare(ModelWeights(reference), ModelWeights(model), parameter_roles(reference), questions)
    total = total_delivery(found.within("quantized"), "nf4")
    assert {each.name for each in PREDICTORS if each.of(total, None) is None} == {
        each.name for each in PREDICTORS if each.needs_gradient
    }


def test_an_update_that_rounding_moves_on_counts_as_kept():
    rounded_further = Delivery(slope=1.0, slope_rounded_off=-0.5)
    assert kept_by_gradient(rounded_further, 2.0) == 1.0
    assert kept_by_gradient(Delivery(slope=1.0, slope_rounded_off=0.5), 2.0) == 0.75
    assert kept_by_gradient(Delivery(slope=1.0, slope_rounded_off=0.5), 0.0) is None


def test_where_nothing_moved_nothing_is_foreseen(models):
    reference = models[0]
    questions = Questions((4,), formats=formats({"nf4": QUANTIZERS["nf4"]}))
    found = compare(ModelWeights(reference), ModelWeights(reference), parameter_roles(reference), questions)
    total = total_delivery(found.within("quantized"), "nf4")
    assert (total.along, total.seen, total.left_by_rounding) == (None, None, None)
