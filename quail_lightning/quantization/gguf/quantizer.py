"""llama.cpp's quantizations, evaluated here and written to GGUF files."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quail_lightning.errors import InputError
from quail_lightning.functional.finite import is_finite
from quail_lightning.functional.ggml_blocks import BlockType
from quail_lightning.models.sharded import own_rows, share, whole
from quail_lightning.models.sharded_loading import cast_shards
from quail_lightning.quantization.body import refuse_broken
from quail_lightning.quantization.compressor import require_package
from quail_lightning.quantization.gguf.file import size_of, tensors_of, write
from quail_lightning.quantization.gguf.levels import MixtureBuckets
from quail_lightning.quantization.gguf.metadata import check_metadata
from quail_lightning.quantization.gguf.mixture import FILE_TYPES, FileType, fitting_type, is_70b, wanted_types
from quail_lightning.quantization.gguf.names import EMBEDDING, HEAD, architecture_of, gguf_name
from quail_lightning.quantization.gguf.tensors import packed
from quail_lightning.quantization.gguf.vocabulary import vocabulary
from quail_lightning.quantization.protocol import PreTrainedModel

MOST_NAMED = 3  # tensors in one error


class Gguf:
    """The weights of one of llama.cpp's standard files, made by its own kernels without an importance matrix.

    The copy holds the values that the file's blocks stand for, in the model's own dtype and at full size;
    ``quail quantize`` writes the file (``write_file``). As in such files, the embedding and the head are
    quantized too.

    Args:
        file_type: ``q4_k_m``: Q4_K, with Q6_K for the head and for the values' and the MLP's second matrices of
            some layers; ``q4_0``: blocks of 32 with a scale each, the head in Q6_K; ``q8_0``: the same in 8 bits.
        embeddings: False leaves embedding and head at 16 bits, as ``llama-quantize`` does with
            ``--token-embedding-type`` and ``--output-tensor-type``.

    Raises:
        InputError: a package is not installed.
    """

    needs_calibration = False
    simulated = True
    stored_bits = 16
    backend = "xllamacpp"
    suffix = ".gguf"

    def __init__(self, file_type: FileType, embeddings: bool = True) -> None:
        for package in ("gguf", "xllamacpp"):
            require_package(package, f"file_type {file_type}", "'quail-lightning[gguf]'")
        self.file_type: FileType = file_type
        self.embeddings = embeddings

    @property
    def bits(self) -> int:
        """Of most weights."""
        return 8 if self.file_type == "q8_0" else 4

    @property
    def granularity(self) -> str:
        """``block32``, or of the K types ``superblock256``: sub-blocks whose scales share two more."""
        return "superblock256" if FILE_TYPES[self.file_type][1].endswith("_K") else "block32"

    def buckets(self) -> MixtureBuckets:
        """See ``HasBuckets``; of the body's weights."""
        return MixtureBuckets(self.file_type)

    def targets(self, model: PreTrainedModel) -> list[str]:
        """See ``Quantizer.targets``: the body's linear layers, and unless told otherwise embedding and head."""
        return list(self.types(model))

    def remark(self, model: PreTrainedModel) -> str:
        """See ``Remarks``: the tensors whose rows do not hold whole blocks of 256."""
        wanted = self._wanted(model)
        changed: dict[tuple[BlockType, BlockType], tuple[str, int, set[int]]] = {}
        for name, kind in self.types(model).items():
            if kind != wanted[name]:
                first, count, lengths = changed.get((wanted[name], kind), (name, 0, set()))
                lengths = lengths | {model.get_parameter(name).shape[-1]}
                changed[wanted[name], kind] = first, count + 1, lengths
        return "; ".join(
            f"{kind} in place of {before} in rows of {', '.join(map(str, sorted(lengths)))}, which 256 does not "
            f"divide: {first}" + (f" and {count - 1} more" if count > 1 else "")
            for (before, kind), (first, count, lengths) in changed.items()
        )

    def types(self, model: PreTrainedModel) -> dict[str, BlockType]:
        """Parameter → its block type, of all that are quantized; the model may be on the meta device.

        Raises:
            InputError: GGUF has no place for the model, or rows that no block fits.
        """
        types: dict[str, BlockType] = {}
        misfits = []
        for name, wanted in self._wanted(model).items():
            inputs = model.get_parameter(name).shape[-1]
            if (kind := fitting_type(wanted, inputs)) is None:
                misfits.append(f"{name} ({inputs})")
            else:
                types[name] = kind
        if misfits:
            raise InputError(
                f"{self.file_type} quantizes blocks of 32 weights, and 32 does not divide the rows of "
                f"{', '.join(misfits[:MOST_NAMED])}",
                remedy="Use nf4 or uniform4-channel for this model",
            )
        return types

    def quantize(self, model: PreTrainedModel, calibration: Tensor | None = None) -> PreTrainedModel:
        """See ``Quantizer.quantize``."""
        types = self.types(model)
        self._examine(model, types)
        quantized = copy.deepcopy(model)
        with torch.no_grad():
            for name, kind in types.items():
                quantized.get_parameter(name).copy_(packed(name, model.get_parameter(name), kind)[1])
        return quantized

    def quantize_shards(self, model: PreTrainedModel) -> PreTrainedModel:
        """See ``QuantizesShards``; the copy is at full size and therefore sharded as well."""
        types = self.types(model)
        self._examine(model, types)
        quantized = cast_shards(model, model.dtype)
        for name, kind in types.items():
            copied = quantized.get_parameter(name)
            values = packed(name, whole(model.get_parameter(name).detach()), kind)[1]
            share(copied).copy_(values[own_rows(copied)])
        return quantized

    def file_bytes(self, model: PreTrainedModel) -> int:
        """See ``WritesFile``."""
        return sum(size_of(weight, kind) for _, weight, kind in tensors_of(model, self.types(model)).values())

    def file_tensors(self, model: PreTrainedModel) -> dict[str, int]:
        """See ``WritesFile``."""
        return dict(Counter(kind for *_, kind in tensors_of(model, self.types(model)).values()))

    def check_file(self, model: PreTrainedModel, tokenizer: Any) -> str:
        """See ``WritesFile``: positions and activations that llama.cpp computes, a tokenizer that it has."""
        architecture_of(model)
        said = vocabulary(tokenizer, model.config.vocab_size).remark, check_metadata(model.config)
        return "; ".join(filter(None, said))

    def write_file(
        self, model: PreTrainedModel, tokenizer: Any, path: Path, provenance: Mapping[str, Any]
    ) -> None:
        """See ``WritesFile``; ``provenance`` stands in the file under ``quail.provenance``."""
        types = self.types(model)
        self._examine(model, types)
        write(model, tokenizer, path, types, FILE_TYPES[self.file_type][0], provenance)

    def _wanted(self, model: PreTrainedModel) -> dict[str, BlockType]:
        """The mixture's types by the names of the parameters, whatever their rows."""
        architecture = architecture_of(model)
        names = {
            name: gguf_name(name) or ""
            for name, parameter in model.named_parameters()
            if parameter.ndim == 2 and name.endswith(".weight")
        }
        config = model.config
        grouped = config.num_key_value_heads != config.num_attention_heads
        layers = config.num_hidden_layers
        wanted = wanted_types(self.file_type, {*names.values()}, layers, is_70b(architecture, layers, grouped))
        outside = set() if self.embeddings else {EMBEDDING, HEAD}
        return {name: wanted[known] for name, known in names.items() if known not in outside}

    def _examine(self, model: PreTrainedModel, names: Sequence[str] | Mapping[str, Any]) -> None:
        refuse_broken([name for name in names if not is_finite(whole(model.get_parameter(name).detach()))])
