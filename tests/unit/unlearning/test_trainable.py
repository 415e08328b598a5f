"""Patterns of parameter names: what moves, and what is refused before the weights are loaded."""

import pytest
import torch
from architectures import tiny_model
from plain_trainer import plain_trainer

from quail_lightning.data import MuseDataModule
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_model
from quail_lightning.objectives import GradientAscent, GradientDescent, LogitHinge, MeasuredStep
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.checks import check_measured_step, check_saliency
from quail_lightning.unlearning.saliency import Saliency
from quail_lightning.unlearning.trainable import matching_names, train_only

NAMES = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.10.mlp.up_proj.weight"]
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def fit(corpus_folder, checkpoint, trainable, **options):
    unlearning = UnlearningModule(
        checkpoint,
        GradientAscent(),
        GradientDescent(),
        LogitHinge(),
        trainable=trainable,
        learning_rate=1e-3,
        **options,
    )
    data = MuseDataModule(
        str(corpus_folder),
        tokenizer=checkpoint,
        max_len=24,
        batch_size=2,
        max_forget_windows=4,
        max_retain_windows=6,
    )
    trainer = plain_trainer(max_epochs=1, precision="32-true")
    try:
        trainer.fit(unlearning, datamodule=data)
    except InputError:
        assert unlearning.model is None  # refused before the weights were loaded
        raise
    before = dict(load_model(checkpoint, torch.float32).named_parameters())
    weights = dict(unlearning.model.named_parameters())
    held = {id(parameter) for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
    trained = {name for name, value in weights.items() if id(value) in held}
    moved = {name for name, value in weights.items() if not torch.equal(value, before[name])}
    return trained, moved


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*.mlp.down_proj.weight"], {"model.layers.0.mlp.down_proj.weight"}),
        (["*.q_proj.*", "model.norm.weight"], {"model.layers.0.self_attn.q_proj.weight", "model.norm.weight"}),
    ],
)
def test_only_the_weights_that_fit_a_pattern_are_trained(patterns, expected, corpus_folder, checkpoint):
    trained, moved = fit(corpus_folder, checkpoint, patterns, weight_decay=0.1)
    assert trained == moved == expected


def test_names_without_a_weight_are_refused_with_existing_ones(corpus_folder, checkpoint):
    refusal = (
        r"got '\*\.mlp\.dwn_proj\.weight, lm_hat'\. Allowed: .* such as .*model\.layers\.0\.mlp\.down_proj\.weight"
    )
    with pytest.raises(InputError, match=refusal):
        fit(corpus_folder, checkpoint, ["*.q_proj.*", "*.mlp.dwn_proj.weight", "lm_hat"])


def test_a_head_that_is_tied_goes_by_the_embeddings_name(corpus_folder, checkpoint):
    """Alone, ``lm_head.weight`` is no parameter here: refused, not silently without effect."""
    with pytest.raises(InputError, match=r"got 'lm_head\.weight'.*embed_tokens"):
        fit(corpus_folder, checkpoint, ["lm_head.weight"])


def test_quantized_means_the_projections_of_the_body(tiny_llama):
    model = tiny_llama()
    train_only(model, "quantized")
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {
        name for name, _ in model.named_parameters() if name.split(".")[-2] in PROJECTIONS
    }  # not lm_head, which is an nn.Linear too
    assert len(trained) == 14


def test_all_leaves_every_weight_trained(tiny_llama):
    model = tiny_llama()
    train_only(model, "all")
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_names_come_in_the_models_order_each_once():
    assert matching_names(NAMES, ["*.up_proj.*", "model.layers.10.*", "model.embed*"]) == NAMES


def test_a_number_fits_itself_alone():
    assert matching_names(NAMES, ["model.layers.0.*"]) == NAMES[1:2]


def test_case_matters():
    with pytest.raises(InputError, match="MODEL"):
        matching_names(NAMES, ["MODEL.*"])


def test_no_pattern_at_all_is_refused():
    with pytest.raises(InputError, match="names no weights"):
        matching_names(NAMES, [])


def test_of_a_multimodal_model_the_language_model_alone_is_trained():
    model = tiny_model("gemma3")
    train_only(model, "all")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if ".language_model." in name}
    train_only(model, "quantized")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 7
    assert all(name.startswith("model.language_model.layers.") for name in trained)


@pytest.mark.parametrize("name", ["llama", "opt", "gpt2", "gpt_neox", "mixtral", "gemma2"])
def test_all_of_a_language_model_is_all_of_it(name):
    model = tiny_model(name).requires_grad_(False)
    train_only(model, "all")
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_experts_and_conv1d_count_among_what_is_quantized():
    for name, weight in (
        ("mixtral", "model.layers.0.mlp.experts.down_proj"),
        ("gpt2", "transformer.h.1.mlp.c_fc.weight"),
    ):
        model = tiny_model(name)
        train_only(model, "quantized")
        assert model.get_parameter(weight).requires_grad


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_saliency_over_other_layers_is_refused_from_the_config(name, tmp_path):
    tiny_model(name).config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="chooses among linear layers, and"):
        check_saliency(Saliency(), str(tmp_path))
    check_saliency(None, str(tmp_path))


def test_a_step_is_measured_by_a_format_that_fits_the_target(tmp_path):
    tiny_model("gpt2").config.save_pretrained(tmp_path)
    check_measured_step(LogitHinge(MeasuredStep("nf4")), str(tmp_path))
    with pytest.raises(InputError, match=r"gptq4: GPTQ quantizes linear layers"):
        check_measured_step(LogitHinge(MeasuredStep("gptq4")), str(tmp_path))
