"""The memory plan by hand, and what it refuses before a weight is loaded."""

from dataclasses import replace

import pytest
import torch
from lightning.pytorch import Trainer

from quail_lightning.data import MuseDataModule
from quail_lightning.errors import InputError
from quail_lightning.objectives import GradientAscent, GradientDescent, LogitHinge
from quail_lightning.unlearning import UnlearningModule, fitting, memory_plan
from quail_lightning.unlearning.adapter import Adapter
from quail_lightning.unlearning.memory_plan import (
    GIB,
    EvaluationMemory,
    Run,
    Sizes,
    check_memory,
    whole_evaluation_fits,
)

LLAMA_2_7B = Sizes(6_738_415_616, 6_738_415_616, 202_383_360, 32, 4096, 11008, 32000)
A100_80, A100_40 = 79.2, 39.4  # GiB that the driver shows


def plan(*arguments, **options):
    return memory_plan.memory_plan(LLAMA_2_7B, Run(*arguments, **options))


def test_ddp_with_float32_masters_holds_everything_on_each_device():
    found = plan(8, False, 4096)
    weights = 6_738_415_616 * 4 / GIB  # 25.1
    for name in ("weights", "gradients", "DDP buckets"):
        assert found[name] == pytest.approx(weights)
    assert found["optimizer"] == pytest.approx(2 * weights)
    assert found["gathered"] == 0
    assert found["total"] > 5 * weights


def test_fsdp2_divides_what_is_held_and_gathers_a_layer_at_a_time():
    found = plan(4, True, 4096)
    weights = 6_738_415_616 * 4 / GIB
    assert found["weights"] == found["gradients"] == pytest.approx(weights / 4)
    assert found["optimizer"] == pytest.approx(weights / 2)
    assert found["DDP buckets"] == found["autocast's copies"] == 0
    # three times a layer in bfloat16; embedding and head with their gradients in float32
    assert found["gathered"] * GIB == pytest.approx(3 * 2 * 202_383_360 + 4 * 4 * 32000 * 4096)


def test_one_a100_takes_six_bytes_a_weight():
    found = plan(1, False, 2048, weight_precision="bf16-stochastic", adam_states="8bit")
    held = found["weights"] + found["optimizer"] + found["gradients"]
    assert held * GIB / 6_738_415_616 == pytest.approx(6.03)


def test_offloaded_moments_leave_the_device_those_of_the_largest_weight():
    found = plan(1, False, 2048, adam_states="offloaded")
    # two moments and the update of embedding or head
    assert found["optimizer"] * GIB == pytest.approx(3 * 4 * 32000 * 4096)
    assert found["weights"] == found["gradients"] == pytest.approx(6_738_415_616 * 4 / GIB)


def test_no_remedy_is_named_that_another_option_refuses():
    run = Run(1, False, 2048)
    for refused, words in (
        ({}, {"stochastically", "main memory"}),
        ({"takes_16_bits": False}, {"main memory"}),
        ({"takes_16_bits": False, "takes_offloading": False}, set()),
    ):
        with pytest.raises(InputError) as short:
            memory_plan.check_memory(LLAMA_2_7B, replace(run, **refused), 79.0)
        assert {each for each in ("stochastically", "main memory") if each in str(short.value)} == words


def test_sam_keeps_the_trained_weights_once_more_during_a_step():
    for processes, sharded in ((1, False), (4, True)):
        plain, sharp = (plan(processes, sharded, 4096, kept_weights=kept) for kept in (False, True))
        assert sharp["weights before perturbation"] == pytest.approx(6_738_415_616 * 4 / GIB / processes**sharded)
        assert plain["weights before perturbation"] == 0


RANK_16 = 16 * 32 * (8 * 4096 + 3 * (4096 + 11008))  # A and B of seven matrices in each of 32 layers


def test_an_adapter_of_rank_16_on_a_4_bit_base_of_7b_fits_24_gigabytes():
    """By hand: 4.5 bits for the body, 2 bytes for both ends; A and B, their gradients and moments in float32."""
    ends = 2 * 32000 * 4096
    sizes = replace(LLAMA_2_7B, trained=RANK_16)
    run = Run(1, False, 2048, base="nf4", evaluation_memory=EvaluationMemory(False, 4))
    found = memory_plan.memory_plan(sizes, run)
    assert RANK_16 == 39_976_960 == memory_plan.adapter_weights(LLAMA_2_7B, 16)
    assert found["weights"] * GIB == pytest.approx((6_738_415_616 - ends) * 4.5 / 8 + ends * 2 + RANK_16 * 4)
    assert found["optimizer"] * GIB == pytest.approx(8 * RANK_16)
    assert found["gradients"] * GIB == pytest.approx(4 * RANK_16)
    assert found["gathered"] * GIB == pytest.approx(2 * 4096 * 11008)  # the largest matrix, unpacked
    check_memory(sizes, run, 23.5)  # what the driver shows of 24 GB
    for larger in (
        replace(run, base="bfloat16"),
        replace(run, gradient_checkpointing=False),
        replace(run, evaluation_memory=EvaluationMemory(False, 8)),
    ):
        with pytest.raises(InputError, match="do not fit"):
            check_memory(sizes, larger, 23.5)


def test_a_16_bit_base_takes_two_bytes_and_a_float32_one_four():
    sizes = replace(LLAMA_2_7B, trained=RANK_16)
    for base, size in (("bfloat16", 2), ("float32", 4)):
        found = memory_plan.memory_plan(sizes, Run(1, False, 2048, base=base))
        assert found["weights"] * GIB == pytest.approx(6_738_415_616 * size + 4 * RANK_16)
        assert found["gathered"] == 0


def test_a_run_that_does_not_fit_is_told_of_the_adapter():
    with pytest.raises(InputError, match=r"adapter/qlora\.yaml"):
        check_memory(LLAMA_2_7B, Run(1, False, 2048, evaluation_memory=EvaluationMemory(False, 4)), 23.5)


@pytest.mark.parametrize("base", ["bfloat16", "nf4"])
def test_an_adapters_sizes_are_those_that_it_is_made_with(base, checkpoint):
    from quail_lightning.models.checkpoint import load_model

    adapter = Adapter(rank=3, base=base)
    module = UnlearningModule(checkpoint, GradientAscent(), adapter=adapter)
    found = fitting.sizes_of(module.memory_options)
    model = load_model(checkpoint, torch.float32)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    adapter.inject(model, checkpoint)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert found.trained == trained > 0
    assert fitting.state_bytes(module.memory_options) == 12 * trained


def test_a_step_and_the_evaluation_take_turns():
    small = plan(64, True, 128)
    assert small["total"] == pytest.approx(
        small["weights"] + small["optimizer"] + small["reference"] + small["evaluation"]
    )
    large = plan(1, False, 4096)
    apart = {"total", "evaluation"}
    assert large["total"] == pytest.approx(sum(value for name, value in large.items() if name not in apart))


def test_a_whole_evaluation_holds_two_copies_and_a_sharded_one_its_share_and_the_quantized_copy():
    head, everything, layer = 32000 * 4096, 6_738_415_616, 202_383_360
    quantized = (everything - 2 * head) * 4.5 / 8 + 2 * 2 * head  # a scale of 32 bits for 64 weights
    for processes in (4, 8):
        whole = plan(processes, True, 4096, evaluation_memory=EvaluationMemory(False, 4))["evaluation"] * GIB
        assert whole == pytest.approx(2 * everything + quantized)
        shards = plan(processes, True, 4096, evaluation_memory=EvaluationMemory(True, 4))["evaluation"] * GIB
        assert shards == pytest.approx(2 * everything / processes + quantized + 2 * layer)


def test_eight_bits_have_no_scales_worth_counting_and_are_what_is_counted_by_default():
    head, everything = 32000 * 4096, 6_738_415_616
    by_hand = 2 * everything + (everything - 2 * head) + 2 * 2 * head
    assert plan(4, True, 4096)["evaluation"] * GIB == pytest.approx(by_hand)


def test_a_simulated_copy_is_as_wide_as_the_model_and_sharded_with_it():
    whole, shards = (
        plan(4, True, 4096, evaluation_memory=EvaluationMemory(on, 16))["evaluation"] * GIB for on in (False, True)
    )
    assert whole == pytest.approx(4 * 6_738_415_616)
    # two sharded copies; two layers, embedding and head gathered
    gathered = 2 * 2 * (202_383_360 + 32000 * 4096)
    assert shards == pytest.approx(2 * 2 * 6_738_415_616 / 4 + gathered)


def test_a_model_fits_by_its_shards_and_four_bits_where_it_does_not_fit_whole():
    llama_70b = Sizes(68_976_648_192, 68_976_648_192, 855_654_400, 80, 8192, 28672, 32000)
    run = Run(32, True, 2048, evaluation_memory=EvaluationMemory(True, 4))
    assert not whole_evaluation_fits(llama_70b, run, A100_80)
    check_memory(llama_70b, run, A100_80)
    with pytest.raises(InputError, match=r"evaluation\.sharded: true"):
        check_memory(llama_70b, replace(run, evaluation_memory=EvaluationMemory(False, 4)), A100_80)
    assert whole_evaluation_fits(
        LLAMA_2_7B, Run(8, True, 4096, evaluation_memory=EvaluationMemory(True, 8)), A100_80
    )


def test_checkpointing_keeps_one_vector_a_layer_and_token_and_one_layer():
    kept, recomputed = (plan(8, True, 4096, gradient_checkpointing=on)["activations"] for on in (False, True))
    inputs = 32 * 4096 * 4096 * 4 / GIB  # layers · tokens · width · float32
    assert recomputed == pytest.approx(kept / 32 + inputs)


def test_a_smaller_loss_chunk_leaves_logits_of_so_many_tokens_out():
    large, small = (plan(8, True, 4096, loss_chunk=chunk)["loss"] for chunk in (2048, 512))
    # four float32 copies of a chunk's logits; the head's own gradient stays
    assert (large - small) * GIB == pytest.approx(4 * 4 * 32000 * (2048 - 512))
    assert plan(8, True, 4096, loss_chunk=10**6) == plan(8, True, 4096, loss_chunk=4096), "no more than there are"


@pytest.mark.parametrize(
    ("run", "capacity"),
    [
        (Run(4, True, 4096), A100_80),
        (Run(8, True, 4096), A100_40),
        (Run(1, False, 2048, "bf16-stochastic", "8bit"), A100_80),
        (Run(1, False, 2048, "float32", "offloaded"), A100_80),
    ],
)
def test_the_documented_plans_fit(run, capacity):
    check_memory(LLAMA_2_7B, run, capacity)


def test_ddp_at_7b_is_refused_with_the_arithmetic_and_what_fits():
    with pytest.raises(InputError) as refused:
        check_memory(LLAMA_2_7B, Run(8, False, 4096), A100_80)
    said = str(refused.value)
    for part in ("6.7e9 weights", "79.2 GiB", "weights 25.1", "optimizer 50.2", "gradients 25.1"):
        assert part in said
    assert "trainer/fsdp.yaml" in said
    assert "trainer/one_a100.yaml" in said
    assert "trainer/one_a100_offload.yaml" in said


def test_a_plan_that_nothing_mends_asks_for_more_devices():
    with pytest.raises(InputError, match="More devices"):
        check_memory(LLAMA_2_7B, Run(2, True, 4096), 10.0)


def test_a_run_is_refused_before_any_weight_is_loaded(monkeypatch, tmp_path, corpus_folder, checkpoint):
    from quail_lightning.unlearning import sharding

    monkeypatch.setattr(fitting, "device_capacity", lambda trainer: 1.0001)  # 0.0001 GiB beside the driver
    monkeypatch.setattr(sharding, "load_model", lambda *_: pytest.fail("a weight was loaded"))
    module = UnlearningModule(
        target=checkpoint, forget=GradientAscent(), retain=GradientDescent(), hinge=LogitHinge()
    )
    data = MuseDataModule(str(corpus_folder), tokenizer=checkpoint, max_len=24)
    trainer = Trainer(accelerator="cpu", precision="32-true", logger=False, default_root_dir=tmp_path)
    with pytest.raises(InputError, match=r"do not fit a device of 1\.0 GiB"):
        trainer.fit(module, datamodule=data)


def test_nothing_is_counted_on_cpus():
    assert fitting.device_capacity(Trainer(accelerator="cpu", logger=False)) is None


def test_sizes_of_a_model_on_the_meta_device(checkpoint):
    from quail_lightning.models.checkpoint import load_config, load_model
    from quail_lightning.models.empty import empty_model

    found = Sizes.of(empty_model(load_config(checkpoint), torch.float32))
    model = load_model(checkpoint, torch.float32)
    assert found.parameters == found.trained == sum(weight.numel() for weight in model.parameters())
    assert found.largest_layer == sum(weight.numel() for weight in model.model.layers[0].parameters())
    assert (found.layers, found.width, found.vocabulary) == (1, 64, 300)
