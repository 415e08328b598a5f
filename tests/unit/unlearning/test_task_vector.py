"""The negated task vector in float64, weight by weight, and what it does to the forget set."""

import pytest
import torch
from lightning.pytorch import Trainer
from plain_trainer import plain_trainer

from quail_lightning.data import MuseDataModule
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_model
from quail_lightning.objectives import GradientDescent
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.task_vector import TaskVector


def fit(corpus_folder, checkpoint, scale=1.0, epochs=1, **options):
    """The module and the forget windows."""
    data = MuseDataModule(
        str(corpus_folder),
        tokenizer=checkpoint,
        max_len=24,
        batch_size=2,
        max_forget_windows=4,
        max_retain_windows=6,
    )
    unlearning = UnlearningModule(
        checkpoint, GradientDescent(), task_vector=TaskVector(scale), **({"learning_rate": 1e-3} | options)
    )
    plain_trainer(max_epochs=epochs, precision="32-true").fit(unlearning, datamodule=data)
    return unlearning, data.served.trained.forget


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("export_dtype", ["bfloat16", "float16"])
def test_what_is_exported_is_the_target_moved_the_other_way(scale, export_dtype, corpus_folder, checkpoint):
    unlearning, _ = fit(corpus_folder, checkpoint, scale, export_dtype=export_dtype)
    exported = unlearning.export.whole_copy(unlearning.model)
    target = dict(load_model(checkpoint, torch.float32).named_parameters())
    moved = 0
    for name, trained in unlearning.model.named_parameters():
        start = target[name].double()
        expected = start - scale * (trained.double() - start)
        found = exported.get_parameter(name)
        assert found.dtype == getattr(torch, export_dtype)
        # float32 arithmetic can decide a tie otherwise: one weight in a thousand, by one step
        cast = expected.to(found.dtype)
        assert (found != cast).float().mean() <= 1e-3, name
        torch.testing.assert_close(found, cast, rtol=2**-7, atol=1e-6)
        moved += (trained != target[name]).sum().item()
    assert moved > 10_000


@pytest.mark.parametrize("weight_precision", ["float32", "bf16-nearest"])
def test_untrained_weights_are_exactly_the_targets(weight_precision, corpus_folder, checkpoint):
    """The checkpoint is float32: what rounding it to bfloat16 weights takes off is no training to be negated."""
    unlearning, _ = fit(
        corpus_folder, checkpoint, 3.0, trainable=["*.mlp.down_proj.weight"], weight_precision=weight_precision
    )
    exported, target = unlearning.export.whole_copy(unlearning.model), load_model(checkpoint, torch.float32)
    for name, value in exported.named_parameters():
        assert torch.equal(value, target.get_parameter(name).bfloat16()) == ("down_proj" not in name), name


def test_the_exported_model_forgets_what_the_trained_one_learned(corpus_folder, checkpoint):
    unlearning, windows = fit(corpus_folder, checkpoint, epochs=2)

    def nll(model):
        with torch.no_grad():
            return model.float().eval()(input_ids=windows, labels=windows).loss.item()

    before = nll(load_model(checkpoint, torch.float32))
    exported = nll(unlearning.export.whole_copy(unlearning.model))
    assert nll(unlearning.model) < before - 0.3
    assert exported > before + 0.3


def test_an_export_leaves_the_trained_weights_alone(corpus_folder, checkpoint):
    unlearning, _ = fit(corpus_folder, checkpoint)
    before = {name: value.clone() for name, value in unlearning.model.named_parameters()}
    first, second = unlearning.export.whole_copy(unlearning.model), unlearning.export.whole_copy(unlearning.model)
    for name, value in unlearning.model.named_parameters():
        assert torch.equal(value, before[name]), name
        assert torch.equal(first.get_parameter(name), second.get_parameter(name)), name


def test_the_vector_starts_at_the_target_not_where_training_starts(tmp_path, corpus_folder, checkpoint):
    """From another start, θ − θ_target holds the way to the start as well."""
    from quail_lightning.data.tokenizer import load_tokenizer
    from quail_lightning.models.checkpoint import save_model

    start = load_model(checkpoint, torch.float32)
    with torch.no_grad():
        start.model.norm.weight.add_(0.25)
    save_model(start, load_tokenizer(checkpoint), tmp_path / "start", {})
    unlearning, _ = fit(corpus_folder, checkpoint, start=str(tmp_path / "start"), learning_rate=1e-9)
    exported = unlearning.export.whole_copy(unlearning.model).model.norm.weight.float()
    torch.testing.assert_close(exported, torch.full((64,), 0.75))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_scale_that_is_not_positive_is_refused(scale):
    with pytest.raises(InputError, match="task vector's scale must be positive"):
        TaskVector(scale)


def test_a_saved_model_is_not_negated_again(tmp_path, corpus_folder, checkpoint):
    unlearning = UnlearningModule(checkpoint, GradientDescent(), task_vector=TaskVector(1.0))
    unlearning.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    unlearning.model = load_model(checkpoint, torch.float32)  # as `quail test` has it: loaded, never trained
    exported = dict(unlearning.export.whole_copy(unlearning.model).named_parameters())
    for name, value in unlearning.model.named_parameters():
        assert torch.equal(exported[name], value.to(torch.bfloat16)), name
