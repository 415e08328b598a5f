"""The unlearning step against hand-driven optimization, and what the module refuses."""

import shutil

import pytest
import torch
from lightning.pytorch import Callback
from plain_trainer import plain_trainer

from quail_lightning.data import MuseDataModule
from quail_lightning.errors import InputError
from quail_lightning.functional.chunked import head_terms
from quail_lightning.models.checkpoint import load_model
from quail_lightning.objectives import GradientAscent, GradientDescent, LogitHinge
from quail_lightning.quantization import quantized_linears
from quail_lightning.reference import CachedLogits, CachedStates, FrozenOutputs, LiveReference, Sizes
from quail_lightning.unlearning import UnlearningModule, losses
from quail_lightning.unlearning.adversary import LatentAdversary
from quail_lightning.unlearning.optimizers import weight_dtype

MAX_LEN = 24


def data_module(corpus_folder, checkpoint, schedule="alternate", **options):
    settings = {"max_len": MAX_LEN, "batch_size": 2, "max_forget_windows": 4, "max_retain_windows": 6} | options
    return MuseDataModule(str(corpus_folder), tokenizer=checkpoint, schedule=schedule, seed=0, **settings)


def module(checkpoint, **options):
    settings = {"retain": GradientDescent(), "learning_rate": 1e-3} | options
    return UnlearningModule(target=checkpoint, forget=GradientAscent(), **settings)


def trainer(tmp_path, epochs=1, **options):
    settings = {"precision": "32-true", "callbacks": []} | options
    return plain_trainer(max_epochs=epochs, default_root_dir=tmp_path, **settings)


def fit(tmp_path, unlearning, data, **options):
    trainer(tmp_path, **options).fit(unlearning, datamodule=data)
    return {name: value.detach().clone() for name, value in unlearning.model.named_parameters()}


def assert_same(found, expected, **tolerance):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **(tolerance or {"rtol": 0, "atol": 0}), msg=name)


def by_hand(checkpoint, data, schedule, weights, hinge_step=None, clip=1.0, retain_steps=True):
    """One epoch written out with torch alone."""
    model, target = load_model(checkpoint, torch.float32).train(), load_model(checkpoint, torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    forget_weight, retain_weight, hinge_weight = weights

    def log_likelihood(logits, ids):
        return torch.log_softmax(logits[:, :-1], -1).gather(-1, ids[:, 1:, None]).mean()

    def forget_loss(ids):
        logits = model(input_ids=ids).logits
        loss = forget_weight * log_likelihood(logits, ids)
        if hinge_step is not None:
            with torch.no_grad():
                reference = target(input_ids=ids).logits
            distance = (logits - reference).abs()[:, :-1]
            loss = loss + hinge_weight * torch.relu(hinge_step / 2 - distance).mean()
        return loss

    def retain_loss(ids):
        return -retain_weight * log_likelihood(model(input_ids=ids).logits, ids)

    def step(loss, weight=None):
        optimizer.zero_grad()
        (loss / (weight or 1)).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        if weight is not None:
            for parameter in model.parameters():
                parameter.grad *= weight / ((forget_weight + retain_weight) / 2)
        optimizer.step()

    for batch in data.train_dataloader():
        if schedule == "joint":
            step(forget_loss(batch.forget.input_ids) + retain_loss(batch.retain.input_ids))
        else:
            if batch.forget is not None:
                step(forget_loss(batch.forget.input_ids), forget_weight if retain_steps else None)
            if batch.retain is not None and retain_steps:
                step(retain_loss(batch.retain.input_ids), retain_weight)
    return dict(model.named_parameters())


@pytest.mark.parametrize("schedule", ["alternate", "joint", "epoch"])
@pytest.mark.parametrize("hinge_step", [None, 2.0])
def test_an_epoch_equals_the_same_steps_written_out(schedule, hinge_step, tmp_path, corpus_folder, checkpoint):
    data = data_module(corpus_folder, checkpoint, schedule)
    hinge = None if hinge_step is None else LogitHinge(hinge_step, dead_zone=0.0)
    unlearning = module(
        checkpoint, hinge=hinge, schedule=schedule, alpha=2.0, gamma=3.0, reference=LiveReference()
    )
    found = fit(tmp_path, unlearning, data)
    expected = by_hand(checkpoint, data, schedule, (1.0, 2.0, 3.0), hinge_step)
    assert_same(found, expected, rtol=1e-4, atol=1e-6)


def test_convex_weighting_is_what_is_trained(tmp_path, corpus_folder, checkpoint):
    data = data_module(corpus_folder, checkpoint, "joint")
    found = fit(tmp_path, module(checkpoint, schedule="joint", weighting="convex", alpha=0.75), data)
    assert_same(found, by_hand(checkpoint, data, "joint", (0.75, 0.25, 0.0)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("clip", [None, 0.05])
def test_clipping_acts_on_each_optimizer_step(clip, tmp_path, corpus_folder, checkpoint):
    data = data_module(corpus_folder, checkpoint)
    found = fit(tmp_path, module(checkpoint, clip_norm=clip), data)
    assert_same(found, by_hand(checkpoint, data, "alternate", (1, 1, 0), clip=clip), rtol=1e-4, atol=1e-6)


def test_accumulated_gradients_equal_the_whole_batchs(tmp_path, corpus_folder, checkpoint):
    found = [
        fit(
            tmp_path,
            module(checkpoint, hinge=LogitHinge(), micro_batch_size=size),
            data_module(corpus_folder, checkpoint, batch_size=3),  # 3 = 2 + 1: unequal parts
        )
        for size in (None, 2)
    ]
    assert_same(found[1], found[0], rtol=1e-3, atol=2e-5)


def test_gradient_checkpointing_changes_nothing_but_memory(tmp_path, corpus_folder, checkpoint):
    modules = [module(checkpoint, gradient_checkpointing=on) for on in (False, True)]
    plain, recomputed = (fit(tmp_path, each, data_module(corpus_folder, checkpoint)) for each in modules)
    assert_same(recomputed, plain)
    assert [each.model.is_gradient_checkpointing for each in modules] == [False, True]
    assert not modules[1].export.whole_copy(modules[1].model).is_gradient_checkpointing


def test_two_runs_with_one_seed_are_bitwise_equal(tmp_path, corpus_folder, checkpoint):
    first, second = (
        fit(
            tmp_path,
            module(checkpoint, hinge=LogitHinge()),
            data_module(corpus_folder, checkpoint),
            precision="bf16-mixed",
            epochs=2,
        )
        for _ in range(2)
    )
    assert_same(second, first)


def test_cached_and_live_reference_train_alike(tmp_path, corpus_folder, checkpoint):
    states, logits, live = (
        fit(
            tmp_path,
            module(checkpoint, hinge=LogitHinge(2.0), reference=reference),
            data_module(corpus_folder, checkpoint),
        )
        for reference in (CachedStates(), CachedLogits(), LiveReference())
    )
    assert_same(states, live, rtol=1e-3, atol=2e-5)
    assert_same(logits, live, rtol=1e-3, atol=2e-5)


def test_only_quantized_layers_move_when_asked_for(tmp_path, corpus_folder, checkpoint):
    unlearning = module(checkpoint, trainable="quantized")
    found = fit(tmp_path, unlearning, data_module(corpus_folder, checkpoint))
    before = dict(load_model(checkpoint, torch.float32).named_parameters())
    quantized = {f"{name}.weight" for name, _ in quantized_linears(unlearning.model)}
    for name, value in found.items():
        assert torch.equal(value, before[name]) == (name not in quantized), name


def test_sub_ulp_updates_vanish_in_bf16_nearest_and_stay_in_float32_masters(tmp_path, corpus_folder, checkpoint):
    moved = {}
    for precision in ("float32", "bf16-nearest"):
        unlearning = module(checkpoint, weight_precision=precision, learning_rate=1e-5, trainable="quantized")
        found = fit(tmp_path, unlearning, data_module(corpus_folder, checkpoint))
        name = "model.layers.0.mlp.down_proj.weight"
        start = dict(load_model(checkpoint, weight_dtype(precision)).named_parameters())[name]
        # half an ulp of a bfloat16 weight above 2^-6 is 2^-15 = 3e-5: three times the step
        large = start.abs() > 2**-6
        moved[precision] = (found[name] != start)[large].float().mean().item()
    assert moved["bf16-nearest"] == 0
    assert moved["float32"] > 0.9


class Scalars(Callback):
    def __init__(self):
        self.seen = {}

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.seen |= {name: float(value) for name, value in trainer.logged_metrics.items()}


def test_training_logs_every_term_the_gradient_norms_and_the_learning_rate(tmp_path, corpus_folder, checkpoint):
    scalars = Scalars()
    unlearning = module(checkpoint, hinge=LogitHinge(), alpha=2.0, gamma=3.0)
    fit(tmp_path, unlearning, data_module(corpus_folder, checkpoint), callbacks=[scalars], log_every_n_steps=1)
    seen = {name.removeprefix("train/"): value for name, value in scalars.seen.items()}
    assert {"forget", "hinge", "retain", "total", "grad_norm_forget", "grad_norm_retain", "lr"} <= seen.keys()
    assert seen["total"] == pytest.approx(seen["forget"] + 2 * seen["retain"] + 3 * seen["hinge"], rel=1e-5)
    assert seen["lr"] == pytest.approx(1e-3)


def test_export_is_cast_and_shares_nothing_with_the_masters(tmp_path, corpus_folder, checkpoint):
    unlearning = module(checkpoint)
    fit(tmp_path, unlearning, data_module(corpus_folder, checkpoint))
    exported = unlearning.export.whole_copy(unlearning.model)
    assert {parameter.dtype for parameter in exported.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in unlearning.model.parameters()} == {torch.float32}
    assert exported.model.rotary_emb.inv_freq.dtype == torch.float32
    assert not exported.training
    assert unlearning.model.training


def test_a_window_longer_than_the_positions_is_refused_before_training(tmp_path, corpus_folder, checkpoint):
    with pytest.raises(InputError, match=r"300 tokens .* 256 positions.*data\.max_len"):
        fit(tmp_path, module(checkpoint), data_module(corpus_folder, checkpoint, max_len=300))


def test_a_vocabulary_that_does_not_fit_the_tokenizer_is_refused(tmp_path, corpus_folder, checkpoint):
    from transformers import AutoTokenizer

    from quail_lightning.models.checkpoint import save_model
    from quail_lightning.models.tiny import tiny_llama

    small = tiny_llama(vocab_size=270, width=64, layers=1, heads=2, positions=256)
    folder = tmp_path / "misfit"
    save_model(small, AutoTokenizer.from_pretrained(checkpoint), folder, {})
    with pytest.raises(InputError, match=r"300 tokens but the model's vocabulary has only 270"):
        fit(tmp_path, module(str(folder)), data_module(corpus_folder, checkpoint))


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_other_arithmetic_is_refused_with_the_option_to_use(precision, tmp_path, corpus_folder, checkpoint):
    with pytest.raises(InputError, match=f"{precision}.*bf16-mixed, 32-true.*bf16-nearest"):
        fit(tmp_path, module(checkpoint), data_module(corpus_folder, checkpoint), precision=precision)


def test_a_cache_that_does_not_fit_is_refused_before_a_model_is_loaded(
    tmp_path, corpus_folder, checkpoint, monkeypatch
):
    nothing_free = shutil._ntuple_diskusage(total=10**9, used=10**9, free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: nothing_free)
    unlearning = module(checkpoint, hinge=LogitHinge(), reference=CachedLogits("cache"))
    with pytest.raises(InputError, match=r"model\.reference\.init_args\.folder"):
        fit(tmp_path, unlearning, data_module(corpus_folder, checkpoint))
    assert unlearning.model is None


def test_epoch_schedule_without_a_retain_term_trains_on_the_forget_set_alone(tmp_path, corpus_folder, checkpoint):
    data = data_module(corpus_folder, checkpoint, "epoch")
    found = fit(tmp_path, module(checkpoint, retain=None, schedule="epoch"), data)
    expected = by_hand(checkpoint, data, "epoch", (1.0, 0.0, 0.0), retain_steps=False)
    assert_same(found, expected, rtol=1e-4, atol=1e-6)


def test_a_missing_checkpoint_is_refused_with_its_name(tmp_path, corpus_folder, checkpoint):
    with pytest.raises(InputError, match="no tokenizer could be loaded from 'nowhere/model'"):
        fit(tmp_path, module("nowhere/model"), data_module(corpus_folder, checkpoint))


def test_the_loss_chunk_reaches_every_product_with_the_head_and_changes_nothing(
    tmp_path, corpus_folder, checkpoint, monkeypatch
):
    seen = []

    def recorded(*args, tokens=None, **options):
        seen.append(tokens)
        return head_terms(*args, tokens=tokens, **options)

    monkeypatch.setattr(losses, "head_terms", recorded)
    method = {"hinge": LogitHinge(), "adversary": LatentAdversary(layers=(0,), steps=1)}
    expected = fit(tmp_path, module(checkpoint, **method), data_module(corpus_folder, checkpoint))
    assert set(seen) == {None}, "chosen by vocabulary, width and device"
    seen.clear()
    unlearning, data = module(checkpoint, loss_chunk=5, **method), data_module(corpus_folder, checkpoint)
    assert_same(fit(tmp_path, unlearning, data), expected, rtol=1e-4, atol=1e-6)
    evaluating = trainer(tmp_path)
    evaluating.limit_val_batches = 1
    evaluating.validate(unlearning, datamodule=data, verbose=False)
    # two batches: the adversary's pass, the forget step and the retain step; the validation's batch
    assert seen == [5] * (2 * 3 + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weighting": "convex", "alpha": 5.0}, r"\[0, 1\]"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"clip_norm": float("nan")}, "clip_norm"),
        ({"micro_batch_size": 0}, "micro_batch_size"),
        ({"loss_chunk": 0}, r"loss_chunk must be at least 1 token; got 0"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"weighting": "convex", "alpha": 0.5, "retain": None}, "no retain term"),
    ],
)
def test_impossible_options_are_refused_at_construction(options, message):
    with pytest.raises(InputError, match=message):
        module("never loaded", **options)


class Recorder:
    """A reference that only notes how it was asked."""

    def check(self, requests, sizes, dtype):
        self.checked = (set(requests), requests["forget"].windows.shape, sizes, dtype)

    def prepare(self, requests, target, identity, arithmetic, processes):
        self.batch_size = arithmetic.batch_size
        self.vocabulary = target().config.vocab_size

    def outputs(self, side, batch):
        return FrozenOutputs(lambda rows: torch.zeros(rows.stop - rows.start, self.vocabulary))


@pytest.mark.parametrize(("micro_batch_size", "expected"), [(None, 2), (1, 1)])
def test_reference_is_computed_in_batches_no_larger_than_the_steps(
    micro_batch_size, expected, tmp_path, corpus_folder, checkpoint
):
    recorder = Recorder()
    unlearning = module(checkpoint, hinge=LogitHinge(), reference=recorder, micro_batch_size=micro_batch_size)
    fit(tmp_path, unlearning, data_module(corpus_folder, checkpoint, batch_size=2))
    assert recorder.batch_size == expected
    assert recorder.checked == ({"forget"}, (4, MAX_LEN), Sizes(300, 64), torch.float32)
