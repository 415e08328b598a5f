"""Between which modules a channel's factor moves (SmoothQuant, AWQ), and the check that this changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from quail_lightning.errors import InputError
from quail_lightning.models.activations import decoder_layers, language_decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Method = Literal["SmoothQuant", "AWQ"]
Pair = tuple[str, tuple[str, ...]]
"""A norm or layer whose output channels are divided, and all the layers that read them, which are multiplied."""


class _Pairs(NamedTuple):
    """Within a decoder layer."""

    smoothquant: tuple[Pair, ...]
    awq: tuple[Pair, ...]


_QKV: Pair = ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))
_VALUES: Pair = ("self_attn.v_proj", ("self_attn.o_proj",))
# Gemma 2 and 3 norm the MLP's input once more; what post_attention_layernorm gives goes into the residual stream
_GEMMA_MLP: Pair = ("pre_feedforward_layernorm", ("mlp.gate_proj", "mlp.up_proj"))
_GATED: Pair = ("mlp.up_proj", ("mlp.down_proj",))
_OPT: tuple[Pair, ...] = (
    ("self_attn_layer_norm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("final_layer_norm", ("fc1",)),
)
_NEOX: tuple[Pair, ...] = (
    ("input_layernorm", ("attention.query_key_value",)),
    ("post_attention_layernorm", ("mlp.dense_h_to_4h",)),
)

_OWN = {  # type of the language model → pairs, where llm-compressor's own are missing, wrong or reach into a tower
    "gemma2": _Pairs((_QKV, _GEMMA_MLP), (_QKV, _VALUES, _GEMMA_MLP, _GATED)),
    # as llm-compressor has it: its query and key norms make scaling before them worse than none for AWQ
    "gemma3_text": _Pairs((_QKV, _GEMMA_MLP), (_VALUES, _GEMMA_MLP, _GATED)),
    "gpt_neox": _Pairs(_NEOX, _NEOX),
    "opt": _Pairs(_OPT, (*_OPT, ("self_attn.v_proj", ("self_attn.out_proj",)), ("fc1", ("fc2",)))),
}
_LLAMA_LAYER = {
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    "input_layernorm",
    "post_attention_layernorm",
}
_WITHIN_ATTENTION = {"self_attn.q_norm", "self_attn.k_norm"}  # may be there: no pair crosses them
TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 3e-2}
"""Relative error of what a layer adds that rounding the moved factors may cause; a wrong pair costs tenths."""


def smoothing_pairs(model: PreTrainedModel, method: Method) -> list[tuple[str, list[str]]] | None:
    """The pairs by the names of their modules; None where llm-compressor's own are right for this class.

    Args:
        model: may be on the meta device.
        method: whose.

    Raises:
        InputError: neither knows any for this architecture.
    """
    kind = model.config.get_text_config().model_type
    if kind in _OWN and getattr(model.config.get_text_config(), "do_layer_norm_before", True):
        pairs = _OWN[kind].smoothquant if method == "SmoothQuant" else _OWN[kind].awq
        names = {id(module): name for name, module in model.named_modules()}
        layers = [names[id(layer)] for layer in decoder_layers(model)]
        return [
            (f"{layer}.{source}", [f"{layer}.{name}" for name in balanced])
            for source, balanced in pairs
            for layer in layers
        ]
    if not (_is_listed(model, method) or all(_is_llama_s(layer) for layer in decoder_layers(model))):
        raise _unknown(model, method, "neither llm-compressor nor this program knows")
    try:
        resolved = [found for targets in _library_targets(model, method) for found in _resolved(model, targets)]
    except ValueError as error:
        raise _unknown(model, method, "llm-compressor does not find") from error
    if any(len(sources) != 1 or not hasattr(sources[0], "weight") for sources in resolved):
        raise _unknown(model, method, "llm-compressor does not tell apart")
    return None


def refuse_changed_layers(
    model: PreTrainedModel, smoothed: PreTrainedModel, window: Tensor, method: Method
) -> None:
    """See that moving the factors, without quantizing anything, left every decoder layer what it was.

    Layer by layer on the same input, so that neither depth nor the residual stream hides or adds anything.

    Args:
        model: before.
        smoothed: after, with its quantization still simulated; on the same device.
        window: [time] calibration tokens.
        method: named in the error.

    Raises:
        InputError: what some layer adds to its input moved by more than rounding.
    """
    from compressed_tensors.quantization import disable_quantization, enable_quantization

    errors: list[float] = []
    hooks = [
        layer.register_forward_hook(partial(_compare, twin, errors), with_kwargs=True)
        for layer, twin in zip(decoder_layers(model), decoder_layers(smoothed), strict=True)
    ]
    was_training = model.training
    smoothed.apply(disable_quantization)
    try:
        with torch.no_grad():
            language_decoder(model.eval())(input_ids=window[None].to(model.device), use_cache=False)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    smoothed.apply(enable_quantization)
    worst = max(range(len(errors)), key=errors.__getitem__)
    if not errors[worst] <= TOLERANCE[model.dtype]:
        raise InputError(
            f"{method} does not fit {type(model).__name__}: moving the channels' factors, before anything is "
            f"quantized, changes what decoder layer {worst} adds by {errors[worst]:.2g} of its norm",
            allowed=f"{TOLERANCE[model.dtype]:.2g}, which rounding explains",
            remedy="Use gptq4, nf4 or a uniform grid for this architecture",
        )


def _compare(twin: nn.Module, errors: list[float], _: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    """As a layer's hook: the relative error of its twin on the same input; NaN counts as infinite."""
    given = args[0] if args else kwargs["hidden_states"]
    before, after = (
        (out[0] if isinstance(out, tuple) else out).float() for out in (output, twin(*args, **kwargs))
    )
    error = ((after - before).norm() / (before - given.float()).norm()).item()
    errors.append(error if error == error else math.inf)


def _unknown(model: PreTrainedModel, method: Method, who: str) -> InputError:
    return InputError(
        f"{method} moves factors between a norm and the layers after it, and {who} those of "
        f"{type(model).__name__}",
        remedy="Use gptq4, nf4, int8 or a uniform grid for this architecture",
    )


def _is_llama_s(layer: nn.Module) -> bool:
    """Whether a decoder layer has Llama's modules and no others, whatever its class is called."""
    held = {name for name, module in layer.named_modules() if any(True for _ in module.parameters(recurse=False))}
    return held - _WITHIN_ATTENTION == _LLAMA_LAYER


def _is_listed(model: PreTrainedModel, method: Method) -> bool:
    name = type(model).__name__
    if method == "AWQ":
        from llmcompressor.modifiers.transform.awq.dynamic_mappings import AWQ_DYNAMIC_MAPPING_REGISTRY
        from llmcompressor.modifiers.transform.awq.mappings import AWQ_MAPPING_REGISTRY

        return name in AWQ_DYNAMIC_MAPPING_REGISTRY or name in AWQ_MAPPING_REGISTRY
    from llmcompressor.modifiers.transform.smoothquant.dynamic_mappings import SMOOTHQUANT_DYNAMIC_MAPPING_REGISTRY
    from llmcompressor.modifiers.transform.smoothquant.utils import MAPPINGS_REGISTRY

    return name in SMOOTHQUANT_DYNAMIC_MAPPING_REGISTRY or name in MAPPINGS_REGISTRY


def _library_targets(model: PreTrainedModel, method: Method) -> list[list[str]]:
    """llm-compressor's patterns, the source first."""
    if method == "AWQ":
        from llmcompressor.modifiers.transform.awq import dynamic_mappings as awq

        return [[each.smooth_layer, *each.balance_layers] for each in awq.get_layer_mappings_from_model(model)]
    from llmcompressor.modifiers.transform.smoothquant import dynamic_mappings as smoothquant

    found = smoothquant.get_layer_mappings_from_model(model)
    return [[each.smooth_layers, *each.balance_layers] for each in found]


def _resolved(model: PreTrainedModel, targets: list[str]) -> Iterable[list[Any]]:
    """The modules that each match of the patterns takes for the source."""
    from compressed_tensors.utils import match_modules_set

    return (sources for sources, *_ in match_modules_set(model, targets))
