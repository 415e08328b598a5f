"""Deployment formats whose levels follow from the weights alone, and what they deliver of an update."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quail_lightning.comparison.result import Delivery, Overlap
from quail_lightning.errors import InputError
from quail_lightning.quantization import Quantizer
from quail_lightning.quantization.fitted_ranges import FROM_WEIGHTS_ALONE, fitted_ranges, levels_of, refuse_misfits
from quail_lightning.quantization.protocol import Bounds, Buckets, Fitted, MixedBuckets


@dataclass(frozen=True)
class Format:
    """A precision as a function of a piece of a weight.

    Attributes:
        name: of the precision.
        buckets: its levels.
    """

    name: str
    buckets: Buckets

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse what the quantizer would refuse.

        Raises:
            InputError: naming weights that do not fit.
        """
        refuse_misfits(self.name, self.buckets, shapes)

    def of_each(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Format]:
        """The format of every weight: itself."""
        return dict.fromkeys(shapes, self)

    def ranges(self, of_tensors: Mapping[str, Bounds]) -> dict[str, Bounds]:
        """The range that each weight's levels are fitted to: its own, or that of all which share one.

        Args:
            of_tensors: the own range of every quantized weight of a model.
        """
        return fitted_ranges(self.buckets, of_tensors)

    def deliver(
        self,
        reference: Tensor,
        model: Tensor,
        on_reference: Fitted,
        on_model: Fitted,
        gradient: Tensor | None = None,
    ) -> Delivery:
        """Compare a piece of two weights.

        Args:
            reference: w, float32 and of the shape that was fitted.
            model: w′, likewise.
            on_reference: the format fitted to w.
            on_model: the format fitted to w′.
            gradient: g of the forget NLL, shaped like the weights, nats a token and unit of weight; None leaves
                the sums that need it at 0.
        """
        index, own, after = on_reference.index(reference), on_model.index(model), on_reference.index(model)
        moved = model - reference
        size, width = moved.abs(), on_reference.width(index)
        within = torch.minimum(size, width)
        crossing = (within / width).sum().item()
        if math.isnan(crossing):  # a block without range: any move leaves its bucket
            crossing = torch.where(width > 0, within / width, size.sign()).sum().item()
        quantized = on_model.value(own)
        arrived, lost = quantized - on_reference.value(index), model - quantized
        # numpy compares, masks and counts several times as fast as torch
        before, zero = index.numpy(), on_reference.zero().numpy()[:, np.newaxis]
        in_zero = [each.numpy().reshape(len(zero), -1) == zero for each in (index, after)]
        unseen = torch.from_numpy(moved.numpy().ravel() * (in_zero[0] & in_zero[1]).ravel())
        slopes = [0.0] * 3 if gradient is None else [_exact_dot(gradient, by) for by in (moved, arrived, lost)]
        return Delivery(
            Overlap(
                moved.numel(),
                same=int(np.count_nonzero(before == after.numpy())),
                own=int(np.count_nonzero(before == own.numpy())),
                crossing=crossing,
            ),
            product=_dot(moved, arrived),
            delivered=_dot(arrived, arrived),
            intended=_dot(moved, moved),
            unseen=_dot(unseen, unseen),
            rounded_off=_dot(moved, lost),
            slope=slopes[0],
            slope_delivered=slopes[1],
            slope_rounded_off=slopes[2],
            noise=_dot(within, width),
            sum_abs=size.sum().item(),
        )


@dataclass(frozen=True)
class Mixture:
    """A precision that is another format for another weight.

    Attributes:
        name: of the precision.
        buckets: the levels of each.
    """

    name: str
    buckets: MixedBuckets

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """See ``Format``."""
        refuse_misfits(self.name, self.buckets, shapes)

    def of_each(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Format]:
        """The format of every weight.

        Args:
            shapes: of all quantized weights, by their names; ``check`` let them pass.
        """
        return {name: Format(self.name, buckets) for name, buckets in self.buckets.of_each(shapes).items()}

    def ranges(self, of_tensors: Mapping[str, Bounds]) -> dict[str, Bounds]:
        """See ``Format``; every weight has its own."""
        return dict(of_tensors)


def formats(quantizers: Mapping[str, Quantizer]) -> list[Format | Mixture]:
    """The quantizers as formats.

    Args:
        quantizers: by name of the precision.

    Raises:
        InputError: naming those whose levels depend on more than the weight, or that have none.
    """
    found = usable_formats(quantizers)
    if unusable := [name for name in quantizers if name not in {used.name for used in found}]:
        raise InputError(
            "the buckets of a format must follow from the weights alone",
            given=", ".join(unusable),
            allowed=FROM_WEIGHTS_ALONE,
            remedy="How other formats keep the forgetting is what `quail test` measures",
        )
    return found


def usable_formats(quantizers: Mapping[str, Quantizer]) -> list[Format | Mixture]:
    """Those of the quantizers whose levels follow from the weights alone, as formats.

    Args:
        quantizers: by name of the precision.
    """
    found = {name: levels_of(quantizer) for name, quantizer in quantizers.items()}
    return [
        Mixture(name, buckets) if isinstance(buckets, MixedBuckets) else Format(name, buckets)
        for name, buckets in found.items()
        if buckets is not None
    ]


def piece_length(wanted: int, size: int, inputs: int, used: Sequence[Format]) -> int:
    """How many values of a tensor are looked at together: whole rows and blocks, about as many as wanted.

    The pieces are of one length, as far as that goes: a short last one costs as much Python as any other.
    """
    unit = math.lcm(*(used_format.buckets.unit(inputs) for used_format in used))
    length = size / max(1, round(size / wanted))
    return min(size, math.ceil(length / unit) * unit)


def _dot(first: Tensor, second: Tensor) -> float:
    # torch.dot adds up one after another: of 300,000 equal products it loses the fourth digit
    return (first.flatten() * second.flatten()).sum().item()


def _exact_dot(first: Tensor, second: Tensor) -> float:
    """In float64: products of a gradient with rounding errors have either sign and nearly cancel."""
    return torch.dot(first.flatten().double(), second.flatten().double()).item()
