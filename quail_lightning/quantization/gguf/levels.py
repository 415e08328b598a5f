"""The levels of a GGUF mixture, which the name of a weight decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from quail_lightning.functional.ggml_blocks import BlockLevels, BlockType, levels
from quail_lightning.quantization.gguf.kernels import pack
from quail_lightning.quantization.gguf.mixture import FileType, fitting_type, is_70b, wanted_types
from quail_lightning.quantization.gguf.names import gguf_name, layer_count
from quail_lightning.quantization.protocol import Bounds

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class BlockBuckets:
    """Those of one block type; see ``Buckets``."""

    kind: BlockType

    def unit(self, inputs: int) -> int:
        """Rows."""
        return inputs

    def misfits(self, shapes: Shapes) -> list[str]:
        """Weights whose rows are cut into no whole number of blocks."""
        inputs = {name: shape[-1] for name, shape in shapes.items()}
        return [f"{name} ({count} inputs)" for name, count in inputs.items() if not fitting_type(self.kind, count)]

    def fit(self, weight: Tensor, inputs: int, of_tensor: Bounds, of_model: Bounds) -> BlockLevels:
        """By the scales that llama.cpp's kernel finds."""
        rows = weight.reshape(-1, inputs).cpu()  # where the kernels are
        return levels(rows, pack(rows, self.kind), self.kind).to(weight.device)


@dataclass(frozen=True)
class MixtureBuckets:
    """Those of a file type; see ``MixedBuckets``."""

    file_type: FileType

    def misfits(self, shapes: Shapes) -> list[str]:
        """Weights that GGUF has no name for, or whose rows no block fits."""
        found = [f"{name} (no tensor of llama.cpp's)" for name in shapes if gguf_name(name) is None]
        return found or BlockBuckets("Q8_0").misfits(shapes)

    def of_each(self, shapes: Shapes) -> dict[str, BlockBuckets]:
        """The levels of every weight, where ``misfits`` names none."""
        names = {name: known for name in shapes if (known := gguf_name(name)) is not None}
        layers = layer_count(names.values())
        # what the quantizer takes from the config; models with 80 layers that are no Llama are not told apart
        rows = {known: shapes[name][0] for name, known in names.items()}
        grouped = rows.get("blk.0.attn_k.weight") != rows.get("blk.0.attn_q.weight")
        wanted = wanted_types(self.file_type, {*names.values()}, layers, is_70b("llama", layers, grouped))
        kinds = {name: fitting_type(wanted[known], shapes[name][-1]) for name, known in names.items()}
        return {name: BlockBuckets(kind) for name, kind in kinds.items() if kind is not None}
