"""Deployment formats whose levels follow from the weights alone, and what they deliver of an update."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from quail_lightning.comparison.bounds import Bounds
from quail_lightning.comparison.result import Delivery, Overlap
from quail_lightning.errors import InputError
from quail_lightning.functional.affine_grid import fit_grid
from quail_lightning.functional.code_books import BLOCK, CodeName, fit_code
from quail_lightning.quantization import BitsAndBytes, Quantizer, Uniform


class Fitted(Protocol):
    """A format fitted to a weight: a ``Grid``, a ``ScaledCode``."""

    def index(self, weight: Tensor) -> Tensor:
        """The bucket of every weight."""

    def value(self, index: Tensor) -> Tensor:
        """The weight that each bucket stands for."""

    def width(self, index: Tensor) -> Tensor:
        """Δ of each weight's own bucket."""


@dataclass(frozen=True)
class Format:
    """A quantizer as a function of a piece of a weight.

    Attributes:
        name: of the precision.
        quantizer: the papers' uniform grids, or NF4 and FP4.
    """

    name: str
    quantizer: Uniform | BitsAndBytes

    def unit(self, inputs: int) -> int:
        """Pieces of a weight [outputs, inputs] must be a multiple of so many values long."""
        if isinstance(self.quantizer, Uniform):
            return inputs if self.quantizer.granularity in ("channel", "group") else 1
        return BLOCK

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse what the quantizer would refuse.

        Raises:
            InputError: a group size that does not divide a weight's inputs.
        """
        size = self.quantizer.group_size if isinstance(self.quantizer, Uniform) else None
        if size is None:
            return
        if misfits := [f"{name} ({shape[-1]})" for name, shape in shapes.items() if shape[-1] % size]:
            raise InputError(
                f"group_size of {self.name} must divide the inputs of every quantized weight, not so for "
                f"{', '.join(misfits[:3])}",
                given=size,
                remedy="Leave this precision out, or write one with another group_size",
            )

    def fit(self, weight: Tensor, inputs: int, of_tensor: Bounds, of_model: Bounds) -> Fitted:
        """Fit to a piece of a weight.

        Args:
            weight: [n] float32.
            inputs: length of a row.
            of_tensor: range of the whole tensor.
            of_model: range of all quantized weights.
        """
        if isinstance(self.quantizer, BitsAndBytes):
            return cast(Fitted, fit_code(weight, cast(CodeName, self.quantizer.format)))
        by = self.quantizer
        if by.granularity in ("channel", "group"):
            rows = weight.view(-1, inputs)
            return fit_grid(rows, bits=by.bits, kind=by.grid, granularity=by.granularity, group_size=by.group_size)
        bounds = of_model if by.granularity == "global" else of_tensor
        return fit_grid(weight, bits=by.bits, kind=by.grid, granularity="global", bounds=bounds)

    def deliver(self, reference: Tensor, model: Tensor, on_reference: Fitted, on_model: Fitted) -> Delivery:
        """Compare a piece of two weights.

        Args:
            reference: w, float32 and of the shape that was fitted.
            model: w′, likewise.
            on_reference: the format fitted to w.
            on_model: the format fitted to w′.
        """
        index, own = on_reference.index(reference), on_model.index(model)
        moved = model - reference
        size, width = moved.abs(), on_reference.width(index)
        within = torch.minimum(size, width)
        # a block without range: any move leaves its bucket
        crossing = torch.where(width > 0, within / width, size.sign()).sum().item()
        arrived = on_model.value(own) - on_reference.value(index)
        return Delivery(
            Overlap(
                moved.numel(),
                same=int((index == on_reference.index(model)).sum()),
                own=int((index == own).sum()),
                crossing=crossing,
            ),
            product=_dot(moved, arrived),
            delivered=_dot(arrived, arrived),
            intended=_dot(moved, moved),
            noise=_dot(within, width),
            sum_abs=size.sum().item(),
        )


def formats(quantizers: Mapping[str, Quantizer]) -> list[Format]:
    """The quantizers as formats.

    Args:
        quantizers: by name of the precision.

    Raises:
        InputError: naming those whose levels depend on more than the weight, or that have none.
    """
    unusable = [
        name
        for name, quantizer in quantizers.items()
        if not isinstance(quantizer, Uniform | BitsAndBytes)
        or (isinstance(quantizer, BitsAndBytes) and quantizer.format == "int8")
    ]
    if unusable:
        raise InputError(
            "the buckets of a format must follow from the weights alone",
            given=", ".join(unusable),
            allowed="nf4, fp4 and the uniform grids",
            remedy="How other formats keep the forgetting is what `quail test` measures",
        )
    return [Format(name, cast("Uniform | BitsAndBytes", quantizer)) for name, quantizer in quantizers.items()]


def piece_length(wanted: int, size: int, inputs: int, used: Sequence[Format]) -> int:
    """How many values of a tensor are looked at together: whole rows and blocks, about as many as wanted."""
    unit = math.lcm(*(used_format.unit(inputs) for used_format in used))
    return min(size, max(1, wanted // unit) * unit)


def _dot(first: Tensor, second: Tensor) -> float:
    return torch.dot(first.flatten(), second.flatten()).item()
