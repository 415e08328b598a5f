"""What does not go together with an adapter, before weights are loaded."""

import pytest
from lightning.pytorch import Trainer

from quail_lightning.data import MuseDataModule
from quail_lightning.errors import InputError
from quail_lightning.objectives import GradientAscent, GradientDescent, LogitHinge, MeasuredStep
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.adapter import Adapter
from quail_lightning.unlearning.generic_labels import GenericLabels
from quail_lightning.unlearning.saliency import Saliency


def unlearning(checkpoint, forget=None, **options):
    settings = {"retain": GradientDescent(), "adapter": Adapter(rank=4)} | options
    return UnlearningModule(checkpoint, forget or GradientAscent(), **settings)


def trainer(**options):
    return Trainer(
        accelerator="cpu",
        precision="32-true",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        **options,
    )


def fit(corpus_folder, module):
    data = MuseDataModule(str(corpus_folder), tokenizer=module.target, max_len=24, batch_size=2)
    trainer().fit(module, datamodule=data)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"trainable": "quantized"}, "model.trainable"),
        ({"saliency": Saliency(50.0)}, "model.saliency"),
        ({"weight_precision": "bf16-nearest"}, "float32 masters"),
    ],
)
def test_what_else_chooses_the_trained_weights_is_refused(options, named, bf16):
    with pytest.raises(InputError, match=named):
        unlearning(bf16, **options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"forget": GradientDescent(), "generic_labels": GenericLabels()}, "generic labels"),
        ({"hinge": LogitHinge(MeasuredStep("nf4"))}, "measured by quantizing"),
    ],
)
def test_a_4_bit_base_is_refused_where_the_target_itself_is_needed(
    options, named, corpus_folder, bf16, monkeypatch
):
    monkeypatch.setattr(
        "quail_lightning.unlearning.adapter.load_model", lambda *_: pytest.fail("weights are loaded")
    )
    with pytest.raises(InputError, match=named):
        fit(corpus_folder, unlearning(bf16, adapter=Adapter(base="nf4"), **options))


def test_fsdp2_is_refused_by_name(corpus_folder, bf16):
    from lightning.pytorch.strategies import ModelParallelStrategy

    module = unlearning(bf16)
    module.trainer = trainer(strategy=ModelParallelStrategy())
    with pytest.raises(InputError, match=r"an adapter .* FSDP2 .*trainer/ddp\.yaml"):
        module.check_trainer(module.trainer)


def test_unknown_targets_are_refused_before_weights_are_loaded(corpus_folder, bf16, monkeypatch):
    monkeypatch.setattr(
        "quail_lightning.unlearning.sharding.load_model", lambda *_: pytest.fail("weights are loaded")
    )
    with pytest.raises(InputError, match=r"model\.adapter\.targets names linear layers .*q_prj.*q_proj"):
        fit(corpus_folder, unlearning(bf16, adapter=Adapter(targets=["*.q_prj"])))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"rank": 0}, "rank"),
        ({"alpha": 0}, "alpha"),
        ({"dropout": 1.0}, "dropout"),
        ({"base": "fp4"}, "base"),
        ({"targets": "q_proj"}, "targets"),
        ({"double_quantization": True}, "double quantization"),
    ],
)
def test_numbers_out_of_range_are_refused(given, named):
    with pytest.raises(InputError, match=named):
        Adapter(**given)
