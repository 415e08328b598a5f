"""Weights rounded to a format's levels, held in full precision: what training through the format computes with."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quail_lightning.errors import InputError
from quail_lightning.models.sharded import own_rows, share, whole
from quail_lightning.quantization.body_weights import Layout, body_weights, matrices
from quail_lightning.quantization.fitted_ranges import (
    FROM_WEIGHTS_ALONE,
    fitted_ranges,
    joined,
    levels_of,
    refuse_misfits,
)
from quail_lightning.quantization.named import load_quantizer
from quail_lightning.quantization.protocol import Bounds, Buckets, Fitted, MixedBuckets, PreTrainedModel


@dataclass(frozen=True)
class FittedMatrix:
    """A matrix and the levels that are fitted to it, whichever way its blocks lie.

    Attributes:
        matrix: [outputs, inputs] float32.
        levels: fitted to it.
        by_rows: blocks are whole rows, so that it is read row by row; else as one sequence.
    """

    matrix: Tensor
    levels: Fitted
    by_rows: bool

    def index(self, values: Tensor) -> Tensor:
        """The bucket of each of other values [outputs, inputs] for the same weights, as ``value`` takes it."""
        return self.levels.index(values.contiguous() if self.by_rows else values.flatten())

    def value(self, index: Tensor) -> Tensor:
        """[outputs, inputs] the weights that buckets stand for."""
        return self.levels.value(index).reshape(self.matrix.shape)

    def width(self, index: Tensor) -> Tensor:
        """[outputs, inputs] Δ of buckets."""
        return self.levels.width(index).reshape(self.matrix.shape)


@dataclass(frozen=True)
class WeightLevels:
    """The levels of each weight of a model's body that a format quantizes.

    Attributes:
        name: of the precision.
        levels: of all weights.
        buckets: parameter → its levels.
        layouts: parameter → how it lies.
    """

    name: str
    levels: Buckets | MixedBuckets
    buckets: Mapping[str, Buckets]
    layouts: Mapping[str, Layout]

    @classmethod
    def of(cls, name: str, model: PreTrainedModel) -> WeightLevels:
        """Those of a precision; see ``load_quantizer`` for its names.

        Args:
            name: of the precision.
            model: its shapes alone are read, so that it may lie on the meta device.

        Raises:
            InputError: no such precision, or one whose levels depend on more than the weights, that quantizes
                nothing, or that does not fit the architecture.
        """
        quantizer = load_quantizer(name)
        found = levels_of(quantizer)
        if found is None:
            raise InputError(
                "levels that weights are rounded to for their gradients must follow from the weights alone",
                given=name,
                allowed=FROM_WEIGHTS_ALONE,
            )
        targets = set(quantizer.targets(model))
        if not targets:
            raise InputError(f"{name} quantizes no weight of the body", remedy="Name a format that does")
        body = {each.name: each for each in body_weights(model) if each.name in targets}
        shapes = {each: tuple(matrices(weight.parameter, weight.layout)[0].shape) for each, weight in body.items()}
        refuse_misfits(name, found, shapes)
        of_each = found.of_each(shapes) if isinstance(found, MixedBuckets) else dict.fromkeys(shapes, found)
        return cls(name, found, of_each, {each: weight.layout for each, weight in body.items()})

    def fitted(
        self, model: PreTrainedModel, names: Collection[str] | None = None
    ) -> Iterator[tuple[str, Tensor, list[FittedMatrix]]]:
        """Each weight's name, a copy of it in float32, and its matrices with the levels that are fitted to them.

        Args:
            model: of a sharded one all processes must call.
            names: of the weights that are wanted; None: all.
        """
        of_tensor = {name: _bounds(whole(model.get_parameter(name).detach())) for name in self.buckets}
        of_model = joined(of_tensor.values())
        of_tensor = fitted_ranges(self.levels, of_tensor)
        for name, buckets in self.buckets.items():
            if names is not None and name not in names:
                continue
            weight = whole(model.get_parameter(name).detach()).float().clone()
            parts = matrices(weight, self.layouts[name])
            own = [of_tensor[name] if len(parts) == 1 else _bounds(part) for part in parts]
            fits = [_fitted(part, buckets, bounds, of_model) for part, bounds in zip(parts, own, strict=True)]
            yield name, weight, fits

    def rounded(self, model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
        """Each weight's name and its rounded values, float32 [...] of the whole weight, one weight at a time.

        Args:
            model: of a sharded one all processes must call.
        """
        for name, weight, parts in self.fitted(model):
            for part in parts:
                part.matrix.copy_(part.value(part.index(part.matrix)))
            yield name, weight


def replace_by_rounded(model: PreTrainedModel, levels: WeightLevels) -> None:
    """Give a model the rounded weights, in place."""
    with torch.no_grad():
        for name, weight in levels.rounded(model):
            _put(model.get_parameter(name), weight)


@contextmanager
def rounded_weights(model: PreTrainedModel, levels: WeightLevels) -> Iterator[str]:
    """Inside, a model has the rounded weights; afterwards what it had, bit for bit. Gives the format's name.

    What is differentiated inside is ∂L/∂Q(w), which the straight-through estimator takes for ∂L/∂w.

    Args:
        model: of a sharded one all processes must call.
        levels: of the format.
    """
    with restored(model, levels.buckets):
        replace_by_rounded(model, levels)
        yield levels.name


@contextmanager
def restored(model: PreTrainedModel, names: Iterable[str]) -> Iterator[None]:
    """Afterwards parameters have the values that they have now, bit for bit."""
    kept = {name: share(model.get_parameter(name).detach()).clone() for name in names}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, values in kept.items():
                share(model.get_parameter(name).detach()).copy_(values)


def _put(parameter: nn.Parameter, values: Tensor) -> None:
    share(parameter.detach()).copy_(values[own_rows(parameter)])


def _fitted(matrix: Tensor, buckets: Buckets, of_tensor: Bounds, of_model: Bounds) -> FittedMatrix:
    inputs = matrix.shape[-1]
    by_rows = buckets.unit(inputs) == inputs
    piece = matrix.contiguous() if by_rows else matrix.flatten()
    return FittedMatrix(matrix, buckets.fit(piece, inputs, of_tensor, of_model), by_rows)


def _bounds(weight: Tensor) -> Bounds:
    low, high = torch.aminmax(weight)
    return low.item(), high.item()
