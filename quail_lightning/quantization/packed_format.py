"""What AWQ and GPTQ share: the integer format of their weights, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from quail_lightning.errors import InputError
from quail_lightning.quantization.body import refuse_indivisible
from quail_lightning.quantization.layer_bits import bits_of_layers

PACKED_BITS = (4, 8)


@dataclass(frozen=True)
class PackedFormat:
    """Bits and scales of packed integer weights.

    Attributes:
        bits: 4 or 8.
        group_size: inputs of a row that share a scale (and zero point); None: the whole row.
        symmetric: levels around 0 without a zero point.
        layer_bits: shell-style pattern of layer names → bits of those layers; the first that matches counts.

    Raises:
        InputError: bits that compressed-tensors does not pack, or a group size below 1.
    """

    bits: int
    group_size: int | None
    symmetric: bool
    layer_bits: dict[str, int] | None = None

    def __post_init__(self) -> None:
        for bits in (self.bits, *(self.layer_bits or {}).values()):
            if bits not in PACKED_BITS:
                raise InputError(
                    "llm-compressor packs weights of 4 or 8 bits",
                    given=bits,
                    remedy="Other numbers of bits, simulated: quail_lightning.quantization.Uniform",
                )
        if self.group_size is not None and self.group_size < 1:
            raise InputError("group_size must be at least 1, or null for one scale a row", given=self.group_size)

    @property
    def widest(self) -> int:
        """Bits of the widest layers."""
        return max(self.bits, *(self.layer_bits or {}).values(), 0)

    @property
    def granularity(self) -> str:
        """``group128``, or ``channel``."""
        return "channel" if self.group_size is None else f"group{self.group_size}"

    def groups(self, linears: list[tuple[str, nn.Linear]]) -> dict[str, object]:
        """compressed-tensors' config groups for these layers, each named.

        Raises:
            InputError: the group size does not divide a layer's inputs, or a pattern matches no layer.
        """
        refuse_indivisible(
            {name: linear.in_features for name, linear in linears},
            self.group_size,
            "Set group_size in a copy of the quantizer's file to a divisor (64, 32), or null",
        )
        bits = bits_of_layers([name for name, _ in linears], self.bits, self.layer_bits)
        shared = (
            {"strategy": "channel"}
            if self.group_size is None
            else {"strategy": "group", "group_size": self.group_size}
        )
        return {
            f"bits_{own}": {
                "targets": [name for name, of_layer in bits.items() if of_layer == own],
                "weights": {"num_bits": own, "type": "int", "symmetric": self.symmetric} | shared,
            }
            for own in sorted(set(bits.values()))
        }
