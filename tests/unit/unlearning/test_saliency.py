"""SURE against plain autograd over the whole forget set: what is chosen, what moves, and what stays untouched."""

import json

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from plain_trainer import plain_trainer

from quail_lightning.data import MuseDataModule
from quail_lightning.data.tokenizer import load_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.models.checkpoint import load_model, save_model
from quail_lightning.objectives import (
    GradientAscent,
    GradientDescent,
    InvertedHinge,
    LogitHinge,
    Misdirection,
    NegativePreference,
)
from quail_lightning.unlearning import UnlearningModule, preparation
from quail_lightning.unlearning.optimizers import weight_dtype
from quail_lightning.unlearning.provenance import description
from quail_lightning.unlearning.saliency import Saliency, SaliencyMap, saliency_table

HEADS, KEY_VALUE_HEADS, HEAD_WIDTH = 4, 2, 16
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def deep(tmp_path_factory, checkpoint):
    """Three layers with grouped queries: 21 modules; 4 query heads share 2 key and value heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = load_tokenizer(checkpoint)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HEADS * HEAD_WIDTH,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        max_position_embeddings=64,
        initializer_range=0.06,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = LlamaForCausalLM(config)
    folder = tmp_path_factory.mktemp("models") / "deep"
    save_model(model, tokenizer, folder, {"made_by": "tests"})
    return str(folder)


def data_module(corpus_folder, checkpoint, schedule="alternate", **options):
    """5 forget windows in batches of 2: the last batch is smaller."""
    settings = {"max_len": 24, "batch_size": 2, "max_forget_windows": 5, "max_retain_windows": 6} | options
    return MuseDataModule(str(corpus_folder), tokenizer=checkpoint, schedule=schedule, seed=0, **settings)


def module(checkpoint, forget=None, percentile=50.0, granularity="module", **options):
    settings = {"retain": GradientDescent(), "learning_rate": 1e-2} | options
    return UnlearningModule(
        checkpoint,
        GradientAscent() if forget is None else forget,
        saliency=Saliency(percentile, granularity),
        **settings,
    )


def fit(unlearning, data, epochs=1, callbacks=(), **options):
    trainer = plain_trainer(max_epochs=epochs, precision="32-true", callbacks=list(callbacks), **options)
    trainer.fit(unlearning, datamodule=data)
    return trainer


def moved_weights(unlearning, checkpoint):
    """Names of the weights of which any bit changed."""
    before = dict(load_model(checkpoint, weight_dtype(unlearning.weight_precision)).named_parameters())
    return {name for name, value in unlearning.model.named_parameters() if not torch.equal(value, before[name])}


def token_likelihoods(logits, ids):
    return torch.log_softmax(logits[:, :-1], -1).gather(-1, ids[:, 1:, None])[..., 0]


def ascent(model, ids):
    return token_likelihoods(model(input_ids=ids).logits, ids).mean()


def preference(model, ids):
    likelihood = token_likelihoods(model(input_ids=ids).logits, ids).sum(1)
    ratio = likelihood - likelihood.detach()  # at θ_o the model is its own reference
    return (-2 / 0.1 * torch.nn.functional.logsigmoid(-0.1 * ratio)).mean()


def inverted(model, ids):
    probability = model(input_ids=ids).logits[:, :-1].softmax(-1)
    true = torch.nn.functional.one_hot(ids[:, 1:], probability.shape[-1]).bool()
    return (1 + probability[true] - probability.masked_fill(true, -1).flatten(0, 1).max(-1).values).mean()


def misdirection(model, ids):
    states = model(input_ids=ids, output_hidden_states=True).hidden_states[2]  # after the second layer
    direction = torch.rand(states.shape[-1], generator=torch.Generator().manual_seed(42))
    return (states - 6.5 * direction / direction.norm()).square().mean()


FORGET = {
    "GA": (GradientAscent(), ascent),
    "NPO": (NegativePreference(0.1), preference),
    "IHL": (InvertedHinge(), inverted),
    "RMU": (Misdirection(layer=1), misdirection),
}


def gradients(checkpoint, loss, ids):
    """Projection → its gradient of the loss on these windows in one pass; 0 where it has none."""
    model = load_model(checkpoint, torch.float32)
    loss(model, ids).backward()
    found = {}
    for name, parameter in model.named_parameters():
        if name.split(".")[-2] in PROJECTIONS:
            gradient = parameter.grad
            found[name.removesuffix(".weight")] = torch.zeros_like(parameter) if gradient is None else gradient
    return found


def norms(checkpoint, loss, ids):
    return {name: gradient.norm().item() for name, gradient in gradients(checkpoint, loss, ids).items()}


def chosen(scores, percentile):
    """The salient modules by numpy."""
    threshold = np.percentile(list(scores.values()), percentile)
    return {name for name, score in scores.items() if score >= threshold}


@pytest.mark.parametrize("micro_batch_size", [None, 1])
@pytest.mark.parametrize("method", FORGET)
def test_scores_are_the_gradient_norms_of_the_whole_forget_set_in_one_pass(
    method, micro_batch_size, corpus_folder, deep
):
    term, loss = FORGET[method]
    data = data_module(corpus_folder, deep)
    unlearning = module(deep, term, percentile=80.0, micro_batch_size=micro_batch_size)
    fit(unlearning, data)
    windows = data.served.trained.forget
    expected = norms(deep, loss, windows)
    assert unlearning.saliency_map.scores == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert unlearning.saliency_map.threshold == pytest.approx(np.percentile(list(expected.values()), 80), rel=1e-4)
    # what the published code would have found: norms of single batches, added up or averaged
    batches = [norms(deep, loss, part) for part in windows.split(2)]
    for name, score in expected.items():
        if score and method != "RMU":  # whose gradient hardly depends on the windows
            assert sum(batch[name] for batch in batches) > 1.3 * score
    assert len(windows) == 5


@pytest.mark.parametrize("percentile", [50.0, 90.0, 95.0, 99.0])
def test_the_threshold_is_numpys_percentile(percentile, corpus_folder, deep):
    unlearning = module(deep, percentile=percentile)
    fit(unlearning, data_module(corpus_folder, deep), limit_train_batches=1)
    found = unlearning.saliency_map
    assert found.threshold == pytest.approx(np.percentile(list(found.scores.values()), percentile), rel=1e-12)
    assert set(found.salient) == chosen(found.scores, percentile)
    assert len(found.scores) == 21
    assert len(found.salient) == {50.0: 11, 90.0: 3, 95.0: 2, 99.0: 1}[percentile]


class Gradients(Callback):
    """Notes which weights hold a gradient when the optimizer steps."""

    def __init__(self):
        self.held = set()

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.held |= {name for name, value in pl_module.model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_modules_that_are_not_salient_stay_bitwise_and_hold_neither_gradient_nor_state(
    weight_decay, corpus_folder, deep
):
    data, seen = data_module(corpus_folder, deep), Gradients()
    unlearning = module(deep, weight_decay=weight_decay, hinge=LogitHinge(2.0))
    trainer = fit(unlearning, data, epochs=2, callbacks=[seen])
    salient = {f"{name}.weight" for name in chosen(norms(deep, ascent, data.served.trained.forget), 50.0)}
    assert len(salient) == 11
    assert seen.held == salient
    assert moved_weights(unlearning, deep) == salient
    names = {parameter: name for name, parameter in unlearning.model.named_parameters()}
    (optimizer,) = trainer.optimizers
    assert {names[parameter] for parameter in optimizer.state} == salient
    assert {names[parameter] for group in optimizer.param_groups for parameter in group["params"]} == salient


def test_the_map_is_that_of_the_start_and_of_no_single_batch(corpus_folder, deep):
    data = data_module(corpus_folder, deep)
    unlearning = module(deep, percentile=80.0)
    fit(unlearning, data, epochs=3)
    at_start = norms(deep, ascent, data.served.trained.forget)
    assert unlearning.saliency_map.scores == pytest.approx(at_start, rel=1e-4)
    salient = chosen(at_start, 80.0)
    assert moved_weights(unlearning, deep) == {f"{name}.weight" for name in salient}
    # a map made again on the way would have chosen others
    unlearning.model.save_pretrained("later")
    assert chosen(norms("later", ascent, data.served.trained.forget), 80.0) != salient
    assert any(chosen(norms(deep, ascent, part), 80.0) != salient for part in data.served.trained.forget.split(1))


def test_the_forget_sets_gradient_is_taken_once_a_fit(corpus_folder, deep, monkeypatch):
    calls, real = [], Saliency.map
    monkeypatch.setattr(Saliency, "map", lambda *arguments: calls.append(1) or real(*arguments))
    fit(module(deep), data_module(corpus_folder, deep), epochs=2)
    assert calls == [1]


@pytest.mark.parametrize(("checkpointing", "passes"), [(False, 3), (True, 6)])
def test_the_forget_sets_gradient_saves_memory_where_training_does(
    checkpointing, passes, corpus_folder, deep, monkeypatch
):
    """5 windows are 3 batches; with checkpointing each layer runs again in the backward pass."""
    calls, modes, real = [], [], Saliency.map

    def counted(self, model, backward):
        handle = model.model.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
        before, found, after = model.training, real(self, model, backward), model.training
        handle.remove()
        modes.append((before, after))
        return found

    monkeypatch.setattr(Saliency, "map", counted)
    unlearning, data = module(deep, gradient_checkpointing=checkpointing), data_module(corpus_folder, deep)
    fit(unlearning, data)
    assert len(calls) == passes
    assert modes == [(False, False)]
    expected = norms(deep, ascent, data.served.trained.forget)
    assert unlearning.saliency_map.scores == pytest.approx(expected, rel=1e-4)
    assert moved_weights(unlearning, deep) == {f"{name}.weight" for name in unlearning.saliency_map.salient}


@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_an_epoch_equals_the_same_steps_on_the_salient_modules_written_out(clip_norm, corpus_folder, deep):
    """Under ``joint`` a forget gradient that counted twice would shift the sum; the norm is the salient ones'."""
    data = data_module(corpus_folder, deep, "joint")
    unlearning = module(deep, schedule="joint", alpha=2.0, clip_norm=clip_norm, learning_rate=1e-3)
    fit(unlearning, data)
    model = load_model(deep, torch.float32).train()
    salient = {f"{name}.weight" for name in chosen(norms(deep, ascent, data.served.trained.forget), 50.0)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in salient)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    for batch in data.train_dataloader():
        optimizer.zero_grad()
        (ascent(model, batch.forget.input_ids) - 2 * ascent(model, batch.retain.input_ids)).backward()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(trained, clip_norm)
        optimizer.step()
    expected, start = dict(model.named_parameters()), dict(load_model(deep, torch.float32).named_parameters())
    for name, value in unlearning.model.named_parameters():
        difference, step = (value - expected[name]).norm(), (expected[name] - start[name]).norm()
        assert difference <= 0.01 * step, name


@pytest.mark.parametrize("schedule", ["alternate", "joint", "epoch"])
@pytest.mark.parametrize("method", FORGET)
def test_every_forget_term_and_schedule_trains_the_salient_modules_alone(method, schedule, corpus_folder, deep):
    unlearning = module(
        deep,
        FORGET[method][0],
        percentile=80.0,
        hinge=LogitHinge(2.0),
        schedule=schedule,
        micro_batch_size=1 if schedule == "joint" else None,
    )
    fit(unlearning, data_module(corpus_folder, deep, schedule))
    moved = moved_weights(unlearning, deep)
    assert moved == {f"{name}.weight" for name in unlearning.saliency_map.salient}
    assert len(moved) == 5  # a fifth of 21, rounded up


def test_modules_behind_the_layer_that_the_loss_reads_are_never_salient(corpus_folder, deep):
    """The third layer's seven modules score 0, more than the tenth percentile leaves out."""
    unlearning = module(deep, Misdirection(layer=1), percentile=10.0)
    fit(unlearning, data_module(corpus_folder, deep))
    found = unlearning.saliency_map
    assert [found.scores[name] for name in found.scores if ".layers.2." in name] == [0.0] * 7
    assert {name.split(".")[2] for name in found.salient} == {"0", "1"}
    assert moved_weights(unlearning, deep) == {f"{name}.weight" for name in found.salient}


def test_a_forget_loss_without_gradient_at_the_start_is_refused(corpus_folder, deep):
    """The hinge is flat where the model still is the target."""
    with pytest.raises(InputError, match="no gradient"):
        fit(module(deep, LogitHinge(1.0)), data_module(corpus_folder, deep))


# --- attention heads -----------------------------------------------------------------------------------------


def head_scores(checkpoint, loss, ids):
    """Module or head → norm of its gradient; q, k and v have their heads along the rows, o along the columns."""
    found = {}
    for name, gradient in gradients(checkpoint, loss, ids).items():
        projection = name.split(".")[-1]
        if projection in ("gate_proj", "up_proj", "down_proj"):
            found[name] = gradient.norm().item()
            continue
        heads = KEY_VALUE_HEADS if projection in ("k_proj", "v_proj") else HEADS
        for head in range(heads):
            part = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
            block = gradient[:, part] if projection == "o_proj" else gradient[part]
            found[f"{name}:{head}"] = block.norm().item()
    return found


def split_projections(unlearning, checkpoint, salient):
    """See that just the salient heads moved; the projections of which some heads did and some did not."""
    before = dict(load_model(checkpoint, weight_dtype(unlearning.weight_precision)).named_parameters())
    split = set()
    for name, value in unlearning.model.named_parameters():
        changed = value != before[name]
        stem, projection = name.removesuffix(".weight"), name.split(".")[-2]
        if projection not in ("q_proj", "k_proj", "v_proj", "o_proj"):
            assert changed.any() == (stem in salient), name
            continue
        parts = (changed.T if projection == "o_proj" else changed).split(HEAD_WIDTH)
        assert len(parts) == (KEY_VALUE_HEADS if projection in ("k_proj", "v_proj") else HEADS)
        moved = [bool(part.any()) for part in parts]
        assert moved == [f"{stem}:{head}" in salient for head in range(len(parts))], name
        if any(moved) and not all(moved):
            split.add(projection)
    return split


@pytest.mark.parametrize(("percentile", "split"), [(25.0, {"q_proj", "k_proj"}), (70.0, {"o_proj"})])
def test_only_the_salient_heads_move(percentile, split, corpus_folder, deep):
    data = data_module(corpus_folder, deep)
    unlearning = module(deep, percentile=percentile, granularity="head", hinge=LogitHinge(2.0), clip_norm=0.1)
    fit(unlearning, data, epochs=2)
    expected = head_scores(deep, ascent, data.served.trained.forget)
    assert len(expected) == 3 * (4 + 2 + 2 + 4 + 3)
    assert unlearning.saliency_map.scores == pytest.approx(expected, rel=1e-4)
    assert split_projections(unlearning, deep, chosen(expected, percentile)) >= split


@pytest.mark.parametrize("weight_precision", ["float32", "bf16-stochastic"])
def test_masked_heads_stay_bitwise_under_rounding_and_8_bit_states(weight_precision, corpus_folder, deep):
    """Blocks of 256 entries that share a scale reach over several heads."""
    pytest.importorskip("torchao")
    options = {"granularity": "head", "weight_precision": weight_precision, "adam_states": "8bit"}
    unlearning = module(deep, percentile=70.0, **options)
    fit(unlearning, data_module(corpus_folder, deep))
    assert "o_proj" in split_projections(unlearning, deep, set(unlearning.saliency_map.salient))


# --- what is refused, saved and shown ------------------------------------------------------------------------


@pytest.mark.parametrize("percentile", [0.0, 100.0, -5.0, 101.0, float("nan")])
def test_a_percentile_outside_its_range_is_refused(percentile):
    with pytest.raises(InputError, match=rf"\(0, 100\); got {percentile}"):
        Saliency(percentile)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "head", "weight_decay": 0.1}, "weight decay would also move the heads"),
        ({"trainable": ["*.mlp.*"]}, r"model\.saliency chooses .* model\.trainable.*\*\.mlp"),
    ],
)
def test_contradictions_are_refused_at_construction(options, message):
    with pytest.raises(InputError, match=message):
        module("never loaded", **options)


def test_the_map_is_written_into_the_run_folder(tmp_path, corpus_folder, deep):
    unlearning = module(deep)
    fit(unlearning, data_module(corpus_folder, deep), limit_train_batches=1, default_root_dir=tmp_path / "run")
    saved = json.loads((tmp_path / "run/saliency.json").read_text())
    found = unlearning.saliency_map
    assert saved == {"threshold": found.threshold, "scores": found.scores}
    assert description(unlearning)["salient_modules"] == found.salient


def test_the_table_stars_the_salient_modules():
    scores = {"model.layers.0.self_attn.q_proj": 0.5, "model.layers.0.mlp.up_proj": 0.25}
    scores |= {"model.layers.1.self_attn.q_proj": 1.5, "model.layers.1.mlp.up_proj": 0.125}
    assert saliency_table(SaliencyMap(scores, 0.5)).splitlines() == [
        "layer      q_proj     up_proj",
        "    0   5.00e-01*   2.50e-01 ",
        "    1   1.50e+00*   1.25e-01 ",
        "* salient: score ≥ 5.00e-01, 2 of 4 modules",
    ]


def test_the_table_is_printed_before_training(corpus_folder, deep, monkeypatch):
    printed = []
    monkeypatch.setattr(preparation, "rank_zero_info", printed.append)
    unlearning = module(deep, percentile=90.0)
    fit(unlearning, data_module(corpus_folder, deep), limit_train_batches=1)
    assert printed == [saliency_table(unlearning.saliency_map)]
    assert printed[0].count("*") == 3 + 1
