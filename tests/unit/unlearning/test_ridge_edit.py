"""The exported edit of trained layers against float64, and what it does to either set."""

import numpy as np
import pytest
import torch
from plain_trainer import plain_trainer

from quail_lightning.data import MuseDataModule
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_model
from quail_lightning.objectives import GradientAscent, GradientDescent
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.adapter import Adapter
from quail_lightning.unlearning.preparation import preparation, restore_preparation
from quail_lightning.unlearning.ridge_edit import RidgeEdit, check_edited_layers
from quail_lightning.unlearning.saliency import Saliency
from quail_lightning.unlearning.task_vector import TaskVector

LAYERS = ["*.layers.[01].mlp.down_proj.weight"]
NAMES = [f"model.layers.{number}.mlp.down_proj.weight" for number in (0, 1)]


def data_module(corpus_folder, checkpoint, **options):
    given = {"max_len": 24, "batch_size": 2, "max_forget_windows": 4, "max_retain_windows": 6} | options
    return MuseDataModule(str(corpus_folder), tokenizer=checkpoint, **given)


def fit(corpus_folder, checkpoint, edit, epochs=2, **options):
    """The module and the data."""
    given = {"trainable": LAYERS, "learning_rate": 1e-3, "export_dtype": "float32"} | options
    unlearning = UnlearningModule(checkpoint, GradientAscent(), GradientDescent(), ridge_edit=edit, **given)
    data = data_module(corpus_folder, checkpoint)
    plain_trainer(max_epochs=epochs, precision="32-true").fit(unlearning, datamodule=data)
    return unlearning, data


def inputs_of(model, name, windows):
    """[inputs, tokens] what a layer is given at the tokens that predict another."""
    caught = []
    layer = model.get_submodule(name.removesuffix(".weight"))
    handle = layer.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    with torch.no_grad():
        model(input_ids=windows)
    handle.remove()
    return caught[0][:, :-1].flatten(0, 1).double().numpy().T


def test_what_is_exported_is_the_ridge_edit_of_what_was_trained(corpus_folder, deep):
    unlearning, data = fit(corpus_folder, deep, RidgeEdit(retain_weight=2.0, ridge=0.05))
    exported, before = unlearning.export.whole_copy(unlearning.model), load_model(deep, torch.float32)
    windows = data.served.trained
    for name in NAMES:
        forget, retain = (inputs_of(before, name, each) for each in (windows.forget, windows.retain))
        forget, retain = (each / np.sqrt(each.shape[1]) for each in (forget, retain))
        start = before.get_parameter(name).double().detach().numpy()
        change = unlearning.model.get_parameter(name).double().detach().numpy() - start
        assert np.abs(change).max() > 1e-3
        second = forget @ forget.T
        ridge = 0.05 * np.trace(second) / len(second)
        damped = second + 2.0 * retain @ retain.T + ridge * np.eye(len(second))
        expected = start + (change @ forget) @ forget.T @ np.linalg.inv(damped)
        found = exported.get_parameter(name).double().detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_other_weights_are_exported_as_they_are(corpus_folder, deep):
    unlearning, _ = fit(corpus_folder, deep, RidgeEdit())
    exported, before = unlearning.export.whole_copy(unlearning.model), load_model(deep, torch.float32)
    for name, value in exported.named_parameters():
        assert torch.equal(value, before.get_parameter(name)) == (name not in NAMES), name


def test_the_edit_forgets_and_spares_the_retain_set_more_than_the_training_did(corpus_folder, deep):
    unlearning, data = fit(corpus_folder, deep, RidgeEdit(retain_weight=3.0), epochs=4)
    before, exported = load_model(deep, torch.float32), unlearning.export.whole_copy(unlearning.model)
    windows = data.served.trained

    def shift(model, each):
        with torch.no_grad():
            return (
                (model.eval()(input_ids=each).logits - before(input_ids=each).logits).square().mean().sqrt().item()
            )

    of_edit, of_training = (
        {side: shift(model, getattr(windows, side)) for side in ("forget", "retain")}
        for model in (exported, unlearning.model)
    )
    assert of_edit["forget"] > 0.2 * of_training["forget"]
    assert of_edit["retain"] / of_edit["forget"] < 0.8 * of_training["retain"] / of_training["forget"]


def test_a_larger_retain_weight_leaves_the_retain_set_more_as_it_was(corpus_folder, deep):
    before = load_model(deep, torch.float32)
    shifts = []
    for weight in (0.0, 10.0):
        unlearning, data = fit(corpus_folder, deep, RidgeEdit(retain_weight=weight))
        exported, windows = unlearning.export.whole_copy(unlearning.model), data.served.trained.retain
        with torch.no_grad():
            shifts.append((exported(input_ids=windows).logits - before(input_ids=windows).logits).norm().item())
    assert shifts[1] < 0.8 * shifts[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trainable": "all"}, "must be named"),
        ({"trainable": "quantized"}, "must be named"),
        ({"task_vector": TaskVector(1.0)}, "model.task_vector"),
        ({"saliency": Saliency(90.0), "trainable": "all"}, "must be named"),
        ({"adapter": Adapter(), "trainable": "all"}, "must be named"),
    ],
)
def test_options_that_leave_nothing_to_edit_are_refused(options, words, checkpoint):
    with pytest.raises(InputError, match=words):
        UnlearningModule(checkpoint, GradientAscent(), ridge_edit=RidgeEdit(), **({"trainable": LAYERS} | options))


@pytest.mark.parametrize("trainable", [["*embed_tokens.weight"], ["*layernorm.weight"]])
def test_layers_that_are_not_linear_are_refused_before_training(trainable, corpus_folder, deep):
    with pytest.raises(InputError, match="linear layers alone"):
        fit(corpus_folder, deep, RidgeEdit(), trainable=trainable)


def test_without_a_retain_set_nothing_can_be_spared(deep):
    nothing = torch.empty(0, 24, dtype=torch.int64)
    with pytest.raises(InputError, match=r"none.*retain_weight"):
        check_edited_layers(RidgeEdit(), LAYERS, deep, nothing)
    check_edited_layers(RidgeEdit(retain_weight=0.0), LAYERS, deep, nothing)


@pytest.mark.parametrize(
    ("name", "value"), [("retain_weight", -1.0), ("retain_weight", float("nan")), ("ridge", 0.0)]
)
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(InputError, match=f"ridge_edit.{name} must be"):
        RidgeEdit(**{name: value})


def test_a_model_that_was_not_trained_is_exported_as_it_is(corpus_folder, deep):
    unlearning, _ = fit(corpus_folder, deep, RidgeEdit(), learning_rate=1e-12)
    exported, before = unlearning.export.whole_copy(unlearning.model), load_model(deep, torch.float32)
    for name, value in exported.named_parameters():
        torch.testing.assert_close(value, before.get_parameter(name), rtol=0, atol=1e-9)


def test_a_run_that_goes_on_keeps_the_edits_that_were_measured_first(corpus_folder, deep):
    """Another processor would round the layers' inputs otherwise."""
    first, _ = fit(corpus_folder, deep, RidgeEdit(retain_weight=0.0))
    second, _ = fit(corpus_folder, deep, RidgeEdit(retain_weight=10.0))
    restore_preparation(second, preparation(first))
    expected, found = (each.export.whole_copy(first.model) for each in (first, second))
    for name in NAMES:
        assert torch.equal(found.get_parameter(name), expected.get_parameter(name)), name
