"""LoRA in place of the weights: the first step's outputs, what is trained, what comes out of it."""

import json

import pytest
import torch
from plain_trainer import plain_trainer

from quail_lightning.data import MuseDataModule
from quail_lightning.errors import InputError
from quail_lightning.models.casting import Cast
from quail_lightning.models.checkpoint import load_config, load_model
from quail_lightning.models.empty import empty_model
from quail_lightning.objectives import (
    GradientAscent,
    GradientDescent,
    KLRetention,
    LogitHinge,
    MeasuredStep,
    Misdirection,
    NegativePreference,
    RepresentationRetention,
    SimplePreference,
)
from quail_lightning.reference import CachedStates, LiveReference
from quail_lightning.unlearning import UnlearningModule
from quail_lightning.unlearning.adapter import Adapter, adapted_layers, matrices
from quail_lightning.unlearning.adversary import LatentAdversary
from quail_lightning.unlearning.generic_labels import GenericLabels
from quail_lightning.unlearning.merging import merged_copy
from quail_lightning.unlearning.task_vector import TaskVector


class Watched(UnlearningModule):
    """Notes each batch's losses."""

    def log_dict(self, dictionary, **options):
        super().log_dict(dictionary, **options)
        if options.get("logger", True):
            found = {name.removeprefix("train/"): float(value) for name, value in dictionary.items()}
            self.seen = [*getattr(self, "seen", []), found]


def unlearning(checkpoint, forget=None, **options):
    settings = {"retain": GradientDescent(), "learning_rate": 1e-2, "adapter": Adapter(rank=4)} | options
    return Watched(checkpoint, forget or GradientAscent(), **settings)


def changes_of(module):
    """A and B of every layer."""
    return [matrix.detach() for each in adapted_layers(module.model).values() for matrix in matrices(each)]


def trainer(epochs=1, **options):
    return plain_trainer(max_epochs=epochs, **({"precision": "32-true", "callbacks": []} | options))


def fit(corpus_folder, module, epochs=1, **options):
    """The fitted module and the forget windows."""
    data = MuseDataModule(
        str(corpus_folder),
        tokenizer=module.target,
        schedule=module.schedule,
        max_len=24,
        batch_size=2,
        max_forget_windows=4,
        max_retain_windows=6,
    )
    trainer(epochs, **options).fit(module, datamodule=data)
    return module, data.served.trained.forget


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


@pytest.mark.parametrize("base", ["float32", "bfloat16", "nf4"])
def test_a_new_adapter_gives_the_targets_outputs_to_the_last_bit(base, bf16):
    adapter = Adapter(rank=4, base=base, dropout=0.5)
    device = torch.device("cpu")
    made = [
        adapter.quantized(bf16, device) if base == "nf4" else load_model(bf16, adapter.dtype) for _ in range(2)
    ]
    adapter.inject(made[1], bf16)
    assert len(adapted_layers(made[1])) == 3 * 7
    ids = torch.arange(40).view(2, 20)
    assert torch.equal(logits(made[1], ids), logits(made[0], ids))
    trained = [parameter for parameter in made[1].parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 3 * 7
    assert {parameter.dtype for parameter in trained} == {torch.float32}


def test_gradients_pass_through_a_4_bit_base_that_was_evaluated_before(bf16):
    """As through its dequantized weights; on CPUs with bfloat16 instructions the library would lose them."""
    import bitsandbytes as bnb

    adapter = Adapter(rank=4, base="nf4", targets=["*.0.self_attn.q_proj"])
    quantized, plain = adapter.quantized(bf16, torch.device("cpu")), load_model(bf16, torch.bfloat16).float()
    for name, module in quantized.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            values = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            plain.get_submodule(name).weight.data = values.float()
    ids = torch.arange(40).view(2, 20)
    found = []
    for model in (quantized, plain):
        logits(model, ids)
        adapter.inject(model, bf16)
        model.train()(input_ids=ids, labels=ids).loss.backward()
        found.append(next(matrices(layer)[1].grad for layer in adapted_layers(model).values()))
    assert found[1].norm() > 1e-3
    assert (found[0] - found[1]).norm() < 0.05 * found[1].norm()  # products in 16 bits or in 32


def test_all_processes_draw_the_same_adapter_and_another_seed_another_one(bf16, monkeypatch):
    def drawn(seed, noise):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        torch.manual_seed(noise)
        model = load_model(bf16, torch.float32)
        before = torch.get_rng_state()
        Adapter(rank=4).inject(model, bf16)
        assert torch.equal(torch.get_rng_state(), before)
        return [matrices(layer)[0].detach() for layer in adapted_layers(model).values()]

    first = drawn(1, 2)
    assert all(torch.equal(*pair) for pair in zip(first, drawn(1, 3), strict=True))
    assert not any(torch.equal(*pair) for pair in zip(first, drawn(2, 2), strict=True))
    assert first[0].std() == pytest.approx((1 / 3 / first[0].shape[1]) ** 0.5, rel=0.2)  # uniform in ±1/√inputs


@pytest.mark.parametrize("reference", [CachedStates, LiveReference])
@pytest.mark.parametrize("base", ["float32", "bfloat16", "nf4"])
def test_at_the_first_step_nothing_differs_from_the_reference(base, reference, corpus_folder, bf16):
    """The hinge then costs half its step at each logit; NPO's ratio is 1, which costs 2/β · log 2."""
    hinge, npo = LogitHinge(2.0, dead_zone=0.0), NegativePreference(beta=0.1)
    adapter = Adapter(rank=4, base=base)
    module, _ = fit(
        corpus_folder, unlearning(bf16, npo, hinge=hinge, adapter=adapter, reference=reference(), schedule="joint")
    )
    assert module.seen[0]["hinge"] == pytest.approx(1.0, abs=1e-6)
    assert module.seen[0]["forget"] == pytest.approx(20 * torch.tensor(2.0).log().item(), abs=1e-4)
    assert module.seen[-1]["hinge"] < 0.999  # turned, it would not have moved


@pytest.mark.parametrize("base", ["float32", "bfloat16", "nf4"])
def test_only_the_adapter_moves(base, corpus_folder, bf16):
    adapter = Adapter(rank=4, base=base)
    module, _ = fit(corpus_folder, unlearning(bf16, adapter=adapter))
    device = torch.device("cpu")
    start = adapter.quantized(bf16, device) if base == "nf4" else load_model(bf16, adapter.dtype)
    frozen = dict(start.named_parameters())
    moved = {name for name, value in module.model.named_parameters() if "lora_" in name and value.any()}
    assert len(moved) == 2 * 3 * 7
    for name, value in module.model.named_parameters():
        if "lora_" not in name:
            assert torch.equal(value, frozen[name.replace("base_layer.", "")].to(value.dtype)), name
    states = module.trainer.optimizers[0].state
    assert sum(
        value.numel() for state in states.values() for value in state.values() if value.ndim == 2
    ) == 2 * sum(matrix.numel() for layer in adapted_layers(module.model).values() for matrix in matrices(layer))


@pytest.mark.parametrize("base", ["float32", "bfloat16", "nf4"])
def test_merged_weights_are_the_starts_and_the_change_in_float64(base, corpus_folder, bf16):
    module, _ = fit(
        corpus_folder, unlearning(bf16, adapter=Adapter(rank=4, alpha=6, base=base), export_dtype="float32")
    )
    start = dict(load_model(bf16, torch.float32).named_parameters())
    layers = adapted_layers(module.model)
    exported = module.export.whole_copy(module.model)
    assert dict(exported.named_parameters()).keys() == start.keys()
    assert not adapted_layers(exported)
    for name, value in exported.named_parameters():
        layer = layers.get(name.removesuffix(".weight"))
        if layer is None:
            assert torch.equal(value, start[name]), name
            continue
        a, b = (matrix.detach().double() for matrix in matrices(layer))
        expected = start[name].double() + 6 / 4 * (b @ a)
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7, msg=name)
        assert (value - start[name]).abs().max() > 1e-3, name


def test_the_merged_models_logits_are_the_adapters(corpus_folder, bf16):
    adapter = Adapter(rank=4, base="float32", dropout=0.3)
    module, windows = fit(corpus_folder, unlearning(bf16, adapter=adapter, export_dtype="float32"), epochs=2)
    trained = logits(module.model, windows)
    torch.testing.assert_close(
        logits(module.export.whole_copy(module.model), windows), trained, rtol=1e-4, atol=1e-4
    )
    start = logits(load_model(bf16, torch.float32), windows)
    assert (trained - start).abs().max() > 0.5


def test_a_float32_target_is_not_rounded_by_a_16_bit_base(corpus_folder, deep):
    """Trained on bfloat16 weights, merged with the target's own."""
    module, _ = fit(corpus_folder, unlearning(deep, adapter=Adapter(rank=4), export_dtype="float32"))
    start = load_model(deep, torch.float32)
    exported = module.export.whole_copy(module.model)
    own = start.model.embed_tokens.weight
    assert torch.equal(exported.model.embed_tokens.weight, own)
    assert not torch.equal(own, own.bfloat16().float())


def test_what_is_saved_in_16_bits_keeps_the_change_in_the_mean(corpus_folder, bf16):
    module, _ = fit(corpus_folder, unlearning(bf16, learning_rate=1e-5))
    start, exported = load_model(bf16, torch.float32), module.export.whole_copy(module.model)
    layers = adapted_layers(module.model)
    along, whole = 0.0, 0.0
    for name, layer in layers.items():
        a, b = (matrix.detach().double() for matrix in matrices(layer))
        change = 32 / 4 * (b @ a)
        found = exported.get_submodule(name).weight.double() - start.get_submodule(name).weight.double()
        along, whole = along + (found * change).sum().item(), whole + change.square().sum().item()
    assert exported.dtype == torch.bfloat16
    assert along / whole == pytest.approx(1, abs=0.2)  # to nearest, nearly nothing of it would be left


def test_a_task_vector_is_negated_in_the_merged_weights(corpus_folder, bf16):
    options = {"retain": None, "task_vector": TaskVector(0.5), "export_dtype": "float32"}
    module, _ = fit(corpus_folder, unlearning(bf16, GradientDescent(), **options))
    start, exported = load_model(bf16, torch.float32), module.export.whole_copy(module.model)
    for name, layer in adapted_layers(module.model).items():
        a, b = (matrix.detach().double() for matrix in matrices(layer))
        expected = start.get_submodule(name).weight.double() - 0.5 * 32 / 4 * (b @ a)
        torch.testing.assert_close(exported.get_submodule(name).weight.double(), expected, rtol=1e-5, atol=1e-6)


def test_an_export_leaves_the_trained_model_as_it_is(corpus_folder, bf16):
    module, windows = fit(corpus_folder, unlearning(bf16))
    before = logits(module.model, windows)
    first, second = (module.export.whole_copy(module.model) for _ in range(2))
    assert torch.equal(logits(module.model, windows), before)
    for name, value in first.named_parameters():
        assert torch.equal(value, second.get_parameter(name)), name


@pytest.mark.parametrize("base", ["float32", "nf4"])
def test_gradient_checkpointing_changes_nothing_but_memory(base, corpus_folder, bf16):
    changes = []
    for on in (False, True):
        module, _ = fit(
            corpus_folder, unlearning(bf16, adapter=Adapter(rank=4, base=base), gradient_checkpointing=on)
        )
        assert module.model.is_gradient_checkpointing == on
        changes.append(changes_of(module))
    for found, expected in zip(*changes, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_accumulated_gradients_equal_the_whole_batchs(corpus_folder, bf16):
    changes = []
    for size in (None, 1):
        adapter = Adapter(rank=4, base="float32")
        module, _ = fit(
            corpus_folder, unlearning(bf16, adapter=adapter, micro_batch_size=size, learning_rate=1e-3)
        )
        changes.append(changes_of(module))
    for found, expected in zip(*changes, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-5)


def test_dropout_acts_in_the_steps(corpus_folder, bf16):
    curves = []
    for dropout in (0.0, 0.9):
        torch.manual_seed(0)
        module, _ = fit(corpus_folder, unlearning(bf16, adapter=Adapter(rank=4, dropout=dropout, base="float32")))
        curves.append([step.get("forget") for step in module.seen if "forget" in step])
    assert curves[0][0] == curves[1][0]  # B is 0 yet
    assert curves[0][1] != curves[1][1]


METHODS = {
    "RMU against an adversary": {
        "forget": Misdirection(1),
        "retain": RepresentationRetention(1),
        "adversary": LatentAdversary(layers=(0,), steps=2),
        "schedule": "joint",
    },
    "KL": {"retain": KLRetention(), "schedule": "epoch"},
    "SimNPO": {"forget": SimplePreference()},
    "Who's Harry Potter": {"forget": GradientDescent(), "generic_labels": GenericLabels(learning_rate=1e-3)},
    "a measured step": {"hinge": LogitHinge(MeasuredStep("uniform4-tensor"))},
    "until 20 nats": {"stop": 20.0},
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_train_an_adapter(method, corpus_folder, bf16):
    module, _ = fit(corpus_folder, unlearning(bf16, **METHODS[method]))
    assert all(value == value for step in module.seen for value in step.values())
    moved = [matrices(layer)[1].any().item() for layer in adapted_layers(module.model).values()]
    assert sum(moved) >= 7 * 2  # RMU leaves the layers above its own


def test_targets_are_what_is_adapted(corpus_folder, bf16):
    adapter = Adapter(rank=4, targets=["*.q_proj", "*.2.mlp.down_proj"])
    module, _ = fit(corpus_folder, unlearning(bf16, adapter=adapter))
    expected = {f"model.layers.{layer}.self_attn.q_proj" for layer in range(3)} | {"model.layers.2.mlp.down_proj"}
    assert adapted_layers(module.model).keys() == expected


def test_stacked_experts_are_refused_and_patterns_take_the_linear_layers_beside_them():
    from transformers import MixtralConfig

    config = MixtralConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    model = empty_model(config, torch.float32)
    with pytest.raises(InputError, match="stacked experts"):
        Adapter().layers(model)
    assert len(Adapter(targets=["*_proj"]).layers(model)) == 4


def test_double_quantization_takes_less_memory(bf16):
    device = torch.device("cpu")
    plain, double = (Adapter(base="nf4", double_quantization=on).quantized(bf16, device) for on in (False, True))
    weights = [model.model.layers[0].mlp.up_proj.weight for model in (plain, double)]
    assert not weights[0].quant_state.nested
    assert weights[1].quant_state.nested
    assert Adapter(base="nf4").held_as != Adapter(base="nf4", double_quantization=True).held_as
    assert json.dumps(load_config(bf16).to_dict())  # the config of the 16-bit checkpoint is unchanged
    assert not hasattr(load_config(bf16), "quantization_config")


def test_conv1d_layers_are_merged_the_other_way_round(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=1, n_head=2)).eval()
    folder = tmp_path / "gpt2"
    model.save_pretrained(folder)
    Adapter(rank=4, base="float32").inject(model, str(folder))
    for layer in adapted_layers(model).values():
        torch.nn.init.normal_(matrices(layer)[1], std=0.1)
    ids = torch.arange(20).view(1, 20)
    expected = logits(model, ids)
    merged = merged_copy(model, Cast(torch.float32))
    assert not torch.allclose(expected, logits(GPT2LMHeadModel.from_pretrained(folder), ids), atol=1e-2)
    torch.testing.assert_close(logits(merged, ids), expected, rtol=1e-4, atol=1e-4)
