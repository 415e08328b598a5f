"""Does a run fit the accelerators? Counted before a weight is loaded, term by term, for one device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from quail_lightning.errors import InputError
from quail_lightning.functional.chunked import chunk_tokens
from quail_lightning.models.activations import decoder_layers
from quail_lightning.unlearning.adapter import Base
from quail_lightning.unlearning.optimizers import AdamStates, WeightPrecision, weight_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GIB = 2**30
CONTEXT = 1.0  # GiB that the driver, the libraries' kernels and fragments take beside all tensors
STATES = {
    "float32": 8.0,
    "bf16-stochastic": 8.0,
    "bf16-nearest": 4.0,
}  # bytes a trained weight, full moments; Sophia: 8
STATES_8BIT = 2.03
RESIDUALS_A_LAYER = 2.0  # float32 or bfloat16 vectors of the width that a layer's norms keep beside its input
LAYER_INPUTS = 27.0  # bfloat16 vectors of the width a token that attention and projections keep
MLP_INPUTS = 4.0  # bfloat16 vectors of the MLP's width
ADAPTER_INPUTS = 6.0  # vectors of the width, and one of the MLP's, that a layer's changes keep a copy of
BITS_OF_SCALES = 0.5  # a 4-bit weight's part of a float32 scale for 64; one for a row is nothing
CHUNKS = 4  # of logits, in float32: the model's, the target's, their difference, the gradient


@dataclass(frozen=True)
class Sizes:
    """What of a model decides its memory.

    Attributes:
        parameters: weights, tied ones once, without an adapter's.
        trained: those that the optimizer moves; an adapter's where one is trained.
        largest_layer: weights of one decoder layer.
        layers: decoder layers.
        width: of the residual stream.
        mlp_width: inside the MLP.
        vocabulary: rows of the head.
    """

    parameters: int
    trained: int
    largest_layer: int
    layers: int
    width: int
    mlp_width: int
    vocabulary: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> Sizes:
        """Of a model, which may lie on the meta device."""
        text = model.config.get_text_config()
        layers = list(decoder_layers(model))
        return cls(
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            trained=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
            largest_layer=max(sum(parameter.numel() for parameter in layer.parameters()) for layer in layers),
            layers=len(layers),
            width=text.hidden_size,
            mlp_width=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
            vocabulary=text.vocab_size,
        )


@dataclass(frozen=True)
class EvaluationMemory:
    """What of the evaluation after an epoch decides its memory.

    Attributes:
        sharded: the copy in the export dtype stays spread over all processes, and what is quantized is made weight
            by weight from its shards; otherwise each process holds a whole one.
        bits: of the widest quantized copy, or of what an attack trains, which each process holds whole; one of 16
            or more is spread as well where the evaluation is sharded.
        itemsize: bytes of a weight in the export dtype.
    """

    sharded: bool = False
    bits: int = 8
    itemsize: int = 2


@dataclass(frozen=True)
class Run:
    """What of a run decides its memory.

    Attributes:
        processes: that train together.
        sharded: FSDP2; otherwise each holds everything.
        tokens: of one forward pass: windows · length.
        weight_precision: as in the module.
        adam_states: as in the module.
        mixed: ``bf16-mixed`` arithmetic.
        emulated: the device has no bfloat16 products, so 16-bit weights are held in float32, too.
        gradient_checkpointing: as in the module.
        reference_model: a second, frozen model is held.
        reference_head: a frozen copy of the head is held.
        whole_gradient: FSDP2 brings gradients together after a step's last pass alone.
        loss_chunk: as in the module.
        kept_weights: SAM or a perturbation keeps the trained weights while they are moved.
        takes_16_bits: 16-bit weights and 8-bit states are allowed beside the other options.
        takes_offloading: likewise, moments in main memory.
        evaluation_memory: of the evaluation after an epoch.
        base: how the frozen weights below an adapter lie; None where the weights themselves are trained.
    """

    processes: int
    sharded: bool
    tokens: int
    weight_precision: WeightPrecision = "float32"
    adam_states: AdamStates = "full"
    mixed: bool = True
    emulated: bool = False
    gradient_checkpointing: bool = True
    reference_model: bool = False
    reference_head: bool = True
    whole_gradient: bool = False
    loss_chunk: int | None = None
    kept_weights: bool = False
    takes_16_bits: bool = True
    takes_offloading: bool = True
    evaluation_memory: EvaluationMemory = EvaluationMemory()
    base: Base | None = None


def memory_plan(sizes: Sizes, run: Run) -> dict[str, float]:
    """What each device holds at most, GiB by name; estimates where activations are concerned.

    A training step and the evaluation after an epoch take turns on what weights and optimizer leave, so only the
    larger of the two is in the total, which comes last. The evaluation holds a copy in the export dtype, or its
    share of one, and beside it a quantized one.
    """
    shares = run.processes if run.sharded else 1
    stored = weight_dtype(run.weight_precision).itemsize if run.base in (None, "float32") else 2
    weight = 4 if run.emulated else stored
    compute = 2 if run.mixed else weight
    head = sizes.vocabulary * sizes.width
    states = STATES_8BIT if run.adam_states == "8bit" else STATES[run.weight_precision]
    moments = sizes.trained * states / shares
    if run.adam_states == "offloaded":  # those of one weight, and as much again for its update
        moments = head * (STATES[run.weight_precision] + weight)
    own = weight if run.base is None else 4  # bytes of a trained weight, and of its gradient
    weights: float = sizes.parameters * weight + (weight > stored) * sizes.trained * stored
    if run.base is not None:
        quantized = (sizes.parameters - 2 * head) * (run.base == "nf4")
        weights = (
            (sizes.parameters - quantized) * weight + quantized * (4 + BITS_OF_SCALES) / 8 + sizes.trained * own
        )
    held = {
        "weights": weights / shares,
        "optimizer": moments,
        "reference": run.reference_model * sizes.parameters * weight / shares
        + run.reference_head * head * compute,
    }
    step = {
        "gradients": sizes.trained * own / shares + (run.whole_gradient and run.sharded) * 4 * sizes.trained,
        "DDP buckets": sizes.trained * own * (run.processes > 1 and not run.sharded),
        "weights before perturbation": sizes.trained * own / shares * run.kept_weights,
        # FSDP2: a layer and the next one gathered, one layer's gradient, embedding and head whole with theirs.
        # A base in 4 bits: a matrix at a time is unpacked.
        # One device: autocast keeps a bfloat16 copy of all it has cast until the forward pass ends
        "gathered": (3 * sizes.largest_layer * compute + 2 * 2 * head * weight) * run.sharded
        + (run.base == "nf4") * sizes.width * sizes.mlp_width * compute,
        "autocast's copies": 2 * _cast_by_autocast(sizes, run, weight),
        "activations": _activations(sizes, run, weight, compute),
        "loss": _loss(sizes, run, head, compute),
    }
    evaluation = _evaluation(sizes, run, head)
    total = sum(held.values()) + max(sum(step.values()), evaluation)
    plan = held | step | {"evaluation": evaluation, "total": total}
    return {name: value / GIB for name, value in plan.items()}


def whole_evaluation_fits(sizes: Sizes, run: Run, capacity: float) -> bool:
    """Whether each device could hold a whole 16-bit copy, and a quantized one, beside what it holds anyway.

    Args:
        sizes: of the model.
        run: how it is trained.
        capacity: of one device, GiB.
    """
    plan = memory_plan(sizes, replace(run, evaluation_memory=replace(run.evaluation_memory, sharded=False)))
    held = plan["weights"] + plan["optimizer"] + plan["reference"]
    return held + plan["evaluation"] + CONTEXT <= capacity


def check_memory(sizes: Sizes, run: Run, capacity: float) -> None:
    """Refuse a run that does not fit.

    Args:
        sizes: of the model.
        run: how it is trained.
        capacity: of one device, GiB.

    Raises:
        InputError: with the arithmetic.
    """
    plan = memory_plan(sizes, run)
    if plan["total"] + CONTEXT <= capacity:
        return
    terms = ", ".join(f"{name} {value:.1f}" for name, value in plan.items() if name != "total" and value >= 0.05)
    where = f"FSDP2 over {run.processes} devices" if run.sharded else "whole on each device"
    raise InputError(
        f"{sizes.parameters / 1e9:.1f}e9 weights in {run.weight_precision}, {where}, do not fit a device of "
        f"{capacity:.1f} GiB: {plan['total']:.1f} GiB are needed and {CONTEXT:.0f} for the driver ({terms}; the "
        "evaluation takes the place of what a step needs)",
        remedy=_remedy(sizes, run, capacity),
    )


def adapter_weights(sizes: Sizes, rank: int) -> int:
    """Of an adapter of this rank on every linear layer of a decoder without grouped queries: at least its size.

    A layer has four matrices [width, width] and three of [width, MLP's width].
    """
    return rank * (8 * sizes.width + 3 * (sizes.width + sizes.mlp_width)) * sizes.layers


def _evaluation(sizes: Sizes, run: Run, head: int) -> float:
    size = run.evaluation_memory.itemsize
    linear, ends = sizes.parameters - 2 * head, 2 * size * head  # embedding and head are not quantized
    bits = run.evaluation_memory.bits + BITS_OF_SCALES * (run.evaluation_memory.bits < 8)
    quantized = linear * bits / 8 + ends
    if not run.evaluation_memory.sharded:
        # where products are emulated a 16-bit copy is widened while it is evaluated, a 4-bit one unpacked beside
        emulated = run.emulated and size == 2
        widened = emulated * max(2.0 * sizes.parameters, quantized + 4.0 * linear)
        return size * sizes.parameters + max(quantized, widened)
    share = size * sizes.parameters / run.processes
    gathered = ends + 2.0 * size * sizes.largest_layer  # a layer and the next one
    if run.evaluation_memory.bits >= 16:
        return 2 * share + gathered
    return share + max(gathered, quantized + 1.0 * size * sizes.largest_layer)


def _activations(sizes: Sizes, run: Run, weight: int, compute: int) -> float:
    stream = weight if run.mixed else compute  # under autocast the residual stream keeps the weights' dtype
    layer = RESIDUALS_A_LAYER * 2 * stream * sizes.width
    layer += compute * (LAYER_INPUTS * sizes.width + MLP_INPUTS * sizes.mlp_width)
    if run.base is not None:
        layer += (2 if run.mixed else 4) * (ADAPTER_INPUTS * sizes.width + sizes.mlp_width)
    if run.gradient_checkpointing:
        return run.tokens * (sizes.layers * sizes.width * stream + layer)
    return run.tokens * sizes.layers * layer


def _cast_by_autocast(sizes: Sizes, run: Run, weight: int) -> int:
    """Weights that it casts and keeps until the forward pass ends: those in float32."""
    if not run.mixed or run.sharded:
        return 0
    frozen = sizes.parameters if weight == 4 and run.base != "nf4" else 0
    return frozen + (0 if run.base is None else sizes.trained)


def _loss(sizes: Sizes, run: Run, head: int, compute: int) -> float:
    chunk = min(run.tokens, run.loss_chunk or chunk_tokens(sizes.vocabulary, sizes.width, "cuda"))
    return CHUNKS * chunk * sizes.vocabulary * 4 + head * (compute + 4)


def _remedy(sizes: Sizes, run: Run, capacity: float) -> str:
    low_bits = "round bfloat16 weights stochastically, with 8-bit states (--config trainer/one_a100.yaml)"
    offloading = "keep the optimizer's moments in main memory (--config trainer/one_a100_offload.yaml)"
    options: Mapping[str, Run] = {
        "set model.gradient_checkpointing": replace(run, gradient_checkpointing=True),
        f"shard over the {run.processes} devices (--config trainer/fsdp.yaml)": replace(
            run,
            sharded=True,
            gradient_checkpointing=True,
            evaluation_memory=replace(run.evaluation_memory, sharded=True),
        ),
        low_bits: replace(
            run, weight_precision="bf16-stochastic", adam_states="8bit", gradient_checkpointing=True
        ),
        offloading: replace(
            run,
            processes=1,
            sharded=False,
            weight_precision="float32",
            adam_states="offloaded",
            gradient_checkpointing=True,
        ),
        "evaluate shards (evaluation.sharded: true)": replace(
            run, evaluation_memory=replace(run.evaluation_memory, sharded=run.sharded)
        ),
        "cache the reference instead of a second model (reference: CachedStates)": replace(
            run, reference_model=False, gradient_checkpointing=True
        ),
    }
    refused = {low_bits: not run.takes_16_bits, offloading: not run.takes_offloading}
    fitting = [
        name
        for name, other in options.items()
        if not refused.get(name) and other != run and memory_plan(sizes, other)["total"] + CONTEXT <= capacity
    ]
    small = replace(sizes, trained=adapter_weights(sizes, 16))
    adapted = replace(
        run, sharded=False, weight_precision="float32", adam_states="full", gradient_checkpointing=True, base="nf4"
    )
    if run.base != "nf4" and memory_plan(small, adapted)["total"] + CONTEXT <= capacity:
        fitting.append("train an adapter on a base in 4 bits (--config adapter/qlora.yaml)")
    if fitting:
        return "What fits: " + "; or ".join(fitting)
    return "More devices under FSDP2 (--config trainer/fsdp.yaml), shorter windows, or model.micro_batch_size: 1"
