"""A learning rate for a model's size."""

import logging

import pytest
import yaml
from plain_trainer import plain_trainer

from quail_lightning.configuration.files import find_config
from quail_lightning.data import MuseDataModule
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_model
from quail_lightning.objectives import GradientAscent
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.learning_rate import automatic_rate


@pytest.mark.parametrize(
    ("weights", "rate"),
    [(6_738_415_616, 1e-5), (135_000_000, 3.9e-5), (1_900_000, 1.7e-4), (70_000_000_000, 4.4e-6)],
)
def test_it_is_the_papers_for_their_model_and_larger_for_a_smaller_one(weights, rate):
    assert automatic_rate(weights) == rate
    assert automatic_rate(weights, has_adapter=True) == pytest.approx(10 * rate, rel=0.06)


def test_auto_is_what_the_optimizer_is_given(tmp_path, corpus_folder, checkpoint, caplog):
    import torch

    module = UnlearningModule(checkpoint, GradientAscent(), learning_rate="auto")
    data = MuseDataModule(str(corpus_folder), tokenizer=checkpoint, max_len=24, max_forget_windows=2)
    with caplog.at_level(logging.INFO):
        plain_trainer(max_epochs=1).fit(module, datamodule=data)
    expected = automatic_rate(sum(p.numel() for p in load_model(checkpoint, torch.float32).parameters()))
    assert module.trainer.optimizers[0].param_groups[0]["lr"] == module.learning_rate == expected
    assert f"model.learning_rate: {expected:.1e}, chosen for the model's size" in caplog.text


def test_no_rate_at_all_is_refused(checkpoint):
    with pytest.raises(InputError, match="learning_rate must be a positive number"):
        UnlearningModule(checkpoint, GradientAscent(), learning_rate=0.0)


def test_own_text_takes_it_by_default():
    assert yaml.safe_load(find_config("own.yaml").read_text("utf-8"))["model"]["learning_rate"] == "auto"
