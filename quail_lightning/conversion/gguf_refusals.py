"""What a GGUF file can hold that no causal language model in Hugging Face format can be made of here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quail_lightning.conversion.deployed import noted_in
from quail_lightning.conversion.gguf_header import GgufHeader
from quail_lightning.conversion.gguf_keys import check_keys, mapped_keys, plain
from quail_lightning.conversion.gguf_tokenizer import check_tokenizer
from quail_lightning.errors import InputError
from quail_lightning.models.loading_report import some
from quail_lightning.storage.gguf_files import MERGE
from quail_lightning.storage.readable import damaged

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

ENCODERS = ("t5", "umt5")  # the library reads their weights, but they continue no text
HARMLESS: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "rope.scaling.type": ("none",),
    "rope.scaling.factor": (0.0, 1.0),
    "rope.scaling.finetuned": (True, False),
}
"""Keys that the library leaves out → values with which nothing is lost by that."""
CHECKED = {
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "expert_feed_forward_length": "moe_intermediate_size",
    "rope.dimension_count": "rotated",
    "vocab_size": "vocab_size",
}
"""Keys that are compared with what the library's config says, under its name."""
ORIGINAL = "Name the original checkpoint in Hugging Face format"


def check_convertible(header: GgufHeader) -> None:
    """See from the header alone that a file holds a whole language model of a kind that transformers reads.

    Raises:
        InputError: it is part of a split model, a vision encoder, an adapter or a vocabulary alone; of another
            architecture, or one with options that transformers would leave out; a type that cannot be dequantized;
            its tokenizer is missing or of another kind; or keys are missing or of the wrong kind.
    """
    _refuse_other_contents(header)
    _check_architecture(header)
    _check_types(header)
    _refuse_ignored_keys(header)
    check_keys(header, CHECKED)
    check_tokenizer(header)
    noted_in(header)


def check_same_model(header: GgufHeader, config: PreTrainedConfig, empty: PreTrainedModel) -> None:
    """See that nothing of a file is left out of the model that transformers builds for it.

    Args:
        header: checked.
        config: that the library made of it.
        empty: the architecture, on the meta device.

    Raises:
        InputError: tensors without a place, or other sizes than the file says.
    """
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)(config=config.to_dict())  # type: ignore[no-untyped-call]
    placed = get_gguf_hf_weights_map(empty, processor)
    if unplaced := sorted(header.tensors.keys() - placed.keys()):
        raise InputError(
            f"{header.file} holds tensors that have no place in the architecture as transformers builds it: "
            f"{some(unplaced)}; the model without them would be another one",
            remedy=ORIGINAL,
        )
    built = _built(config)
    if other := [key for key, name in CHECKED.items() if header.own(key, built[name]) != built[name]]:
        raise InputError(
            f"transformers would build another model than {header.file} describes",
            given=", ".join(f"{key}: {built[CHECKED[key]]} in place of {header.own(key)}" for key in other),
            remedy=ORIGINAL,
        )


def _built(config: PreTrainedConfig) -> dict[str, Any]:
    """What the config says under the names in ``CHECKED``."""
    text = config.get_text_config()
    found = {name: getattr(text, name, None) for name in CHECKED.values()}
    if found["head_dim"] is None and isinstance(heads := getattr(text, "num_attention_heads", None), int):
        found["head_dim"] = text.hidden_size // heads
    share = (getattr(text, "rope_parameters", None) or {}).get("partial_rotary_factor") or 1
    found["rotated"] = None if found["head_dim"] is None else int(found["head_dim"] * share)
    return found


def _refuse_other_contents(header: GgufHeader) -> None:
    file, metadata = header.file, header.metadata
    parts = metadata.get("split.count", 0)
    if type(parts) is not int:
        raise damaged(file, f"split.count cannot be {parts}")
    if parts > 1:
        raise InputError(f"{file} is one of {parts} parts of a split GGUF", remedy=MERGE)
    kind = metadata.get("general.type", "model")
    if header.architecture == "clip" or kind == "mmproj":
        raise InputError(
            f"{file} is the vision or audio encoder (mmproj) of a model, not its language model",
            remedy="Name the GGUF file of the language model beside it",
        )
    if kind != "model":
        raise InputError(f"{file} is no model", given=f"general.type: {kind}", allowed="general.type: model")
    if not header.tensors:
        raise InputError(f"{file} holds no tensors, only a vocabulary", remedy="Name the file of the whole model")


def _check_architecture(header: GgufHeader) -> None:
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    readable = sorted(GGUF_CONFIG_MAPPING.keys() - {"general", "tokenizer", *ENCODERS})
    if plain(header.architecture) not in map(plain, readable):
        raise InputError(
            f"{header.file} is of an architecture that transformers does not read from GGUF as a causal "
            "language model",
            given=header.architecture,
            allowed=", ".join(readable),
            remedy=ORIGINAL,
        )


def _check_types(header: GgufHeader) -> None:
    """Ask the package itself: a block of zeros of each type."""
    import numpy as np
    from gguf import GGMLQuantizationType, dequantize
    from gguf.constants import GGML_QUANT_SIZES

    def is_readable(name: str) -> bool:
        type_ = GGMLQuantizationType[name]
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[type_][1]), np.uint8), type_)
        except NotImplementedError:
            return False
        return True

    for name in sorted({tensor.type for tensor in header.tensors.values()}):
        if not is_readable(name):
            of_type = sorted(key for key, tensor in header.tensors.items() if tensor.type == name)
            raise InputError(
                f"{header.file} holds tensors of the type {name}, which the package gguf cannot dequantize: "
                f"{some(of_type)}",
                allowed=", ".join(each.name for each in GGMLQuantizationType if is_readable(each.name)),
                remedy="Take a file of another quantization, or install a newer gguf (pip install -U gguf)",
            )


def _refuse_ignored_keys(header: GgufHeader) -> None:
    """Options of the architecture that the library does not carry over, such as a scaling of the positions."""
    mapped, ignored = mapped_keys(header), {}
    for key, value in header.metadata.items():
        owner, _, own = key.partition(".")
        if owner != header.architecture or own in mapped or own in CHECKED or value in HARMLESS.get(own, ()):
            continue
        ignored[own] = value
    if ignored:
        raise InputError(
            f"{header.file} says what transformers would leave out, and the model would be another one",
            given=", ".join(f"{key}: {value}" for key, value in ignored.items()),
            remedy=ORIGINAL,
        )
