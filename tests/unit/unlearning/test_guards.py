"""A run whose numbers or memory fail ends with what is needed to mend it."""

import pytest
import torch
from lightning.pytorch import Callback
from plain_trainer import plain_trainer

from quail_lightning.data import MuseDataModule
from quail_lightning.errors import RunError
from quail_lightning.objectives import GradientAscent, GradientDescent
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.sharpness import Sam


class SpoiledAscent(GradientAscent):
    """Not a number, or with an infinite gradient, at its third step."""

    def __init__(self, loss=1.0, slope=1.0):
        self.spoiled, self.steps = (loss, slope), 0

    def loss(self, seen):
        self.steps += 1
        value = super().loss(seen)
        if self.steps != 3:
            return value
        loss, slope = self.spoiled
        value.register_hook(lambda gradient: gradient * slope)
        return value * loss


class ShortOfMemory(GradientAscent):
    def __init__(self, error):
        self.error = error

    def loss(self, seen):
        raise self.error


class KeepWeights(Callback):
    """The weights before each step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before = {name: value.detach().clone() for name, value in pl_module.model.named_parameters()}
        self.windows = batch.forget.window.tolist()


def fit(folder, corpus_folder, checkpoint, forget, **options):
    kept = KeepWeights()
    module = UnlearningModule(checkpoint, forget, GradientDescent(), **{"schedule": "joint"} | options)
    data = MuseDataModule(
        str(corpus_folder), tokenizer=checkpoint, max_len=24, batch_size=2, max_forget_windows=4, schedule="joint"
    )
    trainer = plain_trainer(
        max_epochs=2,
        precision="32-true",
        callbacks=[kept],
        default_root_dir=folder,
    )
    with pytest.raises(RunError) as raised:
        trainer.fit(module, datamodule=data)
    return str(raised.value), module, kept


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named_by_step_windows_and_term(loss, tmp_path, corpus_folder, checkpoint):
    message, module, kept = fit(tmp_path, corpus_folder, checkpoint, SpoiledAscent(loss))
    # two batches an epoch: the third step opens the second epoch
    place = f"not finite in step 3 (epoch 2), on the forget windows {kept.windows}: forget = {abs(loss)}"
    assert place.replace("inf", "") in message.replace("-inf", "").replace("inf", "")
    assert "retain" not in message.partition(". Lower")[0]
    assert "model.learning_rate" in message
    for name, value in module.model.named_parameters():
        assert torch.equal(value, kept.before[name]), name


def test_a_gradient_that_is_not_finite_leaves_the_weights_alone(tmp_path, corpus_folder, checkpoint):
    message, module, kept = fit(tmp_path, corpus_folder, checkpoint, SpoiledAscent(slope=float("inf")))
    assert "the gradient is not finite in step 3 (epoch 2)" in message
    for name, value in module.model.named_parameters():
        assert torch.equal(value, kept.before[name]), name


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
        MemoryError("Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: Tried to allocate 2.00 GiB."),
    ],
)
def test_short_memory_names_the_options_that_need_less(error, tmp_path, corpus_folder, checkpoint):
    message, *_ = fit(tmp_path, corpus_folder, checkpoint, ShortOfMemory(error))
    for said in (
        "step 1 (epoch 1)",
        "passes of 2 windows of 24 tokens",
        "gradient checkpointing off",
        "logits in chunks of",
        "Tried to allocate 2.00 GiB",
        "model.micro_batch_size: 1",
        "model.gradient_checkpointing: true",
        "chunks of 46 tokens",  # all that two windows predict
        "model.loss_chunk: 23",
        "data.max_len: less than 24",
        "bf16-stochastic",
    ):
        assert said in message, said


def test_short_memory_names_no_option_that_is_set_already(tmp_path, corpus_folder, checkpoint):
    options = {"micro_batch_size": 1, "gradient_checkpointing": True, "loss_chunk": 1}
    message, *_ = fit(tmp_path, corpus_folder, checkpoint, ShortOfMemory(MemoryError()), **options)
    assert "gradient checkpointing on" in message
    assert "micro_batch_size" not in message
    assert "gradient_checkpointing: true" not in message
    assert "chunks of 1 tokens" in message
    assert "model.loss_chunk" not in message


def test_short_memory_names_no_option_that_another_one_refuses(tmp_path, corpus_folder, checkpoint):
    message, *_ = fit(tmp_path, corpus_folder, checkpoint, ShortOfMemory(MemoryError()), sam=Sam(0.1))
    assert "micro_batch_size" in message
    assert "bf16-stochastic" not in message


def test_other_errors_pass_unchanged(tmp_path, corpus_folder, checkpoint):
    with pytest.raises(pytest.fail.Exception, match="shape"):
        fit(tmp_path, corpus_folder, checkpoint, ShortOfMemory(pytest.fail.Exception("shape")))
